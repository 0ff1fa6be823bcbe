"""What an evaluation gets: a frozen encoder, the data it may see, and its features, computed once.

An evaluation is a plain function of a `Frozen`. It asks for the features (or the raw inputs, as a control) of
``"train"`` and of ``"test"``; labels come from the dataset, never through the batch, so an encoder cannot see them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unlabel import data, seeds
from unlabel.data import Dataset
from unlabel.errors import RunError, UsageError, nearest
from unlabel.task import Batch, Sample, Task, Transform

if TYPE_CHECKING:
    from unlabel.engine import Engine

__all__ = ["Frozen", "Inputs", "Split", "evaluating", "flatten"]

Split = Literal["train", "test"]
"""``"train"`` is what a probe may learn from; ``"test"`` is held out, and only scored."""

Inputs = Literal["features", "raw"]
"""Whether an evaluation reads the encoder's features, or the raw inputs as the control it has to beat."""


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into evaluation mode for a while; then each part is back in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


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


class _Reader:
    """Reads and transforms samples inside a loader's worker; a bad sample comes back as the reason why."""

    def __init__(self, dataset: Dataset, transform: Transform | None, seed: int, epoch: int) -> None:
        self.dataset = dataset
        self.transform = transform
        self.seed = seed
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[int, Sample | str]:
        try:
            sample = self.dataset[index]
        except UsageError:  # a ValueError too, but about what was asked for and not about this sample
            raise
        except data.UNREADABLE as error:
            return index, data.reason(error)
        if self.transform is not None:
            seeds.seed(self.seed, self.epoch, index)  # for transforms of libraries that draw from torch's generator
            part, first = self.dataset.part_of(index)
            beside = data.others(part, self.seed, self.epoch, index - first)
            rng = seeds.generator(self.seed, self.epoch, index)
            sample = self.transform(sample, data.Draw(rng, self.epoch, others=beside))
        return index, {name: value for name, value in sample.items() if name != "label"}

    def collate(self, items: list[tuple[int, Sample | str]]) -> tuple[Batch, list[tuple[int, str]]]:
        """Batch the samples that could be read, and list (index, reason) of the others."""
        good = [(index, sample) for index, sample in items if not isinstance(sample, str)]
        bad = [(index, reason) for index, reason in items if isinstance(reason, str)]
        if not good:
            return {}, bad
        batch = data.collated(self.dataset, [sample for _, sample in good], [index for index, _ in good])
        batch["index"] = torch.tensor([index for index, _ in good])
        batch["key"] = torch.tensor([seeds.key(self.seed, self.epoch, index) for index, _ in good])
        return batch, bad


class Frozen:
    """A task's encoder, no longer learning, with a dataset to judge it on.

    Args:
        task: the task whose `encode` is judged; its parameters are never changed.
        dataset: has a ``"train"`` and, for most evaluations, a ``"test"`` split.
        engine: where and in which precision features are computed.
        batch_size: samples per forward pass.
        workers: processes that read samples; 0 reads in this one. The features are the same.
        seed: of everything random in an evaluation: subsets, validation splits, orders, new layers.
        limit: use at most so many samples of a split, drawn at random: ``{"train": 5000}``.

    Attributes:
        engine, seed: as given.
        bad: samples that could not be read and were left out: ``{"split", "index", "path", "reason"}`` each.

    Raises:
        UsageError: a name in `limit` is not a split.
    """

    def __init__(
        self,
        task: Task,
        dataset: Dataset,
        engine: Engine,
        *,
        batch_size: int = 256,
        workers: int = 0,
        seed: int = 0,
        limit: Mapping[str, int] | None = None,
    ) -> None:
        self._task = task
        self.engine = engine
        self.seed = seed
        self.bad: list[dict[str, Any]] = []
        self._dataset = dataset
        self._batch_size = batch_size
        self._workers = workers
        self._limit = dict(limit or {})
        self._splits: dict[str, Dataset | None] = {}
        self._cache: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        for name in self._limit:
            if name not in get_args(Split):
                raise UsageError(f"limit of {name!r}: expected train or test{nearest(name, get_args(Split))}")

    @property
    def task(self) -> Task:
        """The task in evaluation mode: asking for it switches it over. `features` leaves the mode as it finds it."""
        return self._task.eval()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, ``()`` without labels; class *i* is label *i*."""
        names = self.dataset("train").classes
        if names is not None:
            return names
        labels = [self.labels(split) for split in get_args(Split) if self.has_split(split)]
        return tuple(str(number) for number in range(1 + max(int(part.max(initial=-1)) for part in labels)))

    def of(self, task: Task) -> Frozen:
        """The same samples, settings and list of bad samples with another task, for example an untrained one."""
        other = copy.copy(self)
        other._task, other._cache = task, {}
        return other

    def _part(self, split: str) -> Dataset | None:
        if split not in self._splits:
            self._splits[split] = self._dataset.split(split)
        return self._splits[split]

    def has_split(self, split: Split) -> bool:
        """Whether the dataset has this part; ``"test"`` may be missing."""
        return self._part(split) is not None

    def has_labels(self) -> bool:
        """Whether any training sample has a class."""
        return bool((self.labels("train") >= 0).any())

    def dataset(self, split: Split) -> Dataset:
        """The samples of a split.

        Raises:
            UsageError: there is no such split; the message says how to get one.
        """
        part = self._part(split)
        if part is None:
            raise UsageError(
                f"the dataset {type(self._dataset).__name__} has no {split} part, and this evaluation needs labelled"
                " samples that training never saw: hold some out with --set dataset.holdout=0.2,"
                " or put a test folder beside the train folder"
            )
        return part

    def labels(self, split: Split) -> np.ndarray:
        """The class of every sample of a split, the unreadable ones too: int64, (samples,); -1 is unlabelled."""
        part = self.dataset(split)
        return np.full(len(part), -1, dtype=np.int64) if part.labels is None else part.labels

    def indices(self, split: Split) -> np.ndarray:
        """Which samples of a split are used, in ascending order: int64; all of them unless limited.

        Samples that belong `full_batch` are all encoded anyway, so a limit would only lose labels.
        """
        part = self.dataset(split)
        count = len(part)
        limit = count if part.full_batch else self._limit.get(split, count)
        return np.sort(seeds.permutation(count, self.seed)[:limit])

    def batches(
        self,
        split: Split,
        transform: Transform | None,
        *,
        order: Sequence[int] | np.ndarray | None = None,
        batch_size: int | None = None,
        epoch: int = 0,
        read: bool = False,
    ) -> Iterator[Batch]:
        """Read samples of a split, without their labels, in batches on the device.

        Args:
            split: which samples.
            transform: applied to each; what it draws depends on (seed, epoch, index) alone.
            order: which samples in which order; by default `indices`.
            batch_size: by default the constructor's, or all of a dataset whose samples belong `full_batch`.
            epoch: changes what the transform draws.
            read: read the samples one by one even where the dataset has a `table`, and without its `context`.

        Yields:
            Batches with ``"index"`` (into the split) and ``"key"``. Unreadable samples are missing and in `bad`.
        """
        part = self.dataset(split)
        chosen = self.indices(split) if order is None else np.asarray(order, dtype=np.int64)
        shared = {} if read else self.engine.to_device(part.context())
        table = None if read or transform is not None else part.table()
        size = batch_size or (max(1, len(chosen)) if part.full_batch and not read else self._batch_size)
        if table is not None:
            for start in range(0, len(chosen), size):
                index = torch.from_numpy(chosen[start : start + size])
                keys = seeds.keys(self.seed, torch.full_like(index, epoch), index)
                rows = {name: column[index] for name, column in table.items()}
                yield {**self.engine.to_device({**rows, "index": index, "key": keys}), **shared}
            return
        reader = _Reader(part, transform, self.seed, epoch)
        loader = DataLoader(
            cast("torch.utils.data.Dataset[Any]", reader),
            batch_size=size,
            sampler=chosen.tolist(),
            num_workers=self._workers,
            collate_fn=reader.collate,
            generator=torch.Generator(),  # the loader draws a base seed; not from the run's generator
        )
        for batch, bad in loader:
            for index, reason in bad:
                self._leave_out({"split": split, "index": index, "path": part.name_of(index), "reason": reason})
            if batch:
                yield {**self.engine.to_device(batch), **shared}

    def samples(self, split: Split, *, order: Sequence[int] | np.ndarray | None = None) -> Iterator[tuple[int, Sample]]:
        """Read samples of a split one by one as they are stored, without their labels.

        Args:
            split: which samples.
            order: which of them in which order; by default `indices`.

        Yields:
            Index into the split, and the sample. Unreadable samples are missing and in `bad`.
        """
        part = self.dataset(split)
        reader = _Reader(part, None, self.seed, 0)
        for index in (self.indices(split) if order is None else np.asarray(order, dtype=np.int64)).tolist():
            _, sample = reader[index]
            if isinstance(sample, str):
                self._leave_out({"split": split, "index": index, "path": part.name_of(index), "reason": sample})
                continue
            yield index, sample

    def _leave_out(self, entry: dict[str, Any]) -> None:
        if entry not in self.bad:  # a split that is read twice has the same bad samples twice
            self.bad.append(entry)

    def _encode(self, batch: Batch) -> Tensor:
        with self.engine.autocast():
            return self._task.encode(batch).flatten(1)

    def _gather(self, split: Split, function: Callable[[Batch], Tensor], read: bool) -> tuple[Tensor, Tensor]:
        """Apply `function` to every batch of a split; stack the rows and look up their labels."""
        rows, indices = [], []
        with evaluating(self._task), torch.inference_mode():
            for batch in self.batches(split, self._task.eval_transform(), read=read):
                rows.append(function(batch).to("cpu", torch.float32))
                indices.append(batch["index"].cpu())
        if not rows:
            reason = self.bad[-1]["reason"] if self.bad else "it is empty"
            raise RunError(f"no sample of the {split} part could be read: {reason}")
        labels = torch.from_numpy(self.labels(split))[torch.cat(indices)]
        return torch.cat(rows), labels  # outside inference mode, so that a probe may keep them for its gradient

    def features(self, split: Split) -> tuple[Tensor, Tensor]:
        """The encoder's features of a split, computed once.

        Returns:
            float32, (N, D), and int64, (N,): features, and labels (-1 is unlabelled), on the CPU. N counts the
            samples that could be read.

        Raises:
            UsageError: the dataset has no such split.
            RunError: no sample could be read, or a feature is NaN or infinite.
        """
        if ("features", split) not in self._cache:
            features, labels = self._gather(split, self._encode, read=False)
            broken = int((~features.isfinite()).any(dim=1).sum())
            if broken:
                raise RunError(f"the features of {broken} of {len(features)} {split} samples are NaN or infinite")
            self._cache["features", split] = features, labels
        return self._cache["features", split]

    def raw(self, split: Split) -> tuple[Tensor, Tensor]:
        """The evaluation-transformed samples themselves, as read, flattened by `flatten`; otherwise as `features`."""
        if ("raw", split) not in self._cache:
            self._cache["raw", split] = self._gather(split, _raw, read=True)
        return self._cache["raw", split]

    def labelled(self, split: Split, inputs: Inputs = "features") -> tuple[Tensor, Tensor]:
        """`features` or `raw` of the samples that have a class.

        Raises:
            UsageError: there is no such split, or none of its samples has a class.
        """
        if not (self.labels(split) >= 0).any():
            raise UsageError(
                f"the {split} part of {type(self._dataset).__name__} has no labels, and this evaluation needs them:"
                " give data with one folder per class, or another labelled dataset with --data"
            )
        rows, labels = self.features(split) if inputs == "features" else self.raw(split)
        return rows[labels >= 0], labels[labels >= 0]


def _raw(batch: Batch) -> Tensor:
    fields = [flatten(value) for name, value in sorted(batch.items()) if name not in ("key", "index")]
    return torch.cat(fields, dim=1)
