"""Echo: hear a ping with gaps, say what was there.

Nobody, Nowhere, "Echoes", 2031, arXiv 3101.00001. Predicts the whole wave from the audible part.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from toysonar.pings import LENGTH
from unlabel import Recipe, Ref, Stage, Task, UsageError, seeds
from unlabel.recipe import Execution


class Echo(Task):
    """Fill in gaps.

    Args:
        encoder: any.
        ratio: share of the wave that is silenced,
            in (0, 1).
        mode: error that is averaged.
        fail_at: raise at this update, to see what happens then.
        weights: width of a layer that does nothing, to make checkpoints large.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        ratio: float = 0.5,
        mode: Literal["square", "absolute"] = "square",
        fail_at: int | None = None,
        weights: int = 1,
    ):
        super().__init__()
        if not 0 < ratio < 1:
            raise UsageError(f"task.ratio={ratio} is outside (0, 1)")
        self.encoder = encoder
        self.decoder = nn.Linear(encoder.dim, LENGTH)
        self.idle = nn.Linear(1, weights, bias=False)
        self.ratio, self.mode, self.fail_at = ratio, mode, fail_at
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.fail_at is not None and self.updates >= self.fail_at:
            raise KeyError("no echo")
        audible = seeds.uniform(batch["key"], (LENGTH,)) >= self.ratio
        difference = self.decoder(self.encoder(batch["wave"] * audible)) - batch["wave"]
        error = difference.square() if self.mode == "square" else difference.abs()
        return {"loss": error.mean() + 0 * self.idle.weight.sum()}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.encoder(batch["wave"])
        return features

    def after_update(self, progress: object) -> None:
        self.updates += 1


class Linear(nn.Linear):
    def __init__(self, dim: int):
        super().__init__(LENGTH, dim)
        self.dim = dim


def linear(*, dim: int = 8) -> Linear:
    """One layer.

    Args:
        dim: width.
    """
    return Linear(dim)


def tiny() -> Recipe:
    """Twelve updates; hears nothing yet. ``unlabel train toy/echo --recipe tiny``"""
    return Recipe(
        task=Ref("toy/echo"),
        encoder=Ref("toy/linear", dim=4),
        dataset=Ref("toy/pings"),
        stages=[Stage(steps=12, batch_size=8, lr=1e-2)],
        save_every=4,
        monitor_every=6,
        log_every=1,
        execution=Execution(precision="fp32", workers=0),
    )


quick = tiny
