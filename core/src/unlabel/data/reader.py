"""From a dataset to batches on their way: which samples, read or gathered, transformed, collated; bad ones replaced.

The order is a function of position: sample number *p* of a stage is entry ``p mod n`` of the
permutation of epoch ``p div n``. Update *s* of batch size *B* takes positions ``s B ... (s+1) B - 1``,
so a batch may straddle two epochs, no sample is ever dropped, and resuming needs nothing but *s*.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from unlabel import seeds
from unlabel.data.dataset import Dataset, collated
from unlabel.data.quarantine import UNREADABLE, reason
from unlabel.errors import RunError, UnlabelError, UsageError
from unlabel.task import Batch, Sample, Transform

if TYPE_CHECKING:
    from unlabel.engine import Engine
    from unlabel.recipe import Stage

__all__ = ["Positions", "Reader", "batches", "default_workers", "micro_batch"]

_ATTEMPTS = 50

_CONTEXT = "fork" if sys.platform == "linux" else None
"""How loader processes start. Under a fork server, Python 3.14's default, they would outlive a killed run: their
parent is the server, which lives as long as they do. Forked ones notice that their parent is gone."""


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
