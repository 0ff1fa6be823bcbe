"""What a study asks for: a YAML file, and the cells it comes to.

    tasks: [sonar/order, {value: sonar/order, label: half, set: {task.share: 0.5}}]
    encoders: [sonar/conv, sonar/wide]          # default: each recipe's own
    data: [sonar/pings, ../recordings]          # default: each recipe's own; paths as seen from this file
    variants: [{label: short, set: {stages.0.lr: 1e-3}}, ...]
    seeds: 3                                    # 0, 1, 2; or a list
    recipe: quick
    set: {stages.0.weight_decay: 0.1}           # in every cell
    baseline: sonar/order                       # what the others are compared with

A cell is one recipe: one task, encoder, dataset, variant and seed. Its name ends with a hash of that recipe, so that a
changed study never takes the results of another one for its own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from unlabel import compose
from unlabel.errors import UsageError, nearest

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog
    from unlabel.recipe import Recipe

__all__ = ["AXES", "Cell", "Choice", "Study", "cells", "load"]

AXES = ("tasks", "encoders", "data", "variants")
"""What a study varies besides the seed, in the order of a row's name."""


class Choice(BaseModel):
    """One value of an axis, with what it sets besides; a bare text is its value.

    Attributes:
        value: name of a task, encoder or dataset, or a path; None: the recipe's own.
        label: how tables call it; default: the value.
        set: settings as ``--set`` takes them.
    """

    model_config = ConfigDict(extra="forbid")

    value: str | None = None
    label: str = ""
    set: dict[str, Any] = Field(default_factory=dict)


def _choice(value: Any) -> Any:
    return {"value": value} if isinstance(value, str) or value is None else value


def _choices(value: Any) -> Any:
    return [value] if isinstance(value, str | Mapping) else value


Choices = Annotated[list[Annotated[Choice, BeforeValidator(_choice)]], BeforeValidator(_choices), Field(min_length=1)]


class Study(BaseModel):
    """A study as its file says it."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="", description="heading of the tables; default: name of the file")
    tasks: Choices
    encoders: Choices = Field(default_factory=lambda: [Choice()])
    data: Choices = Field(default_factory=lambda: [Choice()])
    variants: Choices = Field(default_factory=lambda: [Choice()])
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2], min_length=1, description="a list, or how many")
    recipe: str = Field(default="quick", description="recipe every cell starts from")
    steps: int | None = Field(default=None, ge=1, description="updates in every stage")
    epochs: float | None = Field(default=None, gt=0, description="passes over the data in every stage")
    batch_size: int | None = Field(default=None, ge=1, description="samples an update")
    evaluations: list[Any] | None = Field(default=None, description="default: each task's own")
    set: dict[str, Any] = Field(default_factory=dict, description="settings of every cell, as --set takes them")
    baseline: str | None = Field(default=None, description="label the others are compared with; default: the first")
    jobs: int = Field(default=1, ge=1, description="cells at a time")
    threads: int | None = Field(default=None, ge=1, description="processor threads of a cell; default: cores / jobs")

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted(cls, value: Any) -> Any:
        return list(range(value)) if type(value) is int and value > 0 else value

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value) or min(value, default=0) < 0:
            raise ValueError("seeds must be different and not negative")
        return value


@dataclass(frozen=True)
class Cell:
    """One training of a study.

    Attributes:
        name: of its folder.
        labels: what it is, one label an axis of `AXES`; empty where the study does not choose.
        seed: of its recipe.
        recipe: complete.
    """

    name: str
    labels: tuple[str, ...]
    seed: int
    recipe: Recipe

    @property
    def title(self) -> str:
        """How messages call it."""
        return " · ".join([*(label for label in self.labels if label), f"seed {self.seed}"])


def load(path: Path) -> Study:
    """Read a study.

    Raises:
        UsageError: it cannot be read, or some field is unknown or wrong; says which.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        beside = [str(file) for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise UsageError(f"study {path} cannot be read: {reason}{nearest(str(path), beside)}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"study {path} is not YAML of plain values: {' '.join(str(error).split())}") from error
    if not isinstance(data, Mapping):
        raise UsageError(f"study {path}: expected fields such as tasks, data, seeds; got {type(data).__name__}")
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"study {path}: {_explained(error)}") from error
    study.name = study.name or path.stem
    return study


def _explained(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])  # it may explain a missing one
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        model = Choice if len(problem["loc"]) > 1 else Study
        fields = list(model.model_fields)
        return f"{place}: no such field{nearest(str(problem['loc'][-1]), fields) or '; known are ' + ', '.join(fields)}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    shown = "" if problem["type"] == "missing" else f", not {problem['input']!r}"
    return f"{place}: {message}{shown}"


def cells(study: Study, catalog: Catalog, beside: Path) -> list[Cell]:
    """Every cell of a study, in the order they run: all of one seed, then the next.

    Args:
        study: what is asked for.
        catalog: what is installed.
        beside: folder from which relative paths of data are seen.

    Raises:
        UsageError: some cell cannot be: an unknown name, a setting its task does not have; two cells are the same.
    """
    named = [[_labelled(choice, len(getattr(study, axis)) > 1) for choice in getattr(study, axis)] for axis in AXES]
    planned: list[Cell] = []
    for seed in study.seeds:
        for choices in itertools.product(*named):
            labels = tuple(choice.label for choice in choices)
            title = " · ".join(filter(None, labels))
            try:
                recipe = _recipe(study, choices, seed, catalog, beside)
            except UsageError as error:
                raise UsageError(f"study {study.name}, {title or 'every cell'}: {error}") from error
            planned.append(Cell(_name(labels, seed, recipe), labels, seed, recipe))
    for (labels, _), count in Counter((cell.labels, cell.seed) for cell in planned).items():
        if count > 1:
            title = " · ".join(filter(None, labels)) or "default"
            raise UsageError(f"study {study.name}: {count} cells are called {title!r}: give their entries a `label`")
    return planned


def _labelled(choice: Choice, several: bool) -> Choice:
    """With a label: the given one, else its value and settings, else, where there is a choice, that it is the
    recipe's own."""
    settings = ", ".join(f"{name}={value}" for name, value in choice.set.items())
    default = " ".join(filter(None, [choice.value, settings])) or ("default" if several else "")
    return choice.model_copy(update={"label": choice.label or default})


def _recipe(study: Study, choices: Iterable[Choice], seed: int, catalog: Catalog, beside: Path) -> Recipe:
    task, encoder, data, _ = choices
    settings = study.set | {name: value for choice in choices for name, value in choice.set.items()}
    if study.evaluations is not None:
        settings |= {"evaluations": study.evaluations}
    settings["seed"] = seed
    if task.value is None:
        raise UsageError("an entry of `tasks` has no `value`: which task?")
    return compose.compose(
        task.value,
        catalog,
        name=_seen(study.recipe, beside) if study.recipe.endswith((".json", ".yaml", ".yml")) else study.recipe,
        data=None if data.value is None else _seen(data.value, beside) if _is_path(data.value, catalog) else data.value,
        encoder=encoder.value,
        steps=study.steps,
        epochs=study.epochs,
        batch_size=study.batch_size,
        settings=[f"{name}={json.dumps(value)}" for name, value in settings.items()],
    )


def _is_path(data: str, catalog: Catalog) -> bool:
    return catalog.current("datasets", data) not in catalog.names("datasets")


def _seen(path: str, beside: Path) -> str:
    """A path as it is from `beside`, if there is something; else as it was given, for the message."""
    candidate = beside / Path(path).expanduser()
    return str(candidate) if candidate.exists() or "{" in path else path


def _name(labels: Iterable[str], seed: int, recipe: Recipe) -> str:
    content = json.dumps(recipe.model_dump(mode="json"), sort_keys=True)
    slug = re.sub(r"[^a-z0-9]+", "-", " ".join(labels).lower()).strip("-")[:60].strip("-")
    return f"{slug}-{seed}-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
