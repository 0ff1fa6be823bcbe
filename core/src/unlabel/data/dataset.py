"""What a dataset is, parts of one, and how samples become a batch."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from unlabel import seeds
from unlabel.catalog import deprecation
from unlabel.data.order import Order
from unlabel.errors import UsageError
from unlabel.show.media import Media
from unlabel.task import Batch, Sample, Transform

__all__ = ["Dataset", "Subset", "Views", "collate", "collated", "holdout"]


class Dataset:
    """A map-style dataset: subclass it and give it `__len__` and `__getitem__`; the rest is optional.

    A dataset must be picklable (loader processes get a copy) and pure: ``dataset[i]`` is always the
    same sample. It returns fields of the cheapest form, undecorated by augmentation; a task's
    `transform` does the rest.

    Attributes:
        labels: int64, (N,), or None. Used by evaluations only, never by a pretext task.
        classes: names of the labels, or None.
    """

    labels: np.ndarray | None = None
    classes: tuple[str, ...] | None = None

    full_batch: ClassVar[bool] = False
    """Whether an evaluation encodes all samples of a split in one batch, because one costs as much as all."""

    fallback: ClassVar[bool] = False
    """Whether it claims paths of which another kind may know more: it gets a path only if no such kind claims it."""

    per_sample: ClassVar[tuple[str, ...]] = ()
    """Names of further members about samples one by one, which a `Subset` passes on by its own indices: methods that
    get the index first, and arrays (N, ...). What evaluations ask of these data: maps, boxes, identities."""

    per_dataset: ClassVar[tuple[str, ...]] = ()
    """Names of further members about all samples, which a `Subset` passes on as they are: the classes of maps."""

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must define __len__()")

    def __getitem__(self, index: int) -> Sample:
        """The sample; raises `BadSample`, OSError or ValueError if it cannot be used."""
        raise NotImplementedError(f"{type(self).__name__} must define __getitem__(index)")

    def raw(self, index: int) -> Any:
        """What is stored for this sample before it is decoded, for ``unlabel inspect --speed``; None if the same."""
        return None

    def name_of(self, index: int) -> str:
        """What the user calls this sample, for messages: usually its path."""
        return f"sample {index}"

    def for_transform(self, transform: Transform | None) -> Dataset:
        """This dataset with samples just good enough for a transform that will read them all; by default itself.

        What is stored at a higher resolution than the transform keeps may be read at a lower one, for less time.
        """
        return self

    def show(self, sample: Sample) -> Media | np.ndarray | None:
        """What there is to see (or read, or hear) of a sample, for the report; None if nothing is.

        A bare array, uint8 (H, W, 3), is a `Picture`. In the map of a report a picture (or the middle of a clip) is a
        sample's thumbnail, the first words of a text are its name.
        """
        return None

    def split(self, name: str) -> Dataset | None:
        """``"train"``: what pretraining and probes may see. ``"test"``: held out; None if nothing is."""
        return self if name == "train" else None

    def info(self) -> dict[str, Any]:
        """Facts for ``unlabel inspect`` (JSON-able)."""
        return {"samples": len(self)}

    def inspect(self, verify: bool = True) -> dict[str, Any] | None:
        """Facts for ``unlabel inspect`` from a dataset that examines itself; None, the default: `info`, and with
        `verify` what reading every sample shows, see `unlabel.inspection.contents`."""
        return None

    def prepare(self) -> None:
        """Offline precomputation, called by every run before it trains: idempotent, cached by content.

        The main process calls it first, then the others; see `unlabel.storage.cache`.
        """

    def assets(self) -> Mapping[str, Path]:
        """Files besides the samples that these data depend on (a vocabulary, statistics): name -> file.

        A run keeps copies with their hashes, gives them back when it is opened again, also with other data of the same
        kind, and exports them. What must stay the same whatever kind of data comes is the task's.
        """
        return {}

    def use_assets(self, assets: Mapping[str, Path]) -> None:
        """Take the files that `assets` named when the run began; called before `prepare`."""

    def part_of(self, index: int) -> tuple[Dataset, int]:
        """The dataset that a sample is of, and where in this one its samples begin: itself and 0, unless it is put
        together from several. What stands in for a bad sample, or is shown beside a good one, comes from there."""
        return self, 0

    def order(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Which samples an update takes; None, the default: those of a permutation of each epoch, see
        `Stage.last_batch`. `unlabel.data.order` has others to call from here.

        A pure function of its arguments, from which each process takes its part: called again it answers the same.

        Args:
            number: of the update in its stage, from 0.
            size: samples of an update over all processes and micro-batches, as the recipe says.
            seed: of the run and the stage.

        Returns:
            int64, (n,), twice: epochs and indices. n should be `size`; another number has another speed than is
            reported, and micro-batches of which one may be larger than the next by one. A pair of epoch and index
            decides what is drawn for a sample, so none should come twice in a stage.
        """
        return None

    def collate(self, samples: list[Sample]) -> Batch:
        """Make a batch of read (and transformed) samples; by default every field is stacked, see `collate`."""
        return collate(samples)

    def table(self) -> Batch | None:
        """Every sample at once, or None: field -> tensor, (len(self), ...), never the labels.

        With a table, batches are gathered by index on the device: nothing is read or transformed sample by sample.
        It is used where the task has no `transform`, so a task that augments does so in `loss`, from the batch's
        ``"key"``. For small samples (tracks, points, nodes), whose reading would cost more than the model.
        """
        return None

    def context(self) -> Batch:
        """What all samples share (the edges between them, a codebook): in every batch, by reference; read-only.

        Tensors are moved to the device once. Names must differ from the samples' fields.
        """
        return {}

    def implies(self) -> dict[str, Any]:
        """Keywords of encoder and task that these data determine, e.g. ``{"features": 1433}``; see
        `unlabel.build.with_data`."""
        return {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        """A class that overrides what was called otherwise in version 0.1 works as before, with a warning."""
        super().__init_subclass__(**keywords)
        renamed = {"together": "full_batch", "general": "fallback", "suited": "for_transform"}
        deprecation.adopt(cls, renamed, "unlabel 0.3")

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether a path given to ``--data`` is of this kind; the constructor then gets it as `path`."""
        return False


class Subset(Dataset):
    """Some samples of another dataset, by index, with all it offers, its `per_sample` and `per_dataset` members too.

    Args:
        dataset: the whole.
        indices: of its samples, int64, (n,).
        order: of the subset, see `Dataset.order`; by default permutations, even if the whole has an order of its own,
            which is about other samples.
    """

    def __new__(cls, dataset: Dataset, indices: Sequence[int] | np.ndarray, order: Order | None = None) -> Subset:
        members = tuple(dataset.per_sample), tuple(dataset.per_dataset)
        return super().__new__(_passing_on(cls, *members))  # type: ignore[arg-type]  # classes can be hashed

    def __init__(self, dataset: Dataset, indices: Sequence[int] | np.ndarray, order: Order | None = None):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = None if dataset.labels is None else dataset.labels[self.indices]
        self.classes = dataset.classes
        self.full_batch = dataset.full_batch  # type: ignore[misc]  # of its class, which is not ours
        self.fallback = dataset.fallback  # type: ignore[misc]
        self._order = order

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and other processes make a class that passes on the same members; that one has no name to go by."""
        return _again, (self.dataset, self.indices), self.__dict__

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]

    def raw(self, index: int) -> Any:
        return self.dataset.raw(int(self.indices[index]))

    def name_of(self, index: int) -> str:
        return self.dataset.name_of(int(self.indices[index]))

    def for_transform(self, transform: Transform | None) -> Subset:
        subset = copy.copy(self)
        subset.dataset = self.dataset.for_transform(transform)
        return subset

    def prepare(self) -> None:
        self.dataset.prepare()

    def assets(self) -> Mapping[str, Path]:
        return self.dataset.assets()

    def use_assets(self, assets: Mapping[str, Path]) -> None:
        self.dataset.use_assets(assets)

    def order(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
        return None if self._order is None else self._order(number, size, seed)

    def show(self, sample: Sample) -> Media | np.ndarray | None:
        return self.dataset.show(sample)

    def collate(self, samples: list[Sample]) -> Batch:
        return self.dataset.collate(samples)

    def table(self) -> Batch | None:
        whole = self.dataset.table()
        return None if whole is None else {name: column[self.indices] for name, column in whole.items()}

    def context(self) -> Batch:
        return self.dataset.context()

    def implies(self) -> dict[str, Any]:
        return self.dataset.implies()


def _again(dataset: Dataset, indices: np.ndarray) -> Subset:
    return Subset(dataset, indices)


@functools.cache
def _passing_on(cls: type[Subset], per_sample: tuple[str, ...], per_dataset: tuple[str, ...]) -> type[Subset]:
    """`cls` with these members of the whole. They are the class's, where protocols look for them, and asked for only
    when somebody asks: some read every file."""
    if not per_sample and not per_dataset:
        return cls
    members: dict[str, Any] = {name: property(functools.partial(_rows, name)) for name in per_sample}
    members |= {name: property(functools.partial(_same, name)) for name in per_dataset}
    return type(cls.__name__, (cls,), {**members, "per_sample": per_sample, "per_dataset": per_dataset})


def _rows(name: str, subset: Subset) -> Any:
    """A member about samples: a method called with the whole's index, or the subset's rows of an array."""
    member = getattr(subset.dataset, name)
    if not callable(member):
        return member[subset.indices]
    return lambda index, *rest, **options: member(int(subset.indices[index]), *rest, **options)


def _same(name: str, subset: Subset) -> Any:
    return getattr(subset.dataset, name)


def holdout(labels: np.ndarray | None, count: int, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split ``range(count)`` into (train, test) int64 indices, always the same, class by class if labelled."""
    groups = [np.arange(count)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    test = [g[seeds.permutation(len(g), seed, number)][: round(fraction * len(g))] for number, g in enumerate(groups)]
    held_out = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(count), held_out), held_out


def collate(samples: list[Sample]) -> Batch:
    """Stack each field of the samples: arrays and tensors along a new first dimension, numbers into a tensor, fields of
    fields one by one; texts, and lists of them, stay a list with an entry a sample.

    Raises:
        UsageError: a field whose arrays differ in shape, or which some samples lack.
    """
    return _stacked("", samples)


class Views(dict[str, Sample]):
    """What a transform makes of one sample that several tasks see in their own ways: name of the view -> sample.

    Each view is collated by itself; in the batch, ``field`` of ``view`` is called ``view:field``.
    """


def collated(dataset: Dataset, samples: list[Sample], indices: Iterable[int] = ()) -> Batch:
    """The batch of samples as the loader makes it: by the `collate` of the dataset, or of the part of it that all of
    these indices are of; view by view for `Views`."""
    parts = {id(part): part for part, _ in map(dataset.part_of, indices)}
    owner = next(iter(parts.values())) if len(parts) == 1 else dataset
    if not isinstance(samples[0], Views):
        return owner.collate(samples)
    views = {view: owner.collate([sample[view] for sample in samples]) for view in samples[0]}
    return {f"{view}:{field}": value for view, batch in views.items() for field, value in batch.items()}


def _stacked(within: str, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    try:
        fields = {name: [sample[name] for sample in samples] for name in samples[0]}
    except KeyError as error:
        raise UsageError(
            f"some samples of a batch have a field {within + error.args[0]!r} and others have not: give the dataset a "
            "`collate` that knows what to do"
        ) from error
    return {name: _stack(within + name, values) for name, values in fields.items()}


def _stack(name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, Mapping):
        return _stacked(f"{name}.", values)
    if _is_text(values):
        return values
    shapes = {np.shape(value) for value in values} if isinstance(first, np.ndarray | torch.Tensor) else set()
    if isinstance(first, list | tuple):
        shapes = {(len(value),) for value in values}
    if len(shapes) > 1:
        raise UsageError(
            f"field {name!r} has another shape in each sample ({', '.join(map(str, sorted(shapes)[:3]))}), so it "
            "cannot be stacked: give the dataset a `collate` that pads, or concatenates and keeps the lengths"
        )
    if isinstance(first, np.ndarray):
        return torch.from_numpy(np.stack(values))
    if isinstance(first, torch.Tensor):
        return torch.stack(values)
    return torch.as_tensor(values)


def _is_text(values: list[Any]) -> bool:
    """Whether these are texts, or lists of texts."""
    if isinstance(values[0], list | tuple):
        return any(isinstance(entry, str) for value in values for entry in value)
    return isinstance(values[0], str)
