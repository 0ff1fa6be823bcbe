"""A small real dataset and task for the tests of evaluations: Gaussian blobs, and an encoder with everything that
evaluation must not disturb (dropout, batch statistics, layers, a frozen part)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from unlabel import seeds
from unlabel.data import Dataset, Draw, Subset
from unlabel.engine import Engine
from unlabel.errors import BadSample
from unlabel.evaluate.features import Frozen
from unlabel.task import Batch, Sample, Task, Transform

CLASSES = 4
WIDTH = 8


class Blobs(Dataset):
    """Points around one centre a class; the last `held_out` are the test part. Samples in `bad` are unreadable."""

    def __init__(self, count: int = 240, held_out: int = 80, spread: float = 0.3, bad: Sequence[int] = ()) -> None:
        self.count, self.held_out, self.bad = count, held_out, frozenset(bad)
        draw = seeds.generator(1)
        centres = draw.normal(size=(CLASSES, WIDTH))
        self.labels = np.arange(count) % CLASSES
        self.points = (centres[self.labels] + spread * draw.normal(size=(count, WIDTH))).astype(np.float32)
        self.classes = tuple("abcd")

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise BadSample("torn")
        return {"x": self.points[index], "label": int(self.labels[index])}

    def name_of(self, index: int) -> str:
        return f"point {index}"

    def split(self, name: str) -> Dataset | None:
        border = self.count - self.held_out
        if name == "train":
            return Subset(self, np.arange(border))
        return Subset(self, np.arange(border, self.count)) if self.held_out else None


class Halve:
    """An evaluation transform, recognisable in its result."""

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        return {**sample, "x": sample["x"] / 2}


class Jitter:
    """A fine-tuning transform that draws from its generator."""

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        return {**sample, "x": sample["x"] / 2 + 0.05 * draw.rng.normal(size=WIDTH).astype(np.float32)}


class Points(Task):
    """Encodes points by two layers; its teacher is a part that stays in evaluation mode and does not learn."""

    def __init__(self) -> None:
        super().__init__()
        seeds.seed(7)
        self.blocks = nn.ModuleList([nn.Linear(WIDTH, 16), nn.Linear(16, 16)])
        self.norm = nn.BatchNorm1d(16)
        self.dropout = nn.Dropout(0.5)
        self.teacher = nn.Dropout(0.5).eval()
        self.layers = 2

    def layer_of(self, name: str) -> int:
        return 1 + int(name.split(".")[1]) if name.startswith("blocks.") else self.layers + 1

    def encode(self, batch: Batch) -> Tensor:
        assert "label" not in batch
        hidden = torch.relu(self.norm(self.blocks[0](batch["x"])))
        return self.blocks[1](self.dropout(hidden))

    def eval_transform(self) -> Transform:
        return Halve()

    def finetune_transform(self) -> Transform:
        return Jitter()


def frozen(dataset: Dataset | None = None, task: Task | None = None, **options: object) -> Frozen:
    return Frozen(task or Points(), dataset or Blobs(), Engine("cpu", "fp32"), **options)
