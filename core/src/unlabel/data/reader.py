"""From a dataset to batches on their way: which samples, read or gathered, transformed, collated; bad ones replaced.

Which samples, says `unlabel.data.order` for an update as a whole; here every process and micro-batch takes its part.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from unlabel import seeds
from unlabel.data.dataset import Dataset, collated
from unlabel.data.draw import ATTEMPTS, Draw, others, unlabelled
from unlabel.data.order import Order, Permutation
from unlabel.data.quarantine import UNREADABLE, reason
from unlabel.errors import RunError, UnlabelError, UsageError
from unlabel.task import Batch, Sample, Transform

if TYPE_CHECKING:
    from unlabel.engine import Engine
    from unlabel.recipe import Stage

__all__ = ["Positions", "Reader", "Request", "batches", "check", "default_workers", "micro_batch"]

_CONTEXT = "fork" if sys.platform == "linux" else None
"""How loader processes start. Under a fork server, Python 3.14's default, they would outlive a killed run: their
parent is the server, which lives as long as they do. Forked ones notice that their parent is gone."""


class Request(NamedTuple):
    """What a loader process is asked to read: a micro-batch.

    Attributes:
        pairs: (epoch, index) of each sample.
        fraction: of the stage's schedule that is done, in [0, 1].
    """

    pairs: list[tuple[int, int]]
    fraction: float


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

    def __getitems__(self, request: Request) -> tuple[Batch, list[dict[str, Any]]] | UnlabelError:
        """`read` for the loader: an error on purpose is returned, to be raised outside the loader, which would bury
        it under its own traceback."""
        try:
            return self.read(*request)
        except UnlabelError as error:
            return error

    def read(self, pairs: list[tuple[int, int]], fraction: float = 1.0) -> tuple[Batch, list[dict[str, Any]]]:
        """A micro-batch and the records of the bad samples met on the way; see `Request`.

        Raises:
            RunError: many samples in a row cannot be used.
            UsageError: data that the task or `Dataset.collate` refuses.
        """
        bad: list[dict[str, Any]] = []
        read = [self._sample(epoch, index, fraction, bad) for epoch, index in pairs]
        places = [place for place, _ in read]
        batch = collated(self.dataset, [sample for _, sample in read], places)
        batch["index"] = torch.tensor(places)  # of a stand-in its own: it may be another sample's twin
        batch["key"] = torch.tensor([seeds.key(self.seed, epoch, index) for epoch, index in pairs])
        return batch, bad

    def _sample(self, epoch: int, index: int, fraction: float, bad: list[dict[str, Any]]) -> tuple[int, Sample]:
        """The sample at `index`, or the first readable one of a fixed sequence of stand-ins; and which it is."""
        place, (part, first) = index, self.dataset.part_of(index)
        for attempt in range(ATTEMPTS):
            try:
                sample = unlabelled(self.dataset[place])
            except UsageError:  # a ValueError too, but about what was asked for and not about this sample
                raise
            except UNREADABLE as error:
                bad.append({"index": place, "path": self.dataset.name_of(place), "reason": reason(error)})
                place = first + seeds.mix(self.seed, epoch, index, attempt) % len(part)
                continue
            if self.transform is None:
                return place, sample
            seeds.seed(self.seed, epoch, index)  # for transforms of libraries that draw from torch's generator
            beside = others(part, self.seed, epoch, place - first)
            draw = Draw(seeds.generator(self.seed, epoch, index), epoch, fraction, beside)
            return place, self.transform(sample, draw)
        raise RunError(f"{ATTEMPTS} samples in a row cannot be used; the last: {bad[-1]['path']}: {bad[-1]['reason']}")


class Positions(Sampler[Request]):
    """The micro-batches of this process, without end, from micro-batch `start` on.

    Args:
        dataset: whose samples; gives their order, or leaves it to the stage.
        stage: resolved.
        seed: of the run and the stage.
        rank, world: number of this process, and of all.
        start: number of this process's first micro-batch: ``step * accumulate``.
    """

    def __init__(self, dataset: Dataset, stage: Stage, seed: int, rank: int = 0, world: int = 1, start: int = 0):
        self.stage, self.seed, self.start, self.dataset = stage, seed, start, dataset
        whole = len(dataset) < world  # fewer samples than processes: each of them gets all
        self.rank, self.world = (0, 1) if whole else (rank, world)
        own = dataset.order(0, stage.size, seed) is not None
        self.order: Order = self._own if own else Permutation(len(dataset), stage.last_batch)

    def __iter__(self) -> Iterator[Request]:
        for number, (epochs, indices) in enumerate(self.arrays(), self.start):
            pairs = list(zip(epochs.tolist(), indices.tolist(), strict=True))
            fraction = min(1.0, number // self.stage.accumulate / max(1, self.stage.horizon or 1))
            yield Request(pairs, fraction)

    def arrays(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Epochs and indices of each micro-batch, int64, (n,)."""
        accumulate, parts = self.stage.accumulate, self.stage.accumulate * self.world
        first, skipped = divmod(self.start, accumulate)
        for number in itertools.count(first):
            epochs, indices = self.order(number, self.stage.size, self.seed)
            for micro in range(skipped, accumulate):
                part = micro * self.world + self.rank
                mine = slice(part * len(indices) // parts, (part + 1) * len(indices) // parts)
                yield epochs[mine], indices[mine]
            skipped = 0

    def _own(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The dataset's own order, after a look at what it says."""
        name, parts = type(self.dataset).__name__, self.stage.accumulate * self.world
        answer = self.dataset.order(number, size, seed)
        epochs, indices = (np.asarray(values, dtype=np.int64) for values in answer or ((), ()))
        if epochs.shape != indices.shape or indices.ndim != 1 or len(indices) < parts:
            raise UsageError(
                f"the order of {name} gave {epochs.shape} epochs and {indices.shape} indices for update {number}: "
                f"expected equally many, one dimension, and a sample for each of {parts} micro-batches of all processes"
            )
        if indices.min() < 0 or indices.max() >= len(self.dataset):
            raise UsageError(
                f"the order of {name} gave index {indices.min() if indices.min() < 0 else indices.max()} for update "
                f"{number}, and there are {len(self.dataset)} samples"
            )
        return epochs, indices


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


def check(dataset: Dataset, stage: Stage, world: int) -> None:
    """UsageError if a stage's batch does not fit the samples, or their own order, before anything is trained."""
    micro_batch(stage, len(dataset), world)
    dataset.order(0, stage.resolved(len(dataset)).size, 0)


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
    micro_batch(stage, len(dataset), engine.world)
    positions = Positions(dataset, stage, seed, engine.rank, engine.world, start)
    shared = engine.to_device(dataset.context())
    table = dataset.table() if transform is None else None
    if table is not None:
        yield from _gathered(engine.to_device(table), shared, positions, engine)
        return
    loader: DataLoader[Any] = DataLoader(
        Reader(dataset, transform, seed),
        batch_sampler=positions,  # type: ignore[arg-type]  # a request is more than a list of indices
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
