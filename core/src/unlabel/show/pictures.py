"""What a task saw and did, kept while it trains: ``pictures/`` of a run, for its report.

A few times a stage the same handful of training samples goes through `Task.show`. Nothing of the training
depends on it: the task is in evaluation mode without gradients and back in its own mode afterwards, and the random
numbers of every update are a function of its position alone. One that fails is said once and missed, no more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlabel import data, seeds
from unlabel.data import Dataset
from unlabel.engine import Engine
from unlabel.evaluate.features import evaluating
from unlabel.logs import Observer
from unlabel.recipe import Recipe, Stage
from unlabel.show import files, media
from unlabel.task import Batch, Progress, Task

__all__ = ["Pictures", "Taken", "taken"]

_FRACTIONS = (0.05, 0.25, 0.5, 1.0)  # of a stage's updates, besides its first: what changes, changes early
_SEVERAL = (0.5, 1.0)  # the same of one of several stages
_SAMPLES = 16


class Pictures(Observer):
    """Takes pictures after the first update of each stage, at a few points of it, and at its end.

    The first update is what a user waits for, so nothing is shown before it; most recipes begin with a rate near zero,
    and then it has changed hardly anything. A later point counts from the first logged update at or after it. A resumed
    run takes those that are still to come, and once more those after its checkpoint, which come out the same.

    Args:
        folder: the run's; pictures go to ``pictures/``, one file a point.
        task: whose `show` is called.
        samples: the training split.
        engine: knows the device; pictures are taken in full precision.
        seed: of the run.
    """

    def __init__(self, folder: Path, *, task: Task, samples: Dataset, engine: Engine, seed: int):
        super().__init__(folder)
        self.task, self.samples, self.engine, self.seed = task, samples, engine, seed
        self.due: list[int] = []
        self.fractions: tuple[float, ...] = _FRACTIONS

    def start(self, recipe: Recipe) -> None:
        """The more stages, the fewer points each."""
        self.fractions = _FRACTIONS if len(recipe.stages) == 1 else _SEVERAL

    def stage(self, number: int, stage: Stage, start: int) -> None:
        """Note which points of the stage are still to come."""
        steps = stage.steps or 0
        self.due = sorted({math.ceil(fraction * steps) for fraction in self.fractions})
        self.due = [step for step in self.due if step > start]

    def event(self, progress: Progress, name: str, details: Mapping[str, Any]) -> None:
        """Take the first pictures once the first update is done."""
        if name == "begun":
            self._reach(progress)

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Take the pictures of the points that were reached."""
        if self.due and progress.step >= self.due[0]:
            self._reach(progress)

    def _reach(self, progress: Progress) -> None:
        self.due = [step for step in self.due if step > progress.step]
        self.take(progress.stage, progress.step)

    def take(self, stage: int, step: int) -> None:
        """Take the task's pictures as it stands after `step` updates of a stage, and write them.

        Raises:
            ValueError: something was returned that cannot be shown.
        """
        seeds.seed(self.seed, stage, 0x91C)
        with evaluating(self.task), torch.no_grad():
            shown = media.checked(self.task.show(self._batch()))
        if shown:
            files.write(self.folder / "pictures" / f"stage{stage:02d}-update{step:08d}.npz", shown)

    def _batch(self) -> Batch:
        """The same samples every time, as training would read them; all of those that belong together."""
        count, transform = len(self.samples), self.task.transform()
        few = np.arange(count) if self.samples.full_batch else np.sort(seeds.permutation(count, self.seed)[:_SAMPLES])
        table = self.samples.table() if transform is None else None
        if table is not None:
            index = torch.from_numpy(few)
            keys = seeds.keys(self.seed, torch.zeros_like(index), index)
            batch = {**{name: column[index] for name, column in table.items()}, "index": index, "key": keys}
        else:
            batch, _ = data.Reader(self.samples, transform, self.seed).read([(0, int(i)) for i in few])
        return self.engine.to_device({**batch, **self.samples.context()})


@dataclass(frozen=True)
class Taken:
    """What was shown at one point: after `step` updates of stage `stage` (from 0), in the file `path`."""

    stage: int
    step: int
    path: Path


def taken(folder: Path) -> list[Taken]:
    """Which pictures a run's folder holds, in the order of training."""
    points = []
    for path in sorted(folder.glob("pictures/stage*-update*.npz")):
        stage, _, step = path.stem.removeprefix("stage").partition("-update")
        if stage.isdigit() and step.isdigit():
            points.append(Taken(int(stage), int(step), path))
    return points
