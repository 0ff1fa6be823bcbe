"""A pretext task small enough for tests of the loop, with everything a checkpoint must not forget: batch
statistics, dropout, an EMA teacher, a queue, a counter; and a dataset with unreadable samples on request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from unlabel import momentum, seeds
from unlabel.data import Dataset, Draw
from unlabel.errors import BadSample
from unlabel.recipe import Execution, Recipe, Ref, Stage
from unlabel.task import Batch, Progress, Sample, Task, Transform

WIDTH = 6


class Noises(Dataset):
    """Numbers hashed from the index; those in `bad` cannot be read, those in `poison` are not finite."""

    def __init__(self, *, count: int = 50, bad: Sequence[int] = (), poison: Sequence[int] = ()) -> None:
        self.count, self.bad, self.poison = count, frozenset(bad), frozenset(poison)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadSample("torn")
        values = seeds.generator(3, index).normal(size=WIDTH).astype(np.float32)
        return {"x": values * np.float32("inf") if index in self.poison else values}

    def name_of(self, index: int) -> str:
        return f"noise/{index}"


class Shift:
    """A random transform, so that order and epoch matter."""

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        return {"x": sample["x"] + np.float32(0.1) * draw.rng.normal(size=WIDTH).astype(np.float32)}


class Echo(Task):
    """Predict an EMA teacher's output from a noisy input.

    Args:
        encoder: linear layer.
        dropout: probability of dropping a hidden unit.
    """

    def __init__(self, encoder: nn.Module, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.BatchNorm1d(WIDTH), nn.Dropout(dropout), nn.Linear(WIDTH, WIDTH))
        self.teacher = momentum.teacher(self.encoder)
        self.queue = momentum.Queue(16, WIDTH)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.entered: list[tuple[int, bool]] = []

    def transform(self) -> Transform:
        return Shift()

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        predicted = self.head(self.encoder(batch["x"] + 0.1 * torch.randn_like(batch["x"])))
        target = self.teacher(batch["x"]) + 0.01 * self.queue.rows.mean(0)
        return {"loss": (predicted - target).square().mean(), "size": predicted.abs().mean()}

    def encode(self, batch: Batch) -> Tensor:
        return self.encoder(batch["x"])

    def enter_stage(self, stage: Stage) -> None:
        for parameter in self.encoder.parameters():
            parameter.requires_grad_(stage.name != "head only")

    def enter_epoch(self, progress: Progress, resumed: bool) -> None:
        self.entered.append((progress.epoch, resumed))

    @torch.no_grad()
    def after_update(self, progress: Progress) -> None:
        momentum.update(self.teacher, self.encoder, 0.9)
        self.queue.enqueue(next(self.encoder.parameters())[:3].detach())
        self.updates += 1


class Linear(nn.Linear):
    """The encoder of `Echo`."""

    dim = WIDTH

    def __init__(self) -> None:
        super().__init__(WIDTH, WIDTH)


def recipe(**fields: object) -> Recipe:
    """Two stages of different optimizers over 50 samples, in fp32."""
    stages = [
        Stage(name="head only", steps=7, batch_size=8, optimizer="sgd", lr=0.1, warmup_steps=2),
        Stage(name="all", steps=13, batch_size=12, accumulate=2, optimizer="adamw", lr=0.01),
    ]
    chosen = Recipe(task=Ref("test/echo"), encoder=Ref("test/linear"), dataset=Ref("test/noises"), stages=stages)
    here = {"save_every": 3, "log_every": 1, "execution": Execution(workers=0)}  # forking costs more than these runs
    return chosen.model_copy(update={**here, **fields})
