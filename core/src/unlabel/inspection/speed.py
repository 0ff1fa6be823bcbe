"""``unlabel inspect PATH --speed``: samples a second of every stage, from disk to update, and which one limits.

Each stage is timed by itself, in this process, over the same few batches: reading bytes, decoding, the task's
transform, collating, copying to the device, and the task's update. Medians over batches, without the first of each.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from unlabel import build, compose, data, seeds
from unlabel.catalog.plugins import Catalog
from unlabel.data import Dataset
from unlabel.data.draw import unlabelled
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.inspection.contents import open_dataset
from unlabel.recipe import Recipe
from unlabel.task import Batch, Sample, Task

__all__ = ["measure", "recommendation"]

_BATCHES = 6
_LIMIT = 10.0  # seconds of each stage, once it was measured twice


def measure(path: str, catalog: Catalog, task: str | None = None, limit: float = _LIMIT) -> dict[str, Any]:
    """How fast each stage of training on these data is, here.

    Args:
        path: path or name of a dataset, as ``--data`` takes it.
        catalog: what is installed.
        task: whose transform and update are timed, at its quick recipe; default: the first of the dataset's plugin.
        limit: seconds to spend on a stage.

    Returns:
        JSON-able: ``task``, ``batch_size``, ``samples_per_second`` (of each stage), ``limits`` (name of the slowest
        part: ``data`` or ``model``), ``workers`` (loader processes that would keep the model busy) and ``advice``.

    Raises:
        UsageError: no such path or task, or no sample can be read.
    """
    recipe = _recipe(path, catalog, task)
    dataset = build.build_dataset(recipe.dataset, catalog)
    recipe = build.with_data(recipe, dataset.implies(), catalog)
    samples = dataset.split("train")
    if samples is None or not len(samples):
        raise UsageError(f"{path} has no training samples")
    engine = Engine.of(recipe.execution)
    built = build.build(recipe, catalog, engine)
    stage = next(s for s in recipe.stages if s.steps != 0)
    stage = stage.model_copy(update={"batch_size": min(stage.resolved(len(samples)).size, len(samples))})
    stage = stage.model_copy(update={"accumulate": 1}).resolved(len(samples))
    speeds = _stages(samples, built, engine, recipe.seed, stage.size, limit)
    speeds["model"] = _model(samples, built, engine, stage, recipe.seed, limit)
    engine.close()
    return {"task": recipe.name, "batch_size": stage.size, "engine": engine.describe(), **recommendation(speeds)}


def _recipe(path: str, catalog: Catalog, task: str | None) -> Recipe:
    name, _ = open_dataset(path, catalog)
    if task is None:
        owner = name.partition("/")[0]
        tasks = [known for known in catalog.names("tasks") if known.startswith(f"{owner}/")]
        if not tasks:
            raise UsageError(f"--speed: plugin {owner} has no task to time; give one with --task")
        task = tasks[0]
    return compose.compose(task, catalog, data=path)


def _stages(samples: Dataset, task: Task, engine: Engine, seed: int, size: int, limit: float) -> dict[str, float]:
    """Samples a second of what happens to data before the model sees them."""
    transform = task.transform()
    samples = samples.for_transform(transform)
    if transform is None and (table := samples.table()) is not None:
        ready = engine.to_device(table)
        index = engine.to_device({"index": torch.arange(size) % len(samples)})["index"]
        gathered = _timed(lambda _: {name: column[index] for name, column in ready.items()}, limit)
        return {"gather": size / gathered}
    order = seeds.permutation(len(samples), seed, 0)
    batches = [[int(order[(start + k) % len(order)]) for k in range(size)] for start in range(0, _BATCHES * size, size)]
    speeds: dict[str, float] = {}
    whole = _timed(lambda number: _readable(samples, batches[number]), limit)
    if any(entry is not None for entry in _raw(samples, batches[0])):
        reading = min(whole, _timed(lambda number: _raw(samples, batches[number]), limit))
        speeds |= {"read": size / reading, "decode": size / max(1e-9, whole - reading)}
    else:
        speeds["read and decode"] = size / whole
    read = _readable(samples, batches[0])
    if not read:
        raise UsageError("--speed: no sample of the first batch can be read; see `unlabel inspect` without it")
    read = [read[number % len(read)] for number in range(size)]
    if transform is not None:

        def transformed(number: int) -> list[Sample]:
            draws = [_draw(samples, seed, number, k) for k in range(len(read))]
            return [transform(dict(sample), draw) for sample, draw in zip(read, draws, strict=True)]

        speeds["augment"] = size / _timed(transformed, limit)
        read = transformed(0)
    speeds["collate"] = size / _timed(lambda _: data.collated(samples, read), limit)
    batch = data.collated(samples, read)
    if engine.device.type != "cpu":
        speeds["copy"] = size / _timed(lambda _: _copied(engine, batch), limit)
    return speeds


def _draw(samples: Dataset, seed: int, epoch: int, index: int) -> data.Draw:
    """What a transform draws from, as if training had just begun."""
    others = data.others(samples, seed, epoch, index)
    return data.Draw(seeds.generator(seed, epoch, index), epoch, 0.0, others)


def _readable(samples: Dataset, indices: list[int]) -> list[Sample]:
    """Those samples that can be read, without their labels."""
    readable = []
    for index in indices:
        try:
            readable.append(unlabelled(samples[index]))
        except data.UNREADABLE:
            continue
    return readable


def _raw(samples: Dataset, indices: list[int]) -> list[Any]:
    """What is stored for those that can be read."""
    stored = []
    for index in indices:
        try:
            stored.append(samples.raw(index))
        except data.UNREADABLE:
            continue
    return stored


def _copied(engine: Engine, batch: Batch) -> Batch:
    there = engine.to_device(batch)
    engine.wait()
    return there


def _model(samples: Dataset, task: Task, engine: Engine, stage: Any, seed: int, limit: float) -> float:
    """Samples a second of the task's whole update, on a batch that is there already."""
    stream = data.batches(samples, stage, engine, seed=seed, transform=task.transform())
    batch = engine.to_device(next(stream)[0])
    task.train()
    task.enter_stage(stage)
    optimizers = task.optimizers(stage)

    def update(number: int) -> None:
        seeds.seed(seed, 0, number, 0)
        task.training_step([batch], optimizers, engine, stage)
        engine.wait()

    return float(stage.size / _timed(update, limit))


def _timed(call: Callable[[int], Any], limit: float) -> float:
    """Median seconds of a call, the first not counted; stops early once `limit` is spent and one was counted."""
    spent: list[float] = []
    for number in range(_BATCHES):
        begun = time.perf_counter()
        call(number)
        spent.append(time.perf_counter() - begun)
        if len(spent) > 1 and sum(spent) > limit:
            break
    return max(1e-9, statistics.median(spent[1:]))


def recommendation(speeds: dict[str, float]) -> dict[str, Any]:
    """What limits, and what to do about it.

    Args:
        speeds: name of a stage -> samples a second; ``model`` among them.

    Returns:
        ``samples_per_second`` of each stage, of ``all data stages`` in one process and of the ``model``; ``limits``,
        ``workers``, ``advice``.
    """
    model = speeds["model"]
    spent = {name: 1 / speed for name, speed in speeds.items() if name != "model"}
    total = sum(spent.values())
    stages = {**{name: speeds[name] for name in spent}, "all data stages": 1 / total, "model": model}
    slowest = max(spent, key=lambda name: spent[name])
    share = total * model  # of one process's time, while the model takes one unit
    workers = math.ceil(share)
    if "gather" in speeds:
        limits, workers, advice = "model", 0, "data lie on the device as a table; loader processes have nothing to do"
    elif share <= 0.1:
        limits, workers = "model", 0
        advice = f"data take {share:.0%} of the model's time: read them in the training process (--workers 0)"
    elif share <= 1:
        limits, workers = "model", 1
        advice = (
            f"data take {share:.0%} of the model's time: on an accelerator one loader process hides it (--workers 1); "
            "on a processor they share the cores, so --workers 0 is as good"
        )
    else:
        limits = "data"
        advice = (
            f"one process prepares {1 / total:.4g} samples/s and the model takes {model:.4g}: "
            f"{workers} loader processes keep it busy (--workers {workers}), as far as there are cores; "
            f"most of it is {slowest} ({spent[slowest] / total:.0%})"
        )
        if slowest == "decode":
            advice += "; store smaller files if the originals are larger than the crops"
        if slowest == "read":
            advice += "; copy the data to a local disk, or put them into shards"
    rounded = {name: round(speed, 1) for name, speed in stages.items()}
    return {"samples_per_second": rounded, "limits": limits, "workers": workers, "advice": advice}
