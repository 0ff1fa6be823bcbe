"""How a component is tried: built from its plugin's `tiny` recipe, run by the real loop, looked at, compared.

A trial belongs to one component and is kept while the process lives, so that its checks share one tiny run. What the
checks expect of it is in `unlabel.testing.checks`; tasks and datasets have files of their own.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import subprocess
import sys
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlabel import export, loop, seeds, signature
from unlabel.catalog.builtin import COMMANDS
from unlabel.catalog.plugins import Catalog, Plugin
from unlabel.data import Dataset
from unlabel.engine import Engine
from unlabel.errors import BadSample, UsageError
from unlabel.export import examples
from unlabel.logs import Observer
from unlabel.recipe import Execution, Recipe, Ref, Stage
from unlabel.task import Batch, Sample, Task
from unlabel.testing.checks.promise import NotApplicable
from unlabel.testing.compare import difference
from unlabel.testing.component import Component
from unlabel.testing.dataset_trial import DatasetTrial
from unlabel.testing.installed import find
from unlabel.testing.optimizer_trial import OptimizerTrial
from unlabel.testing.task_trial import TaskTrial

__all__ = ["CommandTrial", "EncoderTrial", "EvaluationTrial", "ObserverTrial", "Whole", "of"]


@functools.cache
def of(plugin: str, kind: str, name: str, catalog: Catalog) -> Any:
    """The trial of a component, or of a plugin as a whole (kind ``"plugin"``); the same one each time."""
    if kind == "plugin":
        return Whole(find(plugin, catalog))
    kinds: dict[str, type[Component]] = {
        "tasks": TaskTrial,
        "encoders": EncoderTrial,
        "datasets": DatasetTrial,
        "evaluations": EvaluationTrial,
        "optimizers": OptimizerTrial,
        "observers": ObserverTrial,
        "commands": CommandTrial,
    }
    return kinds[kind](plugin, catalog.find(kind, name), catalog, of)


class Whole:
    """A plugin as a whole.

    Attributes:
        found: what the host found.
    """

    def __init__(self, found: Plugin):
        self.found = found

    def imported(self) -> set[str]:
        """Top-level modules that a fresh interpreter holds after asking the plugin what it offers."""
        script = (
            "import json, sys\nfrom unlabel.catalog.plugins import Catalog\nCatalog.installed()\n"
            "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
        )
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "UNLABEL_PLUGINS": self.found.name, "PYTHONPATH": paths}
        command = [sys.executable, "-c", script]
        answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        return set(json.loads(answer.stdout.splitlines()[-1]))


class EncoderTrial(Component):
    """An encoder, built as a `tiny` recipe builds it, or with its defaults."""

    @cached_property
    def ref(self) -> Ref:
        """Name and keywords it is tried with."""
        return self.chosen_ref("encoder")

    @cached_property
    def encoder(self) -> nn.Module:
        """A new one, in evaluation mode."""
        seeds.seed(0)
        made: nn.Module = self.target(**signature.keywords(self.ref, self.target, "encoder"))
        return made.eval() if isinstance(made, nn.Module) else made  # what it makes is yet to be checked

    def other_than_module(self) -> str:
        """The class of what was built, if it is no torch module; empty if it is one."""
        made: object = self.encoder
        return "" if isinstance(made, nn.Module) else type(made).__name__

    def user(self) -> TaskTrial | None:
        """A task whose `tiny` recipe uses it."""
        return next(
            (trial for trial in self.tasks() if self.name in {ref.name for ref in trial.recipe.encoders.values()}), None
        )

    @torch.no_grad()
    def output(self) -> Tensor | None:
        """What it makes of its own example, or what a task's `encode` gets from it; None if neither is to be had."""
        if isinstance(self.encoder, export.Exportable):
            made: Tensor = examples.call(self.encoder, self.encoder.example(3))
            return made
        user = self.user()
        if user is None:
            return None
        seen: list[Tensor] = []
        task = user.task()
        part = next(name for name, ref in user.recipe.encoders.items() if ref.name == self.name)
        task.encoders()[part].register_forward_hook(lambda module, given, made: seen.append(made))
        user.features(task)
        return next((made for made in seen if isinstance(made, Tensor)), None)

    def check_elsewhere(self) -> None:
        """Export it from a tiny run, and let the export's own snippet load it in a fresh interpreter."""
        user = self.user()
        if not isinstance(self.encoder, export.Exportable):
            raise NotApplicable("it offers no loading_code(), so it is loaded by unlabel.load_encoder alone")
        if user is None:
            raise NotApplicable("no tiny recipe uses it")
        export.export(user.ran, self.room())


class EvaluationTrial(Component):
    """An evaluation, tried on the tiny run of a task of its plugin."""

    def measured(self) -> Any:
        """What it returns for a task that lists it, or for the first one that it can judge."""
        refusals: dict[str, list[str]] = {}
        users = sorted(self.tasks(), key=lambda trial: self.name not in trial.target.evaluations)
        for trial in users:
            try:
                return self.target(trial.frozen)
            except (NotApplicable, UsageError) as error:
                refusals.setdefault(str(error), []).append(trial.name)
        reasons = [
            f"{reason} ({', '.join(names[:2])}{', ...' * (len(names) > 2)})" for reason, names in refusals.items()
        ]
        raise NotApplicable("; ".join(reasons) or "the plugin has no task to try it on")


class ObserverTrial(Component):
    """An observer, told by the loop of a tiny run of the kit's own task."""

    def ready(self) -> None:
        """Make sure that what it needs is installed."""
        try:
            self.target.check()
        except UsageError as error:
            raise NotApplicable(str(error)) from error

    def made(self) -> Observer:
        """One in the folder of a run of its own, where the recipe already lies."""
        folder = self.room()
        (folder / "recipe.json").write_text(_tale().to_json(), encoding="utf-8")
        observer: Observer = self.target(folder)
        return observer

    def started(self) -> Observer:
        """One that has heard of a run, and of nothing in it."""
        observer = self.made()
        observer.start(_tale())
        return observer

    def told(self, observer: Observer | None) -> dict[str, Tensor]:
        """The state in which a tiny run ends, in the folder of an observer that hears about it."""
        chosen, engine = _tale(), Engine("cpu", "fp32")
        seeds.seed(0)
        task = _Line()
        engine.prepare(task)
        if observer is not None:
            observer.start(chosen)
        folder, observers = (self.room(), []) if observer is None else (observer.folder, [observer])
        loop.train(
            loop.Training(chosen, task, _Numbers(), engine, folder, observers, lambda: {"score": 0.5, "knn": 0.5})
        )
        return task.state_dict()

    def influence(self, observer: Observer) -> str:
        """Where a run that it hears about ends elsewhere than one that it does not, in words."""
        return difference(self.told(None), self.told(observer))


def _tale() -> Recipe:
    """A run for observers to hear about: two stages, a bad sample, a checkpoint after each update."""
    return Recipe(
        task=Ref("kit/line"),
        encoder=Ref("kit/linear"),
        dataset=Ref("kit/numbers"),
        stages=[Stage(name=name, steps=2, batch_size=4, lr=0.1) for name in ("first", "second")],
        log_every=1,
        save_every=1,
        max_bad=0.5,
        execution=Execution(device="cpu", precision="fp32", workers=0),
    )


class _Numbers(Dataset):
    """Eight numbers, one of which cannot be read."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            raise BadSample("torn")
        return {"x": np.array([index], dtype=np.float32)}


class _Line(Task):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": (self.encoder(batch["x"]) - batch["x"]).square().mean() + 0 * torch.randn(())}


class CommandTrial(Component):
    """A subcommand, asked for its help."""

    def help(self) -> str:
        """What ``unlabel NAME --help`` prints."""
        import typer

        app = typer.Typer(add_completion=False)
        app.command(self.name)(self.target)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            app(["--help"], prog_name=f"unlabel {self.name}", standalone_mode=False)
        return printed.getvalue()

    def untyped(self) -> list[str]:
        """Parameters without a type."""
        parameters = inspect.signature(self.target).parameters.values()
        return [p.name for p in parameters if p.annotation is p.empty]

    def taken(self) -> bool:
        """Whether the core has a command of that name."""
        return self.name in COMMANDS
