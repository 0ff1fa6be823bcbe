"""From a recipe to objects: the dataset, the encoders, the task around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from unlabel import seeds, signature
from unlabel.errors import UsageError
from unlabel.joint import Joint
from unlabel.recipe import Recipe, Ref, task_labels

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog
    from unlabel.data import Dataset
    from unlabel.engine import Engine
    from unlabel.task import Task

__all__ = ["build", "build_dataset", "build_encoder", "build_task", "with_data", "with_provenance"]


def build_dataset(ref: Ref, catalog: Catalog) -> Dataset:
    """Build a dataset from its Ref."""
    make = signature.factory(ref, "datasets", catalog)
    return cast("Dataset", make(**signature.keywords(ref, make, "dataset")))


def build_encoder(ref: Ref, catalog: Catalog, role: str = "encoder") -> nn.Module:
    """Build an encoder from its Ref; `role` is how the user addresses it."""
    make = signature.factory(ref, "encoders", catalog)
    return cast(nn.Module, make(**signature.keywords(ref, make, role)))


def build_task(recipe: Recipe, catalog: Catalog) -> Task:
    """Build encoders and task with the recipe's seed, on the CPU; `Recipe.init` is not looked at.

    Some tasks give an encoder its first weights. Among several, the first one's hold.

    Raises:
        UsageError: a name, a keyword, or an encoder that a task refuses.
    """
    seeds.seed(recipe.seed, 0x1417)
    single = len(recipe.encoders) == 1
    encoders = {
        name: build_encoder(ref, catalog, "encoder" if single else f"encoders.{name}")
        for name, ref in recipe.encoders.items()
    }
    if len(recipe.tasks) == 1:
        return _built(recipe.task, encoders, recipe, catalog)
    parts: dict[str, Task] = {}
    first: dict[str, Tensor] = {}
    for ref, label in zip(recipe.tasks, labels(recipe).values(), strict=True):
        try:
            parts[label] = _built(ref, encoders, recipe, catalog)
        except UsageError as error:
            raise UsageError(f"{ref.name}, a part of {recipe.name}: {error}") from error
        weights = nn.ModuleDict(encoders).state_dict()
        first = first or {key: value.clone() for key, value in weights.items()}
        with torch.no_grad():
            for key, value in weights.items():
                if key in first and first[key].shape == value.shape:
                    value.copy_(first[key])
    how = recipe.combination
    return Joint(encoders, parts, combine=how.how, normalise=how.normalise, update=how.update)


def labels(recipe: Recipe) -> dict[str, str]:
    """Short name of each task of a recipe, by its name."""
    return task_labels([ref.name for ref in recipe.tasks])


def _built(ref: Ref, encoders: Mapping[str, nn.Module], recipe: Recipe, catalog: Catalog) -> Task:
    """One task around those of the encoders that are its own."""
    make = catalog.load("tasks", ref.name)
    parts = signature.encoder_parts(make)
    names = {part: signature.encoder_of(part, make, recipe) for part in parts}
    if missing := [part for part, needed in parts.items() if needed and names[part] is None]:
        raise UsageError(f"{ref.name} has the encoders {', '.join(parts)}: give --encoder {missing[0]}=NAME")
    modules = {part: encoders[name] for part, name in names.items() if name is not None}
    role = "task" if len(recipe.tasks) == 1 else f"task.{ref.name}"
    return cast("Task", make(**modules, **signature.keywords(ref, make, role, given=parts)))


def with_data(recipe: Recipe, implied: Mapping[str, Any], catalog: Catalog) -> Recipe:
    """The recipe with what its data determine: each such keyword that an encoder or task takes and that is left open.

    Args:
        recipe: left as it is.
        implied: what `Dataset.implies` says.
        catalog: what is installed.
    """
    if not implied:
        return recipe
    encoders = {
        name: _with_implied(ref, signature.parameters(signature.factory(ref, "encoders", catalog)), implied)
        for name, ref in recipe.encoders.items()
    }
    tasks = []
    for ref in recipe.tasks:
        make = catalog.load("tasks", ref.name)
        parts = signature.encoder_parts(make)
        known = {name: value for name, value in signature.parameters(make).items() if name not in parts}
        tasks.append(_with_implied(ref, known, implied))
    return recipe.model_copy(update={"encoders": encoders, "tasks": tasks})


def _with_implied(ref: Ref, known: Mapping[str, Any], implied: Mapping[str, Any]) -> Ref:
    return Ref(ref.name, **signature.with_defaults(ref.options, known, implied))


def with_provenance(recipe: Recipe, task: Task) -> Recipe:
    """The recipe with the keywords that became known when its task was built; see `Task.provenance`."""
    if len(recipe.tasks) == 1:
        # a task that makes parts itself says theirs with a dot: only what it says as its own is a keyword
        own = {name: value for name, value in task.provenance().items() if "." not in name}
        return recipe.model_copy(update={"task": recipe.task.with_options(**own)})
    joint = cast(Joint, task)
    parts = labels(recipe)
    tasks = [ref.with_options(**joint.part(parts[ref.name]).provenance()) for ref in recipe.tasks]
    return recipe.model_copy(update={"tasks": tasks})


def build(recipe: Recipe, catalog: Catalog, engine: Engine) -> Task:
    """`build_task`, handed to the engine."""
    task = build_task(recipe, catalog)
    engine.prepare(task)
    return task
