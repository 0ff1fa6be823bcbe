"""A run on disk: a folder opened. What was run, what came out of it, and its encoders."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabel import build, checkpoint, claims, compose, judge, loop, recipe
from unlabel.catalog.plugins import Catalog
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError, nearest
from unlabel.recipe import Recipe, Ref
from unlabel.storage import assets
from unlabel.storage.jsonl import read_jsonl
from unlabel.terminal import Say, lacking_lines, silent

if TYPE_CHECKING:
    from torch import nn

    from unlabel.data import Dataset
    from unlabel.task import Task

__all__ = ["Run"]


@dataclass
class Run:
    """A run on disk.

    Args:
        folder: holds ``recipe.json``, ``metrics.jsonl``, ``checkpoints/`` and so on.
        catalog: what is installed; default: looked up.

    Raises:
        UsageError: the folder is no run.
    """

    folder: Path
    catalog: Catalog

    def __init__(self, folder: Path | str, catalog: Catalog | None = None):
        self.folder = Path(folder)
        self.catalog = catalog or Catalog.installed()
        if not (self.folder / "recipe.json").is_file():
            beside = self.folder.parent if self.folder.parent.is_dir() else Path()
            runs = [str(path.parent) for path in beside.glob("*/recipe.json")]
            what = "has no recipe.json" if self.folder.exists() else "does not exist"
            raise UsageError(f"{self.folder} is not a run: it {what}{nearest(str(self.folder), runs)}")

    @property
    def recipe(self) -> Recipe:
        """What was (or is being) run."""
        return recipe.load(self.folder / "recipe.json")

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        return read_jsonl(path) if path.exists() else []

    @property
    def evaluations(self) -> dict[str, Any]:
        """What was measured: ``{"before": {...}, "after": {...}, "health": [...]}``, as far as it was."""
        path = self.folder / "evaluations.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            again = f"`unlabel resume {shlex.quote(str(self.folder))}`"
            raise RunError(f"{path} is damaged ({error}); delete it, and {again} measures again") from error

    @property
    def encoder(self) -> nn.Module:
        """The trained encoder, on the CPU, in evaluation mode; UsageError if there are several."""
        modules = self.encoders
        if len(modules) > 1:
            raise UsageError(f"{self.folder} has the encoders {', '.join(modules)}: take one of Run.encoders")
        return next(iter(modules.values()))

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """The trained encoders by the names they have in the recipe, on the CPU, in evaluation mode."""
        names, modules = self.recipe.encoders, self.task().encoders()
        if len(names) == 1:  # a task may call its only encoder otherwise
            return {next(iter(names)): next(iter(modules.values())).eval()}
        return {name: module.eval() for name, module in modules.items()}

    def task(self, engine: Engine | None = None) -> Task:
        """The task with the weights of the newest good checkpoint.

        Raises:
            RunError: there is no checkpoint yet, or none is whole.
        """
        engine, original = engine or Engine("cpu", "fp32"), self.recipe
        if checkpoint.newest(self.folder / "checkpoints", original.name) is None:
            raise RunError(f"{self.folder} has no checkpoint yet; `unlabel resume {self.folder}` starts it")
        task = build.build_task(original, self.catalog)
        task.use_assets(assets.load(self.folder, "task"))
        engine.place(task)
        task.prepare()
        loop.resume(original, task, engine, self.folder)
        return task.eval()

    def dataset(self, ref: Ref | None = None) -> Dataset:
        """The dataset of the run, or another one, ready to be read; one of the same kind gets the run's assets."""
        original = self.recipe.dataset
        dataset = build.build_dataset(ref or original, self.catalog)
        if ref is None or ref.name == original.name:
            dataset.use_assets(assets.load(self.folder, "dataset"))
        dataset.prepare()
        return dataset

    def evaluate(
        self,
        *names: str,
        data: str | None = None,
        options: Iterable[str] = (),
        device: str = "auto",
        say: Say = silent,
    ) -> dict[str, dict[str, float]]:
        """Run downstream evaluations of the trained encoder.

        Args:
            names: evaluations; default: the recipe's, or the task's own.
            data: another dataset (name or path) than the one trained on.
            options: ``NAME.KEYWORD=VALUE`` settings of evaluations, ``dataset.KEYWORD=VALUE`` ones of the dataset,
                ``judging.FIELD=VALUE`` of how much is read.
            device: where features are computed.
            say: told what an evaluation that was not named lacks.

        Returns:
            name -> measured numbers.

        Raises:
            UsageError: something asked for does not exist or does not fit, with the nearest valid choice; no evaluation
                can be made.
        """
        original = self.recipe
        if data:
            original = original.model_copy(update={"dataset": claims.dataset_ref(data, original, self.catalog)})
        options = list(options)
        data_options = [
            text for text in options if compose.assigned(text)[0].partition(".")[0] in ("dataset", "judging")
        ]
        if data_options:
            original = compose.with_overrides(original, data_options, self.catalog)
        engine = judge.engine_for(original, device)
        task = self.task(engine)
        dataset = self.dataset(original.dataset)
        others = [text for text in options if text not in data_options]
        refs = judge.requested(original, task, self.catalog, names, others)
        judged = judge.frozen(original, task, dataset, engine)
        if names:
            return judge.measure(judged, refs, self.catalog)
        verdict = judge.attempt(judged, refs, self.catalog)
        if not verdict.after:
            raise UsageError("; ".join(lacking_lines(verdict.lacking)))
        for line in lacking_lines(verdict.lacking):
            say(line)
        return verdict.after
