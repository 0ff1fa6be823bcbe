"""How `unlabel.Frozen` reads samples, inside a loader's workers, and gathers the rows that come of their batches."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel import data, seeds
from unlabel.data import Dataset
from unlabel.data.draw import unlabelled
from unlabel.errors import UsageError
from unlabel.show import thumbnails
from unlabel.task import Batch, Rows, Sample, Transform

__all__ = ["Gathered", "SampleReader", "flatten", "raw"]


def flatten(values: Tensor, width: int = 3072) -> Tensor:
    """Flatten each sample to at most `width` numbers, averaging neighbours along its longest axes as needed.

    Args:
        values: (N, ...), any dtype.
        width: the longest axis is halved until no more than so many numbers are left.

    Returns:
        float32, (N, at most width).
    """
    values = values.to(torch.float32)
    while values[0].numel() > width:
        longest = 1 + max(range(values.ndim - 1), key=lambda axis: values.shape[1 + axis])
        moved = values.movedim(longest, -1)
        rows = moved.reshape(len(values), -1, moved.shape[-1])
        halved = F.adaptive_avg_pool1d(rows, (moved.shape[-1] + 1) // 2)
        values = halved.reshape(*moved.shape[:-1], -1).movedim(-1, longest)
    return values.flatten(1)


def raw(batch: Batch) -> Tensor:
    """The fields of a batch as they are, each by `flatten`, side by side: float32, (N, D)."""
    fields = [flatten(value) for name, value in sorted(batch.items()) if name not in ("key", "index")]
    return torch.cat(fields, dim=1)


class SampleReader:
    """Reads and transforms samples inside a loader's worker; a bad sample comes back as the reason why."""

    def __init__(self, dataset: Dataset, transform: Transform | None, seed: int, epoch: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.epoch = epoch
        self.shown: frozenset[int] = frozenset()
        """Samples of which a thumbnail is wanted."""

    def __getitem__(self, index: int) -> tuple[int, Sample | str, Any]:
        try:
            sample = self.dataset[index]
        except UsageError:  # a ValueError too, but about what was asked for and not about this sample
            raise
        except data.UNREADABLE as error:
            return index, data.reason(error), None
        thumbnail = thumbnails.thumbnail(self.dataset, sample) if index in self.shown else None
        if self.transform is not None:
            seeds.seed(self.seed, self.epoch, index)  # for transforms of libraries that draw from torch's generator
            part, first = self.dataset.part_of(index)
            beside = data.others(part, self.seed, self.epoch, index - first)
            rng = seeds.generator(self.seed, self.epoch, index)
            sample = self.transform(sample, data.Draw(rng, self.epoch, others=beside))
        return index, unlabelled(sample), thumbnail

    def collate(
        self, items: list[tuple[int, Sample | str, Any]]
    ) -> tuple[Batch, list[tuple[int, str]], dict[int, Any]]:
        """Batch the samples that could be read, list (index, reason) of the others, and thumbnails by index."""
        good = [(index, sample) for index, sample, _ in items if not isinstance(sample, str)]
        bad = [(index, reason) for index, reason, _ in items if isinstance(reason, str)]
        thumbnails = {index: thumbnail for index, _, thumbnail in items if thumbnail is not None}
        if not good:
            return {}, bad, {}
        batch = data.collated(self.dataset, [sample for _, sample in good], [index for index, _ in good])
        batch["index"] = torch.tensor([index for index, _ in good])
        batch["key"] = torch.tensor([seeds.key(self.seed, self.epoch, index) for index, _ in good])
        return batch, bad, thumbnails


class Gathered:
    """Rows of batches, on the CPU, until they are stacked."""

    def __init__(self) -> None:
        self.features: list[Tensor] = []
        self.samples: list[Tensor] = []
        self.labels: list[Tensor] = []

    def add(self, rows: Tensor | Rows, index: Tensor) -> None:
        """Add a batch's rows, of the samples `index`: int64, (N,).

        Raises:
            UsageError: they are not as wide as those of other batches, for example padded to another length.
        """
        features, sample, labels = rows if isinstance(rows, Rows) else (rows.flatten(1), None, None)
        if self.features and features.shape[1] != (width := self.features[0].shape[1]):
            raise UsageError(f"samples have {width} numbers in one batch and {features.shape[1]} in another")
        self.features.append(features.to("cpu", torch.float32))
        self.samples.append((index if sample is None else index[sample]).cpu())
        if labels is not None or self.labels:
            self.labels.append(torch.full((len(features),), -1) if labels is None else labels.cpu())
