"""What a task's `encode` makes of a few samples, output by output, however many rows a sample has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from unlabel import seeds
from unlabel.data import Dataset
from unlabel.evaluate.features import Frozen, evaluating
from unlabel.task import Batch, Rows, Task
from unlabel.testing.compare import relative
from unlabel.testing.tiny_recipe import TinyRecipe

__all__ = ["Encoding", "apart"]

FEW = 8
"""Samples that are encoded and compared."""


class Encoding(TinyRecipe):
    """A task whose outputs are looked at."""

    def outputs(self, task: Task) -> dict[str, str]:
        """The task's outputs by name ("": its only one) -> what a call of it is called."""
        return {name: f"encode(of={name!r})" for name in task.outputs} or {"": "encode()"}

    def encoded_batches(
        self, task: Task, order: Sequence[int] | None = None, size: int = FEW, epoch: int = 0
    ) -> Iterator[Batch]:
        """Batches as an evaluation reads them; of all samples where they are encoded together."""
        frozen = Frozen(task, self.dataset if self.dataset.split("train") else _Undivided(self.dataset), self.engine)
        if self.samples.full_batch:
            yield from frozen.batches("train", task.eval_transform(), epoch=epoch)
            return
        order = list(range(min(FEW, len(self.samples)))) if order is None else order
        yield from frozen.batches("train", task.eval_transform(), order=order, batch_size=size, epoch=epoch)

    def encode(self, task: Task, batch: Batch, of: str = "") -> Tensor | Rows:
        """One output of a batch, in evaluation mode."""
        with evaluating(task), torch.no_grad():
            return task.representation(batch, of)

    def features(
        self, task: Task, order: Sequence[int] | None = None, size: int = FEW, epoch: int = 0, seed: int = 0
    ) -> dict[str, Tensor]:
        """Every output of a few samples, in evaluation mode; those of all batches in the order of the samples."""
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for batch in self.encoded_batches(task, order, size, epoch):
            for name, call in self.outputs(task).items():
                seeds.seed(seed)
                rows = self.encode(task, batch, name)
                features, sample = rows[:2] if isinstance(rows, Rows) else (rows, torch.arange(len(rows)))
                parts.setdefault(call, []).append((features, batch["index"][sample]))
        return {call: _in_order(part) for call, part in parts.items()}

    def misshapen(self, task: Task) -> str:
        """What is wrong with the form of an output, in words; empty if nothing is."""
        for name, call in self.outputs(task).items():
            width = self._width(task, name)
            for batch in self.encoded_batches(task):
                rows = self.encode(task, batch, name)
                features = rows.features if isinstance(rows, Rows) else rows
                count, shape = len(batch["index"]), tuple(features.shape)
                if isinstance(rows, Rows) and (wrong := _misplaced(rows, count)):
                    return f"{call} returns Rows {wrong}"
                if features.dim() != 2 or (not isinstance(rows, Rows) and len(features) != count):
                    return f"{call} returns shape {shape} for {count} samples; expected ({count}, dim)"
                if width is not None and shape[1] != width:
                    return f"{call} returns {shape[1]} numbers a sample, but `dim` is {width}: correct one of them"
                if not features.is_floating_point() or not features.isfinite().all():
                    return f"{call} returns {features.dtype} with NaN or infinity in it: finite floats are expected"
        return ""

    def _width(self, task: Task, output: str) -> int | None:
        """How wide an output should be, if the task says so, or the encoder of its name, or the only one."""
        encoders = task.encoders()
        encoder = encoders.get(output) if output else next(iter(encoders.values())) if len(encoders) == 1 else None
        for owner in (task, encoder):
            if isinstance(width := getattr(owner, "dim", None), int):
                return width
        return None


def apart(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    """The largest difference of two sets of features, as a share of the largest one of its output."""
    return max(relative(left[name], right[name]) for name in left)


def _in_order(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    features, samples = (torch.cat(entries) for entries in zip(*parts, strict=True))
    return features[samples.argsort(stable=True)]


def _misplaced(rows: Rows, count: int) -> str:
    """What is wrong with the places and labels of rows of `count` samples; empty if nothing is."""
    sizes = {len(part) for part in rows if part is not None}
    if rows.sample.dtype != torch.int64 or rows.sample.dim() != 1 or len(sizes) > 1:
        shapes = ", ".join(f"{part.dtype} {tuple(part.shape)}" for part in rows if part is not None)
        return f"of {shapes}: as many int64 places (and labels) as features are expected"
    if len(rows.sample) and not 0 <= int(rows.sample.min()) <= int(rows.sample.max()) < count:
        return f"with places from {rows.sample.min()} to {rows.sample.max()} in a batch of {count} samples"
    return ""


class _Undivided(Dataset):
    """A dataset that has no parts, as its own training part."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def split(self, name: str) -> Dataset | None:
        return self.dataset if name == "train" else None
