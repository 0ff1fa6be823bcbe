"""How a task is tried: one tiny run by the real loop, and what can be told by looking at it from inside."""

from __future__ import annotations

import copy
import functools
import shutil
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlabel import build, checkpoint, data, export, loop, optim, seeds
from unlabel.data import Reader
from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Ref
from unlabel.run import Run
from unlabel.session import Session
from unlabel.task import Batch, Progress, Task, Transform
from unlabel.testing import accelerator, network
from unlabel.testing.checks.promise import NotApplicable
from unlabel.testing.compare import difference, digests, distance, saved_tensors
from unlabel.testing.encoding import FEW, Encoding, apart
from unlabel.testing.processes import pair
from unlabel.testing.reading import positions, read
from unlabel.testing.recording import Recording, first_updates, members

__all__ = ["TaskTrial"]

LIMIT = {"train": 256, "test": 128}
"""Samples that an evaluation gets to see."""


class TaskTrial(Encoding):
    """A task, tried on the data of its `tiny` recipe, where equal means bit for bit: on a CPU, in fp32."""

    attempts = 200
    """Updates in which the loss of one batch must fall clearly."""

    fall = 0.1
    """What is clear, as a share of the loss."""

    # Batches and losses

    def batch(self, number: int = 0) -> Batch:
        """The first training batch of a stage; a copy of its own."""
        return copy.deepcopy(self._batches[number])

    @cached_property
    def _batches(self) -> list[Batch]:
        transform = self.task().transform()
        streams = [
            data.batches(
                self.samples, stage, self.engine, seed=seeds.mix(self.recipe.seed, number), transform=transform
            )
            for number, stage in enumerate(self.short.stages)
        ]
        return [next(stream)[0] for stream in streams]

    def accelerated(self, number: int) -> str:
        """How the loss of a stage leaves its device or waits for the host, in words; empty if it does not."""
        task, stage = self.task(number), self.short.stages[number]
        seed = seeds.mix(self.recipe.seed, number)
        stream = data.batches(self.samples, stage, self.engine, seed=seed, transform=task.transform())
        return accelerator.updates(task, [next(stream)[0] for _ in range(2)])

    @property
    def loses(self) -> bool:
        """Whether it has a `loss` of its own; a task with a `training_step` may do without."""
        return bool(self.target.loss is not Task.loss)

    def terms(self, task: Task, batch: Batch, number: int = 0) -> dict[str, Tensor]:
        """What `loss` returns in a stage; where a task has only a `training_step`, what that returns."""
        if self.loses:
            return task.loss(batch)
        stage = self.short.stages[number].model_copy(update={"accumulate": 1})
        optimizers = task.optimizers(stage)
        optim.set_schedules(optimizers, stage, 0)
        return task.training_step([batch], optimizers, self.engine, stage)

    def value(self, terms: Mapping[str, Tensor], number: int = 0) -> float:
        """The number that drives the update, out of what a `training_step` returns: its losses, else its ``"loss"``."""
        parts = {name: value for name, value in terms.items() if name.startswith("loss_")}
        weights = self.short.stages[number].weights
        if parts:
            return sum(float(value) * weights.get(name, 1.0) for name, value in parts.items())
        return float(terms["loss"]) * weights.get("loss", 1.0)

    @cached_property
    def malformed(self) -> str | None:
        """What is wrong with the losses of the first batches, in words; None if `loss` raises, as `trained` will."""
        try:
            words = [
                self._malformed(self.terms(self.task(number), self.batch(number), number))
                for number in range(len(self.short.stages))
            ]
        except NotApplicable:
            raise
        except (Exception, SystemExit):
            return None
        return next(filter(None, words), "")

    def _malformed(self, terms: Mapping[str, Tensor]) -> str:
        for name, value in terms.items():
            if value.shape:
                return f"loss() returns {name!r} of shape {tuple(value.shape)}: a scalar is expected, as .mean() gives"
            if not value.isfinite():
                return f"loss() returns {name!r} = {value.item()} on the first batch: it must be finite"
        driving = [name for name in terms if name == "loss" or name.startswith("loss_")]
        if self.loses and driving and not any(terms[name].requires_grad for name in driving):
            return f"{' and '.join(driving)} need no gradient, so nothing is learnt: detached, or made under no_grad()?"
        return ""

    # The tiny run

    def trained(self) -> Run:
        """The tiny run, evaluated by nobody yet; whatever goes wrong in it, raised.

        A check that only needs it asks for `ran`.
        """
        failure = self._outcome[0]
        if failure is not None:
            raise failure
        return self.ran

    @property
    def ran(self) -> Run:
        """The tiny run, or the reason why there is none."""
        failure = self._outcome[0]
        if isinstance(failure, NotApplicable):
            raise failure
        if failure is not None:
            raise NotApplicable(f"the tiny run fails, see {self.name}-trains")
        finished: Run = self._outcome[1]
        return finished

    @cached_property
    def tried(self) -> list[str]:
        """What the tiny run tried to connect to, as long as it went."""
        return self._outcome[2]

    @cached_property
    def _outcome(self) -> tuple[BaseException | None, Any, list[str]]:
        if self.malformed:
            return NotApplicable(f"its loss is at fault, see {self.name}-loss_is_a_finite_scalar"), None, []
        folder = self.room() / "run"
        with network.refused() as tried:
            try:
                Session(self.short, folder, self.catalog, evaluate=False, quiet=True, report=False).run()
                task = Run(folder, self.catalog).task(self.engine)
                self.features(task)
            except NotApplicable:
                raise
            except (Exception, SystemExit) as error:  # remembered for every check, raised by one
                return error, None, tried
        return None, Run(folder, self.catalog), tried

    @cached_property
    def ran_task(self) -> Task:
        """The task as the tiny run saved it."""
        return self.ran.task(self.engine)

    @property
    def stages(self) -> range:
        """Numbers of the stages of the tiny run."""
        self.ran  # noqa: B018  # or the reason why there is none
        return range(len(self.short.stages))

    # The same run by the loop alone, looked at from inside

    @cached_property
    def _observed(self) -> tuple[Recording, Task, Path]:
        self.ran  # noqa: B018  # or the reason why there is none
        engine, folder = Recording(), self.room()
        task = build.build(self.short, self.catalog, engine)
        loop.train(loop.Training(self.short, task, self.samples, engine, folder, []))
        return engine, task, folder

    def recorded(self) -> Recording:
        """The gradients of the tiny run."""
        return self._observed[0]

    def need_steady(self) -> None:
        """Raise `NotApplicable` where nothing can be the same to the bit, because chance is not injected."""
        if any(any(self.draws(number).values()) for number in self.stages):
            raise NotApplicable(f"its loss is never the same, see {self.name}-randomness_is_injected")
        transform = self.ran_task.transform()
        if transform is not None:
            first, second = self.read_here(transform)
            if first != second:
                raise NotApplicable(f"its samples are never the same, see {self.name}-transform_is_repeatable")

    def checkpoints(self) -> list[Path]:
        """One after each update of the tiny run, oldest first."""
        return checkpoint.available(self._observed[2] / "checkpoints")

    def resumed(self, path: Path) -> Path:
        """Go on from one of the checkpoints in another folder; the last checkpoint there."""
        folder = self.room()
        shutil.copytree(path, folder / "checkpoints" / path.name)
        task = build.build(self.short, self.catalog, self.engine)
        loop.train(loop.Training(self.short, task, self.samples, self.engine, folder, []))
        return checkpoint.available(folder / "checkpoints")[-1]

    def unlike(self, left: Path, right: Path) -> str:
        """Where two checkpoints differ, in words; empty if they are the same to the bit."""
        return difference(saved_tensors(left), saved_tensors(right))

    def reloaded(self) -> dict[str, str]:
        """Where a task with another seed that loaded the last checkpoint differs from the one that was saved."""
        last = self.stages[-1]
        stage = self.short.stages[last]
        left = copy.deepcopy(self._observed[1])
        right = build.build(self.short.model_copy(update={"seed": self.short.seed + 1}), self.catalog, self.engine)
        checkpoint.load_task(self.checkpoints()[-1], right, self.engine)
        right.train()
        right.enter_stage(stage)
        done = (stage.steps or 1) - 1
        total = sum(each.steps or 0 for each in self.short.stages) - 1
        epoch = done * stage.size // len(self.samples)
        for task in (left, right):
            task.progress = Progress(last, done, stage.horizon or 0, epoch, total)
            task.enter_epoch(task.progress, resumed=True)
        found: dict[str, list[dict[str, Tensor]]] = {"the features": [], "the losses": []}
        for task in (left, right):
            found["the features"].append(self.features(task))
            found["the losses"].append(self.seeded_terms(task, last))
        return {name: difference(one, two) for name, (one, two) in found.items()}

    @functools.cache  # noqa: B019  # a trial lives as long as the process
    def draws(self, number: int) -> dict[str, str]:
        """What the loss of a stage depends on besides seed, batch and weights: where it differs, in words.

        Compared are new tasks on the same batch: twice alike, with numpy's global generator seeded otherwise, and,
        for what is drawn after the loss, with torch's seeded otherwise.
        """
        state = np.random.get_state()  # noqa: NPY002  # the global generator is what this is about
        try:
            terms, after, moved = [], [], False
            for numpy_seed, seed in ((0, 1), (0, 1), (1, 1), (0, 2)):
                task = self.task(number)
                np.random.seed(numpy_seed)  # noqa: NPY002
                before = digests(np.random.get_state())  # noqa: NPY002
                terms.append(self.seeded_terms(task, number, seed))
                moved = moved or digests(np.random.get_state()) != before  # noqa: NPY002
                after.append(float(torch.rand(())))
        finally:
            np.random.set_state(state)  # noqa: NPY002
        again = difference(terms[0], terms[1])
        numpy = "" if again else difference(terms[0], terms[2]) or ("its state moved" if moved else "")
        return {
            "again": again,
            "numpy": numpy,
            "seeded": "the same draw after two seeds" if after[0] == after[3] else "",
        }

    def seeded_terms(self, task: Task, number: int, seed: int = 1) -> dict[str, Tensor]:
        """Named terms of the first batch of a stage, drawn with a seed; detached."""
        seeds.seed(seed)
        return {name: value.detach() for name, value in self.terms(task, self.batch(number), number).items()}

    def overfitted(self, number: int) -> tuple[float, float]:
        """The loss of a stage's first batch, before and after updates on it: `attempts`, or until it fell.

        All that changes are the parameters that learn: the randomness is that of the first update, and teachers,
        queues and statistics are put back after each.
        """
        batch, task = self.batch(number), self.task(number)
        plain = {
            "accumulate": 1,
            "steps": self.attempts,
            "horizon": self.attempts,
            "warmup_steps": 0,
            "schedule": Ref("constant"),
            "optimizer": Ref("adam"),
            "optimizers": {},
            "lr": 3e-3,
            "lr_batch_size": None,
            "weight_decay": 0.0,
        }
        stage = self.short.stages[number].model_copy(update=plain)
        optimizers = task.optimizers(stage)
        learning = {parameter for optimizer in optimizers.values() for parameter in members(optimizer)}
        still = [
            (value, value.detach().clone())
            for value in [*task.parameters(), *task.buffers()]
            if value not in learning or not value.requires_grad
        ]
        losses = []
        for step in range(self.attempts):
            seeds.seed(1)
            optim.set_schedules(optimizers, stage, step)
            metrics = task.training_step([dict(batch)], optimizers, self.engine, stage)
            losses.append(self.value(metrics, number))
            if losses[0] - losses[-1] > self.fall * max(abs(losses[0]), abs(losses[-1])):
                break
            with torch.no_grad():
                for value, before in still:
                    value.copy_(before)
        return losses[0], losses[-1]

    def scribbles(self) -> dict[str, list[str]]:
        """Fields of a batch that each of the task's methods changed."""
        self.ran  # noqa: B018  # or the reason why there is none
        task = self.task()
        given = {"loss": self.batch(), "encode": next(self.encoded_batches(task))}
        before = {method: digests(batch) for method, batch in given.items()}
        self.terms(task, given["loss"])
        for output in self.outputs(task):
            self.encode(task, given["encode"], output)
        after = {method: digests(batch) for method, batch in given.items()}
        return {
            method: sorted(name for name in before[method] if before[method][name] != after[method].get(name))
            for method in given
        }

    # Features

    def again(self) -> float:
        """Difference of features between two times, with other seeds and keys, as a share of the largest one."""
        return apart(self.features(self.ran_task), self.features(self.ran_task, epoch=1, seed=1))

    def mixed(self) -> float:
        """Difference of features between one batch and several in another order, as a share of the largest one."""
        order = list(range(min(FEW, len(self.samples))))
        return apart(self.features(self.ran_task, order), self.features(self.ran_task, order[::-1], size=3))

    # Elsewhere

    def elsewhere(self, transform: Transform | None) -> list[dict[str, str]]:
        """Fingerprints of training samples here, here again, and in two other processes; see `read`."""
        reader = Reader(self.samples, transform, self.recipe.seed)
        return self.read_here(transform) + pair()(read, reader, positions(len(self.samples)), group=False)

    def read_here(self, transform: Transform | None) -> list[dict[str, str]]:
        """The same, here twice."""
        reader = Reader(self.samples, transform, self.recipe.seed)
        return [read(reader, positions(len(self.samples))) for _ in range(2)]

    def apart_in_two(self) -> tuple[float, str]:
        """How far what the first updates compute in two processes is from one process's, and where most.

        As a share of the length of all gradients of an update, or of a buffer.
        """
        stages = []
        for stage in self.short.stages:
            parts = 2 * stage.accumulate
            falling = Ref(
                stage.schedule.name, **{name: value for name, value in stage.schedule.options.items() if name != "end"}
            )
            # the weights hardly move, so that rounding in one stage does not grow in the next
            still = {"lr": stage.lr * 1e-3, "schedule": falling, "warmup_start_lr": stage.warmup_start_lr * 1e-3}
            size = max(parts, stage.size // parts * parts)
            stages.append(stage.model_copy(update={**still, "steps": 1, "batch_size": size}))
        chosen = self.short.model_copy(update={"stages": stages})
        one = first_updates(chosen, self.catalog)
        two = pair()(first_updates, chosen, self.catalog)[0]
        if one.keys() != two.keys():
            return float("inf"), ", ".join(sorted(one.keys() ^ two.keys())[:3])
        return max((distance(one[name], two[name]) for name in one), default=(0.0, ""))

    # Evaluation and export

    @cached_property
    def frozen(self) -> Frozen:
        """The tiny run's encoder, with a part of the data."""
        return Frozen(self.ran_task, self.dataset, self.engine, seed=self.recipe.seed, limit=LIMIT)

    def evaluated(self, name: str) -> Any:
        """What an evaluation returns; `NotApplicable` where it needs labels or held-out samples that are not there."""
        function = self.catalog.load("evaluations", name)
        try:
            return function(self.frozen)
        except UsageError as error:
            if self.frozen.has_split("test") and self.frozen.has_labels():
                raise
            raise NotApplicable(f"{name}: {error}") from error

    def exported(self) -> float:
        """Difference of features after an export, as a share of the largest one."""
        folder = self.room()
        export.export(self.ran, folder, check=False)
        task = self.ran.task(self.engine)
        before, encoders = self.features(task), task.encoders()
        for name in encoders:
            setattr(task, name, export.load_encoder(folder, self.catalog, of=name if len(encoders) > 1 else ""))
        return apart(before, self.features(task))
