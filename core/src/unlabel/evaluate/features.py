"""What an evaluation gets: a frozen encoder, the data it may see, and its features, computed once.

An evaluation is a plain function of a `Frozen`. It asks for the features (or the raw inputs, as a control) of
``"train"`` and of ``"test"``; labels come from the dataset, never through the batch, so an encoder cannot see them.

Reading a sample may cost far more than encoding it. So all that is computed from the same samples comes out of one
read of them: the features of the task and of its untrained twin (`Frozen.of`), every output of both, the raw inputs,
and the thumbnails of those samples that the report shows.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unlabel import seeds
from unlabel.data import Dataset
from unlabel.errors import RunError, UsageError, nearest, one_line
from unlabel.evaluate import reading
from unlabel.show import thumbnails
from unlabel.task import Batch, Rows, Sample, Task, Transform

if TYPE_CHECKING:
    from unlabel.engine import Engine

__all__ = ["Frozen", "Inputs", "Split", "evaluating"]

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


@dataclass
class _Shared:
    """What those have in common that judge tasks of one class on the same samples.

    Attributes:
        splits: name -> samples, as far as asked for.
        bad: see `Frozen`.
        members: whose features one read gives.
        raw: name of a split -> raw inputs and the samples they are of.
        thumbnails: name of a split -> index -> thumbnail.
        shown: how many thumbnails of a split are kept.
        keep_raw: whether raw inputs are kept when features are computed.
        not_raw: why samples cannot be flattened to rows of numbers, once that is known; empty before.
    """

    splits: dict[str, Dataset | None] = field(default_factory=dict)
    bad: list[dict[str, Any]] = field(default_factory=list)
    members: weakref.WeakSet[Frozen] = field(default_factory=weakref.WeakSet)
    raw: dict[str, Rows] = field(default_factory=dict)
    thumbnails: dict[str, dict[int, Any]] = field(default_factory=dict)
    shown: int = 0
    keep_raw: bool = False
    not_raw: str = ""


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
        keep_raw: keep the raw inputs, too, when features are computed, for who asks for them later.
        shown: of so many samples of a split keep a thumbnail when features are computed.

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
        keep_raw: bool = False,
        shown: int = 0,
    ) -> None:
        self._task = task
        self.engine = engine
        self.seed = seed
        self._dataset = dataset
        self._batch_size = batch_size
        self._workers = workers
        self._limit = dict(limit or {})
        self._features: dict[tuple[str, str], Rows] = {}
        self._shared = _Shared(keep_raw=keep_raw, shown=shown)
        self._shared.members.add(self)
        for name in self._limit:
            if name not in get_args(Split):
                raise UsageError(f"limit of {name!r}: expected train or test{nearest(name, get_args(Split))}")

    @property
    def bad(self) -> list[dict[str, Any]]:
        """Samples that could not be read and were left out."""
        return self._shared.bad

    @property
    def keeps_raw(self) -> bool:
        """Whether raw inputs are judged, too."""
        return self._shared.keep_raw

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the task can give: its `outputs`, or one without a name."""
        return self._task.outputs or ("",)

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
        labels += [rows.labels.numpy() for rows in self._features.values() if rows.labels is not None]
        return tuple(str(number) for number in range(1 + max(int(part.max(initial=-1)) for part in labels)))

    def of(self, task: Task) -> Frozen:
        """The same samples, settings and list of bad samples with another task, for example an untrained one.

        If it is of the same class, the features of both come out of one read, whichever are asked for first.
        """
        other = copy.copy(self)
        other._task, other._features = task, {}
        if type(task) is type(self._task):
            self._shared.members.add(other)
        else:
            other._shared = _Shared(splits=self._shared.splits, bad=self._shared.bad)
            other._shared.members.add(other)
        return other

    def limited(self, split: Split, count: int) -> Frozen:
        """The same task and settings on at most `count` samples of one split."""
        limit = {**self._limit, split: min(count, self._limit.get(split, count))}
        other = copy.copy(self)
        other._limit, other._features = limit, {}
        other._shared = _Shared(splits=self._shared.splits, bad=self._shared.bad, shown=self._shared.shown)
        other._shared.members.add(other)
        return other

    def _part(self, split: str) -> Dataset | None:
        splits = self._shared.splits
        if split not in splits:
            splits[split] = self._dataset.split(split)
        return splits[split]

    def has_split(self, split: Split) -> bool:
        """Whether the dataset has this part; ``"test"`` may be missing."""
        return self._part(split) is not None

    def has_features(self, split: Split) -> bool:
        """Whether the features of a split have been computed."""
        return (split, self.outputs[0]) in self._features

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
                f"the dataset {type(self._dataset).__name__} has no {split} part, and this evaluation needs samples"
                " that training never saw: hold some out with --set dataset.holdout=0.2,"
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
        indices = self.indices(split) if order is None else np.asarray(order, dtype=np.int64)
        shared = {} if read else self.engine.to_device(part.context())
        table = None if read or transform is not None else part.table()
        size = batch_size or (max(1, len(indices)) if part.full_batch and not read else self._batch_size)
        if table is not None:
            for start in range(0, len(indices), size):
                index = torch.from_numpy(indices[start : start + size])
                keys = seeds.keys(self.seed, torch.full_like(index, epoch), index)
                rows = {name: column[index] for name, column in table.items()}
                yield {**self.engine.to_device({**rows, "index": index, "key": keys}), **shared}
            return
        reader = reading.SampleReader(part, transform, self.seed, epoch)
        seen = self._shared.thumbnails.get(split, {})
        reader.shown = frozenset(self.shown(split).tolist()) - seen.keys() if order is None else frozenset()
        loader = DataLoader(
            cast("torch.utils.data.Dataset[Any]", reader),
            batch_size=size,
            sampler=indices.tolist(),
            num_workers=self._workers,
            collate_fn=reader.collate,
            generator=torch.Generator(),  # the loader draws a base seed; not from the run's generator
        )
        for batch, bad, pictures in loader:
            for index, reason in bad:
                self._leave_out({"split": split, "index": index, "path": part.name_of(index), "reason": reason})
            self._shared.thumbnails.setdefault(split, {}).update(pictures)
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
        reader = reading.SampleReader(part, None, self.seed, 0)
        for index in (self.indices(split) if order is None else np.asarray(order, dtype=np.int64)).tolist():
            _, sample, _ = reader[index]
            if isinstance(sample, str):
                self._leave_out({"split": split, "index": index, "path": part.name_of(index), "reason": sample})
                continue
            yield index, sample

    def _leave_out(self, entry: dict[str, Any]) -> None:
        if entry not in self.bad:  # a split that is read twice has the same bad samples twice
            self.bad.append(entry)

    def shown(self, split: Split) -> np.ndarray:
        """Which samples of a split the report shows: int64, ascending; drawn from those that are used."""
        count = len(self.dataset(split))
        used = min(count, self._limit.get(split, count))
        return np.sort(seeds.permutation(count, self.seed)[: min(used, self._shared.shown)])

    def thumbnails(self, split: Split) -> dict[int, Any]:
        """Thumbnails of `shown` samples by index, as far as they have any; read now unless features were computed."""
        cached = self._shared.thumbnails.setdefault(split, {})
        part, shown = self.dataset(split), [int(index) for index in self.shown(split)]
        if not self.has_features(split) or part.table() is not None:
            read = {index: thumbnails.thumbnail(part, sample) for index, sample in self.samples(split, order=shown)}
            cached.update({index: thumbnail for index, thumbnail in read.items() if thumbnail is not None})
        return cached

    def _read(self, split: Split) -> None:
        """Read a split once, and compute what its members lack: their features, raw inputs, thumbnails."""
        part = self.dataset(split)
        lacking = [member for member in self._shared.members if (split, member.outputs[0]) not in member._features]
        gathered: dict[tuple[Frozen, str], reading.Gathered] = {
            (member, output): reading.Gathered() for member in lacking for output in member.outputs
        }
        # A table's rows cost nothing to read, and samples that are encoded together hold more than their own fields.
        shared = self._shared
        keep_raw = shared.keep_raw and not shared.not_raw and split not in shared.raw and part.table() is None
        raw, context = reading.Gathered(), part.context().keys()
        with ExitStack() as stack, torch.inference_mode():
            for member in lacking:
                stack.enter_context(evaluating(member._task))
            for batch in self.batches(split, self._task.eval_transform()):
                for (member, output), rows in gathered.items():
                    with self.engine.autocast():
                        rows.add(member._task.representation(batch, output), batch["index"])
                if keep_raw and not shared.not_raw:
                    try:
                        raw.add(reading.raw({name: batch[name] for name in batch.keys() - context}), batch["index"])
                    except Exception as error:  # what is no stack of numbers fails in many ways, and has no control
                        shared.not_raw = one_line(error)
        for (member, output), rows in gathered.items():
            member._features[split, output] = self._stacked(split, rows)
        if keep_raw and not shared.not_raw:
            shared.raw[split] = self._stacked(split, raw)

    def _stacked(self, split: Split, rows: reading.Gathered) -> Rows:
        if not rows.features:
            reason = self.bad[-1]["reason"] if self.bad else "it is empty"
            raise RunError(f"no sample of the {split} part could be read: {reason}")
        samples = torch.cat(rows.samples)
        labels = torch.cat(rows.labels) if rows.labels else torch.from_numpy(self.labels(split))[samples]
        return Rows(torch.cat(rows.features), samples, labels)  # a probe may keep them for its gradient

    def rows(self, split: Split, of: str = "") -> Rows:
        """The encoder's features of a split, computed once, with the sample that each is of.

        Args:
            split: which samples.
            of: one of `outputs`; by default the first.

        Returns:
            `Rows` on the CPU: float32, (M, D); int64, (M,), index into the split; int64, (M,), labels (-1 is
            unlabelled). M is the number of samples that could be read, or more if a sample has several rows.

        Raises:
            UsageError: the dataset has no such split, or the task no such output.
            RunError: no sample could be read, or a feature is NaN or infinite.
        """
        of = of or self.outputs[0]
        if of not in self.outputs:
            names = ", ".join(self._task.outputs) or "one output without a name"
            raise UsageError(
                f"{type(self._task).__name__} has no output {of!r}: it has {names}{nearest(of, self.outputs)}"
            )
        if (split, of) not in self._features:
            self._read(split)
        rows = self._features[split, of]
        broken = int((~rows.features.isfinite()).any(dim=1).sum())
        if broken:
            raise RunError(f"the features of {broken} of {len(rows.features)} {split} samples are NaN or infinite")
        return rows

    def features(self, split: Split, of: str = "") -> tuple[Tensor, Tensor]:
        """Features and labels of `rows`: float32, (M, D), and int64, (M,), -1 for unlabelled."""
        features, _, labels = self.rows(split, of)
        assert labels is not None
        return features, labels

    def raw(self, split: Split) -> tuple[Tensor, Tensor]:
        """The evaluation-transformed samples, as read, flattened by `reading.flatten`; otherwise as `features`.

        Raises:
            UsageError: samples hold something else than numbers, or not the same number of them each.
        """
        if self._shared.not_raw:
            raise UsageError(f"samples cannot be compared as they are: {self._shared.not_raw}")
        if split not in self._shared.raw:
            raw = reading.Gathered()
            with torch.inference_mode():
                for batch in self.batches(split, self._task.eval_transform(), read=True):
                    raw.add(reading.raw(batch), batch["index"])
            self._shared.raw[split] = self._stacked(split, raw)
        features, _, labels = self._shared.raw[split]
        assert labels is not None
        return features, labels

    def labelled(self, split: Split, inputs: Inputs = "features") -> tuple[Tensor, Tensor]:
        """`features` or `raw` of the samples that have a class.

        Raises:
            UsageError: there is no such split, or none of its samples has a class.
        """
        if not self._has_classes(split, inputs):
            raise UsageError(
                f"the {split} part of {type(self._dataset).__name__} has no labels, and this evaluation needs them:"
                " give data with one folder per class, or another labelled dataset with --data"
            )
        rows, labels = self.features(split) if inputs == "features" else self.raw(split)
        return rows[labels >= 0], labels[labels >= 0]

    def _has_classes(self, split: Split, inputs: Inputs) -> bool:
        if (self.labels(split) >= 0).any():
            return True
        if inputs == "raw" or not self._task.outputs:  # of one output all rows are samples, and nothing is computed
            return False
        labels = self.rows(split).labels  # rows may have labels of their own
        return labels is not None and bool((labels >= 0).any())
