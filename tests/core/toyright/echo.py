"""Echo: hear a ping with gaps, say what was there, and agree with who heard it before.

Nobody, "Echoes", 2031, arXiv 3101.00001. Predicts the wave from its audible part.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from toyright.pings import LENGTH
from unlabel import Progress, Recipe, Ref, Stage, Task, momentum, seeds
from unlabel.data import Draw


class Quiet:
    """Multiplies a wave by a random loudness."""

    def __call__(self, sample: dict[str, np.ndarray], draw: Draw) -> dict[str, np.ndarray]:
        return {"wave": sample["wave"] * np.float32(draw.rng.uniform(0.8, 1.2))}


class Echo(Task):
    """Fill in gaps.

    Args:
        encoder: any.
        ratio: share of the wave that is silenced, in (0, 1).
        decay: how slowly the teacher follows.
    """

    evaluations = ("right/spread", "knn")

    def __init__(self, encoder: nn.Module, *, ratio: float = 0.3, decay: float = 0.9):
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Linear(encoder.dim, LENGTH)
        self.teacher = momentum.teacher(encoder)
        self.ratio, self.decay = ratio, decay
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def transform(self) -> Quiet:
        return Quiet()

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        audible = seeds.uniform(batch["key"], (LENGTH,)) >= self.ratio
        features = self.encoder(batch["wave"] * audible)
        error = (self.decoder(features) - batch["wave"]).square().mean()
        apart = (features - self.teacher(batch["wave"])).square().mean()
        return {"loss_error": error, "loss_apart": 0.1 * apart, "loudness": batch["wave"].abs().mean()}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.encoder(batch["wave"])
        return features

    def after_update(self, progress: Progress) -> None:
        self.updates += 1
        momentum.update(self.teacher, self.encoder, self.decay)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train right/echo --recipe tiny``"""
    return Recipe(
        task=Ref("right/echo"),
        encoder=Ref("right/linear", dim=4),
        dataset=Ref("right/pings"),
        stages=[Stage(steps=5, batch_size=8, lr=1e-2)],
    )


def paper() -> Recipe:
    """Everything that was ever heard. Not run by us. ``unlabel train right/echo --recipe paper --data SEA``"""
    return tiny().model_copy(update={"dataset": Ref("right/files"), "encoder": Ref("right/linear", dim=4096)})
