"""Strict: a task for one encoder only."""

from __future__ import annotations

from torch import Tensor, nn

from toysonar import echo
from unlabel import Recipe, Ref, Task, UsageError


class Deep(nn.Sequential):
    """Two layers."""

    dim = 4

    def __init__(self) -> None:
        super().__init__(echo.Linear(8), nn.Linear(8, 4))


class Strict(Task):
    """Needs two layers."""

    def __init__(self, encoder: Deep):
        super().__init__()
        if not isinstance(encoder, Deep):
            raise UsageError(
                f"toy/strict reads the second layer, which {type(encoder).__name__} lacks; use --encoder toy/deep"
            )
        self.encoder = encoder

    def loss(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"loss": self.encoder(batch["wave"]).square().mean()}

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.encoder(batch["wave"])
        return features


def tiny() -> Recipe:
    """A few updates."""
    return echo.tiny().model_copy(update={"task": Ref("toy/strict"), "encoder": Ref("toy/deep")})
