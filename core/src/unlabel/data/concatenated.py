"""Several datasets as one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlabel.data.dataset import Dataset, collate
from unlabel.data.order import Order
from unlabel.errors import UsageError
from unlabel.show.media import Media
from unlabel.task import Batch, Sample, Transform

__all__ = ["Concatenated"]


class Concatenated(Dataset):
    """Several datasets as one, the samples of the first before those of the second.

    A batch of one dataset alone is made by that dataset's `collate`, so datasets of different fields go together where
    each batch is of one, see `Mixture`. A batch of several is made by the `collate` they have in common, if there is
    one. What stands in for a bad sample is of the same dataset.

    Args:
        datasets: in this order.
        order: makes the order of the training samples from how many each dataset has: `Mixture`, or
            ``functools.partial(Mixture, shares=(0.7, 0.3))``. Default: permutations of all.

    Attributes:
        labels: those of all, -1 where a dataset has none; None if none has, or if their classes differ.
    """

    def __init__(self, datasets: Sequence[Dataset], order: Callable[[Sequence[int]], Order] | None = None):
        self.datasets = list(datasets)
        counts = [len(dataset) for dataset in self.datasets]
        self.starts = np.cumsum([0, *counts])
        self.full_batch = any(dataset.full_batch for dataset in self.datasets)  # type: ignore[misc]  # of its class
        self.make_order, self._order = order, None if order is None else order(counts)
        labelled = [dataset for dataset in self.datasets if dataset.labels is not None]
        if labelled and all(dataset.classes == labelled[0].classes for dataset in labelled):
            self.classes = labelled[0].classes
            self.labels = np.concatenate([_labels(dataset) for dataset in self.datasets])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def part_of(self, index: int) -> tuple[Dataset, int]:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        part, first = self.datasets[number].part_of(index - int(self.starts[number]))
        return part, first + int(self.starts[number])

    def __getitem__(self, index: int) -> Sample:
        part, first = self.part_of(index)
        return part[index - first]

    def raw(self, index: int) -> Any:
        part, first = self.part_of(index)
        return part.raw(index - first)

    def name_of(self, index: int) -> str:
        part, first = self.part_of(index)
        return part.name_of(index - first)

    def for_transform(self, transform: Transform | None) -> Concatenated:
        return Concatenated([dataset.for_transform(transform) for dataset in self.datasets], self.make_order)

    def split(self, name: str) -> Dataset | None:
        """That part of every dataset that has one; None if none has. The order is that of training."""
        parts = [part for part in (dataset.split(name) for dataset in self.datasets) if part is not None]
        return Concatenated(parts, self.make_order if name == "train" else None) if parts else None

    def info(self) -> dict[str, Any]:
        return {"samples": len(self), "datasets": [dataset.info() for dataset in self.datasets]}

    def prepare(self) -> None:
        for dataset in self.datasets:
            dataset.prepare()

    def assets(self) -> Mapping[str, Path]:
        """Every dataset's, as ``NUMBER/name``."""
        parts = enumerate(dataset.assets() for dataset in self.datasets)
        return {f"{number}/{name}": path for number, entries in parts for name, path in entries.items()}

    def use_assets(self, assets: Mapping[str, Path]) -> None:
        for number, dataset in enumerate(self.datasets):
            prefix = f"{number}/"
            own = {name.removeprefix(prefix): path for name, path in assets.items() if name.startswith(prefix)}
            dataset.use_assets(own)

    def show(self, sample: Sample) -> Media | np.ndarray | None:
        """As the first dataset shows it that shows anything of it."""
        shown = (dataset.show(sample) for dataset in self.datasets)
        return next((media for media in shown if media is not None), None)

    def order(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        return None if self._order is None else self._order(number, size, seed)

    def collate(self, samples: list[Sample]) -> Batch:
        first = self.datasets[0]
        common = all(type(dataset).collate is type(first).collate for dataset in self.datasets)
        return first.collate(samples) if common else collate(samples)

    def table(self) -> Batch | None:
        """All tables as one, where every dataset has one with the same fields."""
        tables = [table for table in (dataset.table() for dataset in self.datasets) if table is not None]
        if len(tables) < len(self.datasets) or any(table.keys() != tables[0].keys() for table in tables):
            return None
        return {name: torch.cat([table[name] for table in tables]) for name in tables[0]}

    def context(self) -> Batch:
        return _merged((dataset.context() for dataset in self.datasets), "share")

    def implies(self) -> dict[str, Any]:
        return _merged((dataset.implies() for dataset in self.datasets), "imply")


def _labels(dataset: Dataset) -> np.ndarray:
    return np.full(len(dataset), -1, dtype=np.int64) if dataset.labels is None else dataset.labels


def _merged(parts: Iterable[dict[str, Any]], verb: str) -> dict[str, Any]:
    """What datasets say together; UsageError if two say different things about the same."""
    whole: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name in whole and whole[name] is not value and (verb == "share" or whole[name] != value):
                raise UsageError(f"two of the datasets {verb} another {name!r}: they cannot be used as one")
            whole[name] = value
    return whole
