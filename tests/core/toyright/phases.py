"""Phases: first the decoder alone, then everything, each with an optimizer of its own; all pings at once.

Nobody, "Phases", 2032. Predicts each ping from its difference to the mean of all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlabel import Recipe, Ref, Stage, Task
from unlabel.engine import Engine


class Phases(Task):
    """Two phases.

    Args:
        encoder: any.
        length: numbers a ping has; None: as the data say.
    """

    evaluations = ("right/spread",)
    gathers = False

    def __init__(self, encoder: nn.Module, *, length: int | None = None):
        super().__init__()
        self.encoder = encoder
        self.decoder = nn.Linear(encoder.dim, length)

    def enter_stage(self, stage: Stage) -> None:
        self.encoder.requires_grad_(stage.name != "decoder alone")

    def optimizers(self, stage: Stage) -> dict[str, Optimizer]:
        parts = {"decoder": self.decoder, "encoder": self.encoder}
        learning = {name: part for name, part in parts.items() if any(p.requires_grad for p in part.parameters())}
        return {name: torch.optim.SGD(part.parameters(), lr=0.1, momentum=0.9) for name, part in learning.items()}

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        features = self.encoder(batch["wave"] - batch["mean"])
        return {"loss": (self.decoder(features) - batch["wave"]).square().mean()}

    def training_step(
        self, batches: list[dict[str, Tensor]], optimizers: dict[str, Optimizer], engine: Engine, stage: Stage
    ) -> dict[str, Tensor]:
        terms = self.loss(batches[0])
        engine.backward(terms["loss"])
        for optimizer in optimizers.values():
            engine.update(self, optimizer, stage)
        return {"loss": terms["loss"].detach()}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.encoder(batch["wave"] - batch["mean"])
        return features


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train right/phases --recipe tiny``"""
    return Recipe(
        task=Ref("right/phases"),
        encoder=Ref("right/open"),
        dataset=Ref("right/crowd"),
        stages=[
            Stage(name="decoder alone", epochs=2, batch_size="all", lr=0.1),
            Stage(name="all", epochs=4, batch_size="all", lr=0.1, weights={"loss": 2.0}),
        ],
    )
