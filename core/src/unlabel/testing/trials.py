"""How a component is tried: built from its plugin's `tiny` recipe, run by the real loop, looked at, compared.

A trial belongs to one component and is kept while the process lives, so that its checks share one tiny run.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import os
import subprocess
import sys
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from unlabel import data, describe, recipe, run, seeds
from unlabel.data import Dataset
from unlabel.engine import Engine
from unlabel.logs import Observer
from unlabel.plugins import Catalog, Offer, Plugin
from unlabel.recipe import Execution, Recipe, Stage
from unlabel.task import Batch, Task
from unlabel.testing.checks import NotApplicable
from unlabel.testing.contract import find

__all__ = ["Component", "TaskTrial", "Whole", "of"]

UPDATES = 3
"""Updates of each stage in a trial."""


@functools.cache
def of(plugin: str, kind: str, name: str) -> Any:
    """The trial of a component, or of a plugin as a whole (kind ``"plugin"``)."""
    catalog = _catalog()
    if kind == "plugin":
        return Whole(find(plugin, catalog))
    kinds = {"tasks": TaskTrial}
    return kinds.get(kind, Component)(plugin, catalog.find(kind, name), catalog)


@functools.cache
def _catalog() -> Catalog:
    return Catalog.installed()


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
            "import json, sys\nfrom unlabel.plugins import Catalog\nCatalog.installed()\n"
            "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
        )
        environment = {**os.environ, "UNLABEL_PLUGINS": self.found.name}
        answer = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
        )
        return set(json.loads(answer.stdout.splitlines()[-1]))


class Component:
    """Something a plugin offers by name.

    Attributes:
        plugin: name of the plugin. offer: name and place. catalog: what is installed.
    """

    def __init__(self, plugin: str, offer: Offer, catalog: Catalog):
        self.plugin, self.offer, self.catalog = plugin, offer, catalog

    @property
    def name(self) -> str:
        """Its name in the catalog."""
        return self.offer.name

    @property
    def kind(self) -> str:
        """The hook that offers it."""
        return self.offer.kind

    @cached_property
    def target(self) -> Any:
        """The class or function itself."""
        return self.offer.load()

    def misfit(self) -> str:
        """Why the object is not of its kind; empty if it is."""
        wanted: dict[str, type] = {"tasks": Task, "datasets": Dataset, "observers": Observer}
        expected = wanted.get(self.kind)
        if expected and not (inspect.isclass(self.target) and issubclass(self.target, expected)):
            return f"{self.offer.target} is no subclass of unlabel.{expected.__name__}, which {self.kind} are"
        if not callable(self.target):
            return f"{self.offer.target} is a {type(self.target).__name__}: a class or function is expected"
        made = recipe.made_by(self.target)
        if self.kind == "encoders" and made is not None and not issubclass(made, nn.Module):
            return f"{self.offer.target} makes a {made.__name__}: encoders are torch modules"
        return ""

    def undocumented(self) -> list[str]:
        """What is missing in the description of the keywords."""
        problems = []
        for entry in describe.component(self.offer, self.catalog)["keywords"]:
            if entry["type"] == "any":
                problems.append(f"keyword {entry['name']!r} has no type: annotate it")
            if not entry["meaning"]:
                problems.append(f"keyword {entry['name']!r} has no meaning: a line under 'Args:' in the docstring")
            if self.kind == "tasks" and entry["required"]:
                problems.append(f"keyword {entry['name']!r} has no default: give it the paper's value")
        if self.kind == "tasks":
            parameters = list(inspect.signature(self.target).parameters.values())[1:]
            positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
            if positional:
                problems.append(f"{', '.join(positional)} can be given by position: put '*,' after the encoder")
        return problems


class TaskTrial(Component):
    """A task, tried on the data of its `tiny` recipe, on one thread of a CPU's worth of work, in fp32."""

    @cached_property
    def recipe(self) -> Recipe:
        """The `tiny` recipe, where equal means bit for bit: CPU, fp32, no loader processes, nothing compiled."""
        if not hasattr(self.offer.module(), "tiny"):
            raise NotApplicable(f"there is no tiny() recipe, see {self.name}-has_recipes")
        here = Execution(device="cpu", precision="fp32", workers=0)
        return run.compose(self.name, self.catalog, name="tiny").model_copy(update={"execution": here})

    @cached_property
    def dataset(self) -> Dataset:
        """The recipe's data."""
        return run.build_dataset(self.recipe.dataset, self.catalog)

    @cached_property
    def samples(self) -> Dataset:
        """What is trained on."""
        return self.dataset.split("train") or self.dataset

    @cached_property
    def engine(self) -> Engine:
        """One process on the CPU."""
        return Engine("cpu", "fp32")

    @cached_property
    def stages(self) -> list[Stage]:
        """The recipe's stages, lengths in updates, cut to `UPDATES` each; their schedules are the whole ones."""
        resolved = [stage.resolved(len(self.samples)) for stage in self.recipe.stages]
        return [stage.model_copy(update={"steps": min(stage.steps or 1, UPDATES)}) for stage in resolved]

    def task(self, number: int = 0, *, seed: int | None = None) -> Task:
        """A new task, as it enters a stage."""
        chosen = self.recipe if seed is None else self.recipe.model_copy(update={"seed": seed})
        task, _ = run.build(chosen, self.catalog, self.engine)
        task.train()
        task.enter_stage(self.stages[number])
        return task

    def batch(self, number: int = 0) -> Batch:
        """The first training batch of a stage; a copy of its own."""
        return copy.deepcopy(self._batch(number))

    @functools.cache  # noqa: B019  # trials live as long as the process
    def _batch(self, number: int) -> Batch:
        seed = seeds.mix(self.recipe.seed, number)
        transform = self.task().transform()
        stream = data.batches(self.samples, self.stages[number], self.engine, seed=seed, transform=transform)
        batch, _ = next(stream)
        return batch

    def terms(self) -> dict[str, Tensor]:
        """What `loss` returns on the first batch."""
        task = self.task()
        seeds.seed(1)
        return task.loss(self.batch())
