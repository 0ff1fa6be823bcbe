"""Pretext tasks for tests of several on one encoder: gradients that are known, and everything that may go wrong."""

from __future__ import annotations

import numpy as np
import torch
from echo import WIDTH, Echo, Linear
from torch import Tensor, nn

from unlabel.data import Draw
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.joint import Joint
from unlabel.recipe import Stage
from unlabel.task import Batch, Sample, Task, Transform


class Vector(nn.Module):
    """An encoder that is its weights."""

    def __init__(self, *, dim: int = 3) -> None:
        super().__init__()
        self.dim = dim
        self.weight = nn.Parameter(torch.zeros(dim))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


class Pull(Task):
    """A loss whose gradient on the encoder is known: a direction, times a batch mean.

    Args:
        encoder: vector.
        direction: the gradient at a batch mean of 1.
        scale: of the whole loss.
    """

    evaluations = ("knn",)

    def __init__(self, encoder: Vector, *, direction: tuple[float, ...] = (1.0, 0.0, 0.0), scale: float = 1.0) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale
        self.head = nn.Parameter(torch.ones(1))
        self.register_buffer("direction", torch.tensor(direction))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        along = (self.encoder.weight * self.direction).sum() * batch["x"].mean()
        return {"loss": self.scale * (along + self.head.sum() + 5), "along": along}

    def encode(self, batch: Batch) -> Tensor:
        return batch["x"]


class Shaped(Pull):
    """A gradient on the encoder whose direction depends on the samples: theirs, times `direction` number by number."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        along = (self.encoder.weight * self.direction * batch["x"].mean(dim=0)).sum()
        return {"loss": along + self.head.sum() + 5}


class Whole(Pull):
    """Encodes by the whole weight, and has two losses."""

    evaluations = ("linear_probe", "knn")
    gathers = False

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss_near": super().loss(batch)["loss"], "loss_far": self.head.sum() ** 2}


class OwnStep(Pull):
    """Updates in its own way."""

    def training_step(self, *_: object) -> dict[str, Tensor]:
        return {}


class OwnOptimizers(Pull):
    """Chooses its optimizers."""

    def optimizers(self, stage: Stage) -> dict[str, torch.optim.Optimizer]:
        return {"main": torch.optim.SGD(self.parameters(), lr=0.1)}


class Drift(Echo):
    """A second task with everything a checkpoint must not forget, and another transform.

    Args:
        encoder: linear layer.
        dropout: probability of dropping a hidden unit.
        scale: of the noise in its view.
    """

    def __init__(self, encoder: nn.Module, *, dropout: float = 0.1, scale: float = 0.5) -> None:
        super().__init__(encoder, dropout=dropout)
        self.scale = scale

    def transform(self) -> Transform:
        return Louder(self.scale)


class Louder:
    """Another random transform, which changes what it is given."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        sample["x"] = sample["x"] + np.float32(self.scale) * draw.rng.normal(size=WIDTH).astype(np.float32)
        return sample


class Raw(Echo):
    """Sees samples as they are, and draws from their keys."""

    def transform(self) -> None:
        return None


class Reinitialising(Echo):
    """Gives the encoder first weights of its own."""

    def __init__(self, encoder: Linear) -> None:
        nn.init.constant_(encoder.weight, 7.0)
        super().__init__(encoder)


class Picky(Echo):
    """Refuses every encoder."""

    def __init__(self, encoder: nn.Module) -> None:
        raise UsageError(f"needs an encoder with ears, not {type(encoder).__name__}")


def shaped(combine: str, samples: list[list[float]]) -> tuple[list[float], list[float]]:
    """The encoder after an update on these samples, or on this process's half of them, and the parts' weights."""
    encoder, engine = Vector(), Engine("cpu", "fp32")
    directions = {"a": (1.0, 0.2, 0.1), "b": (-0.3, 1.0, 0.5)}
    parts = {label: Shaped(encoder, direction=direction) for label, direction in directions.items()}
    task = Joint(
        {"encoder": encoder}, parts, combine=combine, normalise="none"
    )  # two of equal length always share equally
    stage = Stage(steps=1, optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0).resolved(100)
    own = torch.tensor(samples).chunk(engine.world)[engine.rank]
    metrics = task.training_step([{"x": own, "key": torch.arange(len(own))}], task.optimizers(stage), engine, stage)
    return encoder.weight.tolist(), [float(metrics.get(f"alpha_{label}", 0.0)) for label in parts]
