"""What a dataset is; the order of its samples; loading, collating, and setting bad samples aside.

The order is a function of position: sample number *p* of a stage is entry ``p mod n`` of the
permutation of epoch ``p div n``. Update *s* of batch size *B* takes positions ``s B ... (s+1) B - 1``,
so a batch may straddle two epochs, no sample is ever dropped, and resuming needs nothing but *s*.
"""

from __future__ import annotations

import copy
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from unlabel import seeds
from unlabel.errors import BadSample, RunError, UnlabelError, UsageError
from unlabel.storage.jsonl import read_jsonl
from unlabel.task import Batch, Sample, Transform

if TYPE_CHECKING:
    from unlabel.engine import Engine
    from unlabel.recipe import Stage

__all__ = [
    "Dataset",
    "Quarantine",
    "Subset",
    "Views",
    "batches",
    "collate",
    "default_workers",
    "holdout",
    "micro_batch",
]

UNREADABLE = (BadSample, OSError, ValueError, EOFError, SyntaxError)
"""What ``dataset[index]`` raises for a sample that cannot be used; anything else is a bug and stops the run."""

_ATTEMPTS = 50

_CONTEXT = "fork" if sys.platform == "linux" else None
"""How loader processes start. Under a fork server, Python 3.14's default, they would outlive a killed run: their
parent is the server, which lives as long as they do. Forked ones notice that their parent is gone."""


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

    def split(self, name: str) -> Dataset | None:
        """``"train"``: what pretraining and probes may see. ``"test"``: held out; None if nothing is."""
        return self if name == "train" else None

    def info(self) -> dict[str, Any]:
        """Facts for ``unlabel inspect`` (JSON-able)."""
        return {"samples": len(self)}

    def inspect(self, verify: bool = True) -> dict[str, Any]:
        """Facts for ``unlabel inspect``: `info`, and with `verify` what reading every sample shows."""
        from unlabel.inspection.contents import read_through

        return {**self.info(), **(read_through(self) if verify else {})}

    def prepare(self) -> None:
        """Offline precomputation, called by every run before it trains: idempotent, cached by content.

        The main process calls it first, then the others; see `unlabel.storage.cache`.
        """

    def assets(self) -> Mapping[str, Path]:
        """Files besides the samples that these data depend on (a vocabulary, statistics): name -> file.

        A run keeps copies with their hashes, gives them back when it is opened again, and exports them.
        """
        return {}

    def use_assets(self, assets: Mapping[str, Path]) -> None:
        """Take the files that `assets` named when the run began; called before `prepare`."""

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
        `recipe.with_data`."""
        return {}

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether a path given to ``--data`` is of this kind; the constructor then gets it as `path`."""
        return False


class Subset(Dataset):
    """Some samples of another dataset, by index."""

    def __init__(self, dataset: Dataset, indices: Sequence[int] | np.ndarray):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)
        self.labels = None if dataset.labels is None else dataset.labels[self.indices]
        self.classes = dataset.classes
        self.full_batch = dataset.full_batch  # type: ignore[misc]  # of its class, which is not ours

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[int(self.indices[index])]

    def raw(self, index: int) -> Any:
        return self.dataset.raw(int(self.indices[index]))

    def name_of(self, index: int) -> str:
        return self.dataset.name_of(int(self.indices[index]))

    def for_transform(self, transform: Transform | None) -> Subset:
        suited = copy.copy(self)
        suited.dataset = self.dataset.for_transform(transform)
        return suited

    def collate(self, samples: list[Sample]) -> Batch:
        return self.dataset.collate(samples)

    def table(self) -> Batch | None:
        whole = self.dataset.table()
        return None if whole is None else {name: column[self.indices] for name, column in whole.items()}

    def context(self) -> Batch:
        return self.dataset.context()


def holdout(labels: np.ndarray | None, count: int, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split ``range(count)`` into (train, test) int64 indices, always the same, class by class if labelled."""
    groups = [np.arange(count)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    test = [g[seeds.permutation(len(g), seed, number)][: round(fraction * len(g))] for number, g in enumerate(groups)]
    held_out = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(count), held_out), held_out


def collate(samples: list[Sample]) -> Batch:
    """Stack each field of the samples: arrays and tensors along a new first dimension, numbers into a tensor."""
    return {name: _stack([sample[name] for sample in samples]) for name in samples[0]}


class Views(dict[str, Sample]):
    """What a transform makes of one sample that several tasks see in their own ways: name of the view -> sample.

    Each view is collated by itself; in the batch, ``field`` of ``view`` is called ``view:field``.
    """


def collated(dataset: Dataset, samples: list[Sample]) -> Batch:
    """The batch of samples as the loader makes it: by the dataset's `collate`, view by view for `Views`."""
    if not isinstance(samples[0], Views):
        return dataset.collate(samples)
    parts = {view: dataset.collate([sample[view] for sample in samples]) for view in samples[0]}
    return {f"{view}:{field}": value for view, part in parts.items() for field, value in part.items()}


def _stack(values: list[Any]) -> torch.Tensor:
    if isinstance(values[0], np.ndarray):
        return torch.from_numpy(np.stack(values))
    if isinstance(values[0], torch.Tensor):
        return torch.stack(values)
    return torch.as_tensor(values)


class Reader(torch.utils.data.Dataset[Any]):
    """Reads micro-batches in a loader process: sample, seed, transform, collate; bad samples are replaced.

    Labels are left out: a pretext task cannot see them.

    Args:
        dataset: what to read.
        transform: the task's, or None.
        seed: of the run.
    """

    def __init__(self, dataset: Dataset, transform: Transform | None, seed: int):
        self.dataset, self.transform, self.seed = dataset.for_transform(transform), transform, seed

    def __getitems__(self, positions: list[tuple[int, int]]) -> tuple[Batch, list[dict[str, Any]]] | UnlabelError:
        """A micro-batch and the records of bad samples; an error on purpose is returned, to be raised outside
        the loader, which would bury it under its own traceback."""
        bad: list[dict[str, Any]] = []
        try:
            samples = [self._sample(epoch, index, bad) for epoch, index in positions]
        except UnlabelError as error:
            return error
        batch = collated(self.dataset, samples)
        batch["index"] = torch.tensor([index for _, index in positions])
        batch["key"] = torch.tensor([seeds.key(self.seed, epoch, index) for epoch, index in positions])
        return batch, bad

    def _sample(self, epoch: int, index: int, bad: list[dict[str, Any]]) -> Sample:
        """The sample at `index`, or the first readable one of a fixed sequence of stand-ins."""
        chosen = index
        for attempt in range(_ATTEMPTS):
            try:
                sample = {name: value for name, value in self.dataset[chosen].items() if name != "label"}
            except UsageError:  # a ValueError too, but about what was asked for and not about this sample
                raise
            except UNREADABLE as error:
                bad.append({"index": chosen, "path": self.dataset.name_of(chosen), "reason": reason(error)})
                chosen = seeds.mix(self.seed, epoch, index, attempt) % len(self.dataset)
                continue
            if self.transform is None:
                return sample
            seeds.seed(self.seed, epoch, index)  # for transforms of libraries that draw from torch's generator
            return self.transform(sample, seeds.generator(self.seed, epoch, index))
        raise RunError(f"{_ATTEMPTS} samples in a row cannot be used; the last: {bad[-1]['path']}: {bad[-1]['reason']}")


def reason(error: BaseException) -> str:
    """An exception as one line for quarantine.jsonl."""
    return str(error) if isinstance(error, BadSample) else f"{type(error).__name__}: {error}"


class Positions(Sampler[list[tuple[int, int]]]):
    """The (epoch, index) pairs of each micro-batch of this process, without end, from micro-batch `start` on."""

    def __init__(self, count: int, size: int, seed: int, rank: int, world: int, start: int):
        self.count, self.size, self.seed, self.start = count, size, seed, start
        whole = count < world  # fewer samples than processes: each of them gets all
        self.rank, self.world = (0, 1) if whole else (rank, world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for epochs, indices in self.arrays():
            yield list(zip(epochs.tolist(), indices.tolist(), strict=True))

    def arrays(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The same as two int64 arrays, (size,): epochs and indices."""
        order, of_epoch = np.empty(0, dtype=np.int64), -1
        number = self.start
        while True:
            first = (number * self.world + self.rank) * self.size
            epochs, places = np.divmod(np.arange(first, first + self.size), self.count)
            indices = np.empty(self.size, dtype=np.int64)
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
                if epoch != of_epoch:
                    order, of_epoch = seeds.permutation(self.count, self.seed, epoch), epoch
                indices[epochs == epoch] = order[places[epochs == epoch]]
            yield epochs, indices
            number += 1


def micro_batch(stage: Stage, samples: int, world: int) -> int:
    """Samples per process and micro-batch; UsageError if the batch does not divide or exceeds the data."""
    size = samples if stage.batch_size == "all" else stage.batch_size
    if size > samples:
        raise UsageError(
            f"batch size {size} is larger than the {samples} training samples: use --batch-size {samples} or less"
        )
    parts = stage.accumulate * (1 if samples < world else world)
    if size % parts:
        raise UsageError(
            f"batch size {size} does not divide by {world} processes x {stage.accumulate} micro-batches: "
            f"use --batch-size {max(1, size // parts) * parts}"
        )
    return size // parts


def batches(
    dataset: Dataset,
    stage: Stage,
    engine: Engine,
    *,
    seed: int,
    transform: Transform | None = None,
    start: int = 0,
    workers: int = 0,
) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
    """Micro-batches of this process without end, with the records of the bad samples met in each.

    Args:
        dataset: the training split.
        stage: resolved; gives batch size and micro-batches.
        engine: gives rank and number of processes.
        seed: of the run.
        transform: the task's.
        start: number of the first micro-batch: ``step * accumulate``.
        workers: loader processes; 0 reads in this process.
    """
    size = micro_batch(stage, len(dataset), engine.world)
    positions = Positions(len(dataset), size, seed, engine.rank, engine.world, start)
    shared = engine.to_device(dataset.context())
    table = dataset.table() if transform is None else None
    if table is not None:
        yield from _gathered(engine.to_device(table), shared, positions, engine)
        return
    loader: DataLoader[Any] = DataLoader(
        Reader(dataset, transform, seed),
        batch_sampler=positions,
        collate_fn=_as_is,
        num_workers=workers,
        pin_memory=engine.device.type == "cuda",
        prefetch_factor=4 if workers else None,
        generator=torch.Generator(),  # the loader draws a base seed; not from the run's generator
        worker_init_fn=_calm if workers else None,
        multiprocessing_context=_CONTEXT if workers else None,
    )
    for item in loader:
        if isinstance(item, UnlabelError):
            raise item
        batch, bad = item
        yield {**batch, **shared}, bad


def _gathered(
    table: Batch, shared: Batch, positions: Positions, engine: Engine
) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
    """Batches out of a table that is on the device."""
    for epochs, indices in positions.arrays():
        keys = seeds.keys(positions.seed, torch.from_numpy(epochs), torch.from_numpy(indices))
        places = engine.to_device({"index": torch.from_numpy(indices), "key": keys})
        batch = {name: column[places["index"]] for name, column in table.items()}
        yield {**batch, **shared, **places}, []


def _as_is(batch: Any) -> Any:
    return batch


def _calm(worker: int) -> None:
    """Loader processes leave Ctrl-C to the main process, which saves first."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def default_workers(engine: Engine) -> int:
    """Loader processes for one training process: none on a CPU, on a GPU as many as cores are left to it.

    On a CPU model and loader share the cores, and a loader process beside the model's threads costs more
    than it overlaps: training from JPEGs ran at 0.93 of the model's own speed without one and 0.91 with
    one in fp32, 0.97 and 0.93 in bf16 (benchmarks/loading.py on two cores).
    """
    if engine.device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, cores // max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) - 1))


class Quarantine:
    """The list of samples set aside: ``quarantine.jsonl``, one line a sample, each sample once.

    Args:
        path: the file; what it already holds (a resumed run) counts.
        samples: size of the dataset.
        limit: tolerated share; one bad sample is always tolerated.
    """

    def __init__(self, path: Path, samples: int, limit: float):
        self.path, self.samples, self.limit = path, samples, limit
        self.seen: set[int] = set()
        if path.exists():
            self.seen = {record["index"] for record in read_jsonl(path) if record.get("split", "train") == "train"}

    def add(self, records: list[dict[str, Any]], where: str = "train") -> None:
        """Append records not seen before; RunError when more than the tolerated share is bad."""
        new = [record for record in records if record["index"] not in self.seen]
        if not new:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for record in new:
                if record["index"] not in self.seen:
                    file.write(json.dumps({**record, "split": where}) + "\n")
                    self.seen.add(record["index"])
        if len(self.seen) > max(1, self.limit * self.samples):
            raise RunError(
                f"{len(self.seen)} of {self.samples} samples cannot be used, more than --max-bad {self.limit:g} "
                f"allows; the last: {new[-1]['path']}: {new[-1]['reason']}; all are listed in {self.path}"
            )
