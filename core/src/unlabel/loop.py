"""The training loop: stages, updates, saving, interruption. Read this file first.

Everything that happens in an update happens in `run_stage`, in order. The loop knows no task: what
differs between methods is behind `Task.training_step`, `after_update`, `enter_stage`, `enter_epoch`.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unlabel import checkpoint, data, optim, seeds
from unlabel.checkpoint import Position
from unlabel.data import Dataset, Quarantine
from unlabel.engine import Engine
from unlabel.errors import RunError
from unlabel.logs import Interval, Observer
from unlabel.recipe import Recipe, Stage
from unlabel.task import Batch, Progress, Task

__all__ = ["Interrupted", "Training", "resume", "train"]

Monitor = Callable[[], dict[str, float]]
"""Online check of the task as it stands: named numbers, any of which may be ``"score"`` (higher is better)."""


class Interrupted(RunError):
    """Ctrl-C or SIGTERM: the run was saved and stopped."""

    def __init__(self, number: int, position: Position):
        name = signal.Signals(number).name
        super().__init__(f"stopped by {name} after update {position.total_step}; everything is saved")
        self.exit_code = 128 + number


@dataclass(frozen=True)
class Training:
    """What is trained, on what, and who watches.

    Attributes:
        recipe: what to run; its stages' lengths are resolved against `dataset`.
        task: built and prepared by `engine`; changed in place.
        dataset: the training split.
        engine: device, processes, precision.
        folder: the run's folder; checkpoints go to ``checkpoints/``, bad samples to ``quarantine.jsonl``.
        observers: told what happens.
        monitor: called every `Judging.monitor_every` updates.
    """

    recipe: Recipe
    task: Task
    dataset: Dataset
    engine: Engine
    folder: Path
    observers: list[Observer]
    monitor: Monitor | None = None


def train(training: Training) -> None:
    """Train through the recipe's stages, from the newest good checkpoint in the run's folder on if there is one.

    Raises:
        Interrupted: a signal arrived; the run was saved first.
        RunError: loss not finite, too many bad samples, checkpoint not writable.
    """
    recipe, dataset, folder = training.recipe, training.dataset, training.folder
    stages = [training.task.configure_stage(stage.resolved(len(dataset))) for stage in recipe.stages]
    start = resume(recipe, training.task, training.engine, folder)
    quarantine = Quarantine(folder / "quarantine.jsonl", len(dataset), recipe.max_bad)
    with _Signals() as signals:
        for number, stage in enumerate(stages):
            if not stage.steps or number < start.stage or (number == start.stage and start.step >= stage.steps):
                continue  # left out, or done before
            position = start if number == start.stage else Position(recipe.name, number, 0, _before(stages, number))
            run_stage(training, stage, position, quarantine, signals)


def run_stage(training: Training, stage: Stage, start: Position, quarantine: Quarantine, signals: _Signals) -> None:
    """One stage, from update `start.step` on."""
    recipe, task, dataset, engine = training.recipe, training.task, training.dataset, training.engine
    folder, observers, monitor = training.folder, training.observers, training.monitor
    steps, horizon = stage.steps or 0, stage.horizon or 0
    save_every = recipe.save_every or max(1, min(1000, steps // 20))
    monitor_every = recipe.judging.monitor_every or max(1, steps // 10)
    checkpoints, score = folder / "checkpoints", start.score

    task.train()
    task.zero_grad(set_to_none=True)  # of parameters that an earlier stage froze but still reached
    task.progress = Progress(
        start.stage, start.step, horizon, stage.epoch_of(start.step, len(dataset)), start.total_step
    )
    task.enter_stage(stage)
    optimizers = task.optimizers(stage)
    optim.check_names(stage, optimizers)
    if start.step:
        checkpoint.load_optimizers(_path(checkpoints, start), task, optimizers, engine)
    workers = data.default_workers(engine) if recipe.execution.workers is None else recipe.execution.workers
    seed = seeds.mix(recipe.seed, start.stage)
    stream = data.batches(
        dataset,
        stage,
        engine,
        seed=seed,
        transform=task.transform(),
        start=start.step * stage.accumulate,
        workers=workers,
    )
    parts = 1 if len(dataset) < engine.world else engine.world  # processes that share an update
    interval, guard = Interval(), _Guard(training, stage, start.stage)
    for observer in observers:
        observer.stage(start.stage, stage, start.step)

    for step in range(start.step, steps):
        progress = Progress(
            start.stage, step, horizon, stage.epoch_of(step, len(dataset)), start.total_step - start.step + step
        )
        batches = _next(stream, stage.accumulate, quarantine, engine, observers, progress)
        task.progress = progress
        begun_before = step > 0 and progress.epoch == stage.epoch_of(step - 1, len(dataset))
        if not begun_before or step == start.step:
            seeds.seed(recipe.seed, start.stage, step, 0xE90C)  # what is drawn there is the same on every process
            task.enter_epoch(progress, resumed=begun_before)

        seeds.seed(recipe.seed, start.stage, step, engine.rank)  # all randomness of this update
        optim.set_schedules(optimizers, stage, step)
        with engine.iteration():
            metrics = task.training_step(batches, optimizers, engine, stage)
        progress = Progress(start.stage, step + 1, horizon, progress.epoch, progress.total_step + 1)
        task.progress = progress
        task.after_update(progress)
        if step == 0:
            for observer in observers:
                observer.event(progress, "begun", {})

        guard.add(step, metrics)
        interval.add(metrics, sum(len(batch["index"]) for batch in batches) * parts)
        last = step + 1 == steps
        if last or (step + 1) % recipe.log_every == 0:
            guard.look()
            numbers = engine.mean(interval.take()) | {"lr": _lr(optimizers)}
            _tell(observers, progress, numbers)
        if monitor is not None and (last or (step + 1) % monitor_every == 0):
            numbers = monitor()
            score = numbers.get("score", score)
            _tell(observers, progress, {name: value for name, value in numbers.items() if name != "score"})
            interval.since += numbers.get("seconds", 0.0)  # not the training's time

        # Processes agree on a signal where they meet anyway; a lone process looks at every update.
        look = engine.world == 1 or last or (step + 1) % recipe.log_every == 0
        stop = look and engine.any(signals.received is not None)
        if last or stop or (step + 1) % save_every == 0:
            guard.look()
            guard.check_weights(step)
            position = Position.of(recipe.name, progress, score, engine.scaler.state_dict())
            path = checkpoint.save(checkpoints, task, optimizers, engine, position)
            if engine.main:
                checkpoint.prune(checkpoints, recipe.keep)
            for observer in observers:
                observer.event(progress, "saved", {"path": str(path)})
        if stop:
            raise Interrupted(signals.received or signal.SIGTERM, position)


def resume(recipe: Recipe, task: Task, engine: Engine, folder: Path) -> Position:
    """Load the newest good checkpoint into the task; the beginning if there is none."""
    newest = checkpoint.newest(folder / "checkpoints", recipe.name)
    if newest is None:
        return Position(recipe.name, 0, 0, 0)
    path, position, _ = newest
    checkpoint.load_task(path, task, engine)
    task.progress = position.progress
    if position.scaler:
        engine.scaler.load_state_dict(position.scaler)
    return position


def _next(
    stream: Iterator[tuple[Batch, list[dict[str, Any]]]],
    count: int,
    quarantine: Quarantine,
    engine: Engine,
    observers: list[Observer],
    progress: Progress,
) -> list[Batch]:
    """The next `count` micro-batches on the device; bad samples met on the way go to the quarantine."""
    batches = []
    for batch, bad in islice(stream, count):
        for record in bad:
            if record["index"] not in quarantine.seen:
                for observer in observers:
                    observer.event(progress, "bad_sample", record)
        quarantine.add(bad)
        batches.append(engine.to_device(batch))
    return batches


def _tell(observers: list[Observer], progress: Progress, numbers: dict[str, float]) -> None:
    for observer in observers:
        observer.log(progress, numbers)


def _lr(optimizers: dict[str, Any]) -> float:
    return max(float(group["lr"]) for optimizer in optimizers.values() for group in optimizer.param_groups)


def _before(stages: list[Stage], number: int) -> int:
    return sum(stage.steps or 0 for stage in stages[:number])


def _path(folder: Path, position: Position) -> Path:
    return next(
        path
        for path in reversed(checkpoint.available(folder))
        if int(path.name.rpartition("-")[2]) == position.total_step
    )


class _Guard:
    """Stops the run when a loss is not finite, naming the term, the update and the samples, and keeping the batch.

    Values are looked at after each update on a CPU, where that is free, and otherwise once an interval
    and before each checkpoint, so that no bad one is ever saved.
    """

    def __init__(self, training: Training, stage: Stage, number: int):
        self.training, self.stage, self.number = training, stage, number
        self.engine = training.engine
        self.pending: list[tuple[int, dict[str, Tensor]]] = []
        # under fp16 an infinite gradient is ordinary: the scaler skips the update
        self.watched = () if training.engine.precision == "fp16" else ("gradient_norm",)

    def add(self, step: int, metrics: dict[str, Tensor]) -> None:
        self.pending.append((step, metrics))
        if self.engine.device.type == "cpu":
            self.look()

    def look(self) -> None:
        for step, metrics in self.pending:
            for name, value in metrics.items():
                if (name.startswith("loss") or name in self.watched) and not math.isfinite(value):
                    self._stop(step, name, float(value))
        self.pending.clear()

    def check_weights(self, step: int) -> None:
        """Before saving: an update may have ruined weights although its own loss was still finite."""
        for name, tensor in self.training.task.named_parameters():
            if not torch.isfinite(tensor).all():
                self._stop(step, name, math.nan)

    def _stop(self, step: int, name: str, value: float) -> None:
        dataset, folder = self.training.dataset, self.training.folder
        stream = data.batches(
            dataset,
            self.stage,
            self.engine,
            seed=seeds.mix(self.training.recipe.seed, self.number),
            transform=self.training.task.transform(),
            start=step * self.stage.accumulate,
        )
        batch, _ = next(iter(stream))
        samples = [dataset.name_of(index) for index in batch["index"].tolist()]
        path = folder / f"nonfinite-stage{self.number}-update{step}.safetensors"
        if self.engine.main:
            own = {name: value for name, value in batch.items() if name not in dataset.context()}
            save_file(dict(_tensors(own)), path)
            path.with_suffix(".json").write_text(
                json.dumps({"term": name, "update": step, "samples": samples}, indent=2)
            )
        raise RunError(
            f"{name} is {value} at update {step} of stage {self.stage.name!r}; the last good checkpoint is kept, "
            f"and the batch ({samples[0]}, ... {len(samples)} samples) is in {path}; a lower learning rate "
            f"(--set stages.{self.number}.lr=...), --precision fp32 or stages.{self.number}.clip_norm=1 usually helps"
        )


def _tensors(values: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch, of its parts as ``field.part``; what else there is, such as texts, is passed over."""
    if isinstance(values, Tensor):
        yield name, values.contiguous().clone()  # a file has no two names for one memory
    elif isinstance(values, Mapping | list | tuple):
        for part, value in values.items() if isinstance(values, Mapping) else enumerate(values):
            yield from _tensors(value, f"{name}.{part}" if name else str(part))


class _Signals:
    """Remembers Ctrl-C and SIGTERM while training; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread: whoever runs us there handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:  # launchers repeat SIGTERM; a person means it
            raise KeyboardInterrupt
        self.received = self.received or number
