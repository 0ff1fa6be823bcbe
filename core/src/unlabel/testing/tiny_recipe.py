"""What a task is tried with: the recipes of its module, and the data and the new tasks that its `tiny` recipe makes."""

from __future__ import annotations

import inspect
from functools import cached_property
from typing import Any

import yaml

from unlabel import build, compose, recipe, signature, verify
from unlabel.data import Dataset
from unlabel.engine import Engine
from unlabel.recipe import Execution, Recipe
from unlabel.task import Task
from unlabel.testing.checks.promise import NotApplicable
from unlabel.testing.component import Component

__all__ = ["TinyRecipe"]

UPDATES = 3
"""Updates of each stage in a tiny run."""


class TinyRecipe(Component):
    """A task with its recipes; nothing is trained yet."""

    def recipes(self) -> dict[str, Any]:
        """The recipe functions of the task's module."""
        module = self.offer.module()
        return {name: getattr(module, name) for name in ("paper", "quick", "tiny") if hasattr(module, name)}

    def recipe_problems(self, name: str) -> list[str]:
        """What is wrong with one of them."""
        function = self.recipes()[name]
        problems = [] if inspect.getdoc(function) else ["has no docstring: what it is for, and its command"]
        chosen = function()
        if not isinstance(chosen, Recipe):
            return [*problems, f"returns a {type(chosen).__name__}, not a Recipe"]
        if chosen.task.name != self.name:
            problems.append(f"is for task {chosen.task.name!r}, not for {self.name!r}")
        dataset = self.catalog.load("datasets", chosen.dataset.name)
        if "path" in signature.required(dataset):
            chosen = chosen.model_copy(
                update={"dataset": chosen.dataset.with_options(path="data")}
            )  # the user's to give
        verify.verify(chosen, self.catalog)
        for kind, text in (("JSON", chosen.to_json()), ("YAML", yaml.safe_dump(chosen.model_dump(mode="json")))):
            again = recipe.parse(yaml.safe_load(text), f"{name}() as {kind}")
            verify.verify(again, self.catalog)
            if again != chosen:
                problems.append(f"is another recipe after {kind}: keywords must be numbers, texts, lists or mappings")
        if name != "paper" and not problems:  # which may not fit into this machine
            implied = {}
            if dataset.implies is not Dataset.implies:
                implied = self.prepared(chosen.dataset).implies()
            whole = build.with_data(chosen, implied, self.catalog).model_copy(update={"init": None})
            build.build(whole, self.catalog, self.engine)
        return problems

    @cached_property
    def recipe(self) -> Recipe:
        """The `tiny` recipe, with no loader processes and nothing compiled."""
        if "tiny" not in self.recipes():
            raise NotApplicable(f"there is no tiny() recipe, see {self.name}-recipes_are_whole")
        here = Execution(device="cpu", precision="fp32", workers=0)
        return compose.compose(self.name, self.catalog, name="tiny").model_copy(update={"execution": here})

    @cached_property
    def dataset(self) -> Dataset:
        """The recipe's data."""
        return self.prepared(self.recipe.dataset)

    @cached_property
    def samples(self) -> Dataset:
        """What is trained on."""
        return self.dataset.split("train") or self.dataset

    @cached_property
    def engine(self) -> Engine:
        """One process on the CPU."""
        return Engine("cpu", "fp32")

    @cached_property
    def fitted(self) -> Recipe:
        """The recipe with the keywords that its data determine."""
        return build.with_data(self.recipe, self.dataset.implies(), self.catalog)

    @cached_property
    def short(self) -> Recipe:
        """The recipe with each stage cut to `UPDATES`, saved after each; the schedules are the whole ones'."""
        stages = [stage.resolved(len(self.samples)) for stage in self.fitted.stages]
        stages = [stage.model_copy(update={"steps": min(stage.steps or 1, UPDATES)}) for stage in stages]
        changes = {"stages": stages, "save_every": 1, "keep": 1000, "log_every": 1, "monitor_every": 1000}
        return self.fitted.model_copy(update=changes)

    def task(self, number: int = 0) -> Task:
        """A new task, as it enters a stage."""
        task = build.build(self.short, self.catalog, self.engine)
        task.train()
        task.enter_stage(self.short.stages[number])
        return task
