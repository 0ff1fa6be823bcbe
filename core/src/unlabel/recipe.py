"""Recipes: a run as data. Which task, encoder and dataset, with which keywords, in which stages.

A recipe is what `paper()`, `quick()` and `tiny()` of a task return, what a JSON or YAML file holds and
what ``recipe.json`` of a run records; ``--set stages.0.lr=3e-4`` changes one field of it. Every field
and every keyword is checked against the real signature, with its type, before anything is built.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from unlabel import flat_fields
from unlabel.errors import UsageError, nearest
from unlabel.stage import Group, Ref, Stage, Strict

__all__ = [
    "Combination",
    "Execution",
    "Group",
    "Judging",
    "Recipe",
    "Ref",
    "Stage",
    "canonical",
    "explain",
    "load",
    "parse",
    "task_labels",
    "task_names",
]


_VERSION = 2
_WRITTEN = {"execution", "keep", "max_bad"}  # fields that a recipe has if a run wrote it, and hardly otherwise


class Execution(Strict):
    """Where and how a recipe runs; changes speed, and rounding at most."""

    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    shard: bool = Field(default=False, description="shard parameters over the processes (FSDP2)")
    workers: int | None = Field(
        default=None, ge=0, description="loader processes per training process; default: chosen"
    )
    deterministic: bool = Field(default=False, description="deterministic kernels on accelerators")


class Judging(Strict):
    """How an encoder is judged: on how many samples, how they are read, how often while it trains."""

    train: int | None = Field(
        default=10_000, ge=1, description="training samples that evaluations may learn from, at most; null: all"
    )
    test: int | None = Field(default=5_000, ge=1, description="held-out samples that are scored, at most; null: all")
    batch_size: int | None = Field(
        default=None, ge=1, description="samples encoded at a time; default: as many as in training, at most 256"
    )
    workers: int | None = Field(default=None, ge=0, description="loader processes; default: as for training")
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = Field(
        default=None, description="of the encoder; default: the run's"
    )
    raw: bool = Field(default=True, description="judge the raw inputs, too: the control that an encoder has to beat")
    monitor: int = Field(default=1_024, ge=0, description="samples of the online check, at most; 0: no such check")
    monitor_every: int | None = Field(
        default=None, ge=1, description="updates between online checks; default: ten a stage"
    )


class Combination(Strict):
    """How several tasks on shared encoders become one update; see `unlabel.joint.Joint`."""

    how: Literal["sum", "pareto"] = Field(
        default="sum", description="sum of the losses, or the minimum-norm point of their gradients"
    )
    normalise: Literal["l2", "loss", "loss+norm", "none"] = Field(
        default="l2", description="pareto: what each part's gradient is divided by before the weights are sought"
    )
    update: Literal["authors", "normalised"] = Field(
        default="authors", description="pareto: whose gradients the weights multiply"
    )


class Recipe(Strict):
    """A whole run as data.

    One task and one encoder are written as ``task`` and ``encoder``, here and in files; several as ``tasks``, a list,
    and ``encoders``, by the names that the tasks give them. What version 0.1 wrote is read as it was meant.
    """

    tasks: list[Ref] = Field(min_length=1, description="what is trained; one alone is written as `task`")
    encoders: dict[str, Ref] = Field(
        min_length=1, description="by the names that the tasks give them; one alone is written as `encoder`"
    )
    dataset: Ref = Field(description="what is trained on")
    stages: list[Stage] = Field(min_length=1, description="phases of training, one after the other")
    combination: Combination = Field(default_factory=Combination, description="of several tasks")
    evaluations: list[Ref] | None = Field(default=None, description="default: the task's own")
    judging: Judging = Field(default_factory=Judging, description="on how many samples, and how they are read")
    seed: int = Field(default=0, ge=0, description="of all randomness of the run")
    save_every: int | None = Field(
        default=None, ge=1, description="updates between checkpoints; default: about twenty a stage"
    )
    keep: int = Field(
        default=2, ge=1, description="newest checkpoints kept; the best by the online monitor is kept besides"
    )
    log_every: int = Field(default=10, ge=1, description="updates per line of metrics.jsonl")
    max_bad: float = Field(default=0.01, ge=0, le=1, description="largest tolerated share of unusable samples")
    init: str | dict[str, str] | None = Field(
        default=None, description="where the first weights come from: of the encoder, or of several by name"
    )
    execution: Execution = Field(default_factory=Execution)
    version: int = Field(default=_VERSION, ge=_VERSION, le=_VERSION, description="of the form, not of the package")

    _notes: list[str] = PrivateAttr(default_factory=list)

    if TYPE_CHECKING:

        def __init__(
            self,
            *,
            dataset: Ref,
            stages: list[Stage],
            task: Ref | None = None,
            encoder: Ref | None = None,
            **fields: Any,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _canonical(cls, value: Any) -> Any:
        return canonical(_continued(value))

    @model_validator(mode="after")
    def _some_stage(self) -> Recipe:
        if not any(stage.steps or stage.epochs for stage in self.stages):
            raise ValueError("every stage is left out: give one of them `steps` above 0, or `epochs`")
        names = [ref.name for ref in self.tasks]
        if len(set(names)) < len(names):
            raise ValueError(f"tasks {', '.join(names)}: expected different ones")
        for name in self.encoders:
            if not name.isidentifier():  # it becomes an attribute and a folder's name
                raise ValueError(f"encoders.{name}: expected a name of letters, digits and _")
        if len(names) == 1 and self.combination != Combination():
            raise ValueError(f"combination: {names[0]} is one task, and there is nothing to combine")
        return self

    @model_serializer(mode="wrap")
    def _written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """One task as ``task``, one encoder called encoder as ``encoder``."""
        data: dict[str, Any] = handler(self)
        tasks, encoders = data.pop("tasks"), data.pop("encoders")
        first: dict[str, Any] = {"task": tasks[0]} if len(tasks) == 1 else {"tasks": tasks}
        if len(tasks) == 1:
            data.pop("combination", None)
        first |= {"encoder": encoders["encoder"]} if list(encoders) == ["encoder"] else {"encoders": encoders}
        return {**first, **data}

    @property
    def notes(self) -> list[str]:
        """What was decided for the user while the recipe was composed: a line each, for the screen of ``train``."""
        return self._notes

    @notes.setter
    def notes(self, notes: list[str]) -> None:
        self._notes = notes

    @property
    def name(self) -> str:
        """The task's name; of several, all of them: ``A+B``."""
        return "+".join(ref.name for ref in self.tasks)

    @property
    def task(self) -> Ref:
        """The only task; UsageError if there are several."""
        if len(self.tasks) > 1:
            raise UsageError(f"the recipe of {self.name} has several tasks, and this needs one")
        return self.tasks[0]

    @property
    def encoder(self) -> Ref:
        """The only encoder; UsageError if there are several."""
        if len(self.encoders) > 1:
            raise UsageError(f"the recipe of {self.name} has several encoders ({', '.join(self.encoders)}): name one")
        return next(iter(self.encoders.values()))

    @property
    def first_weights(self) -> dict[str, str]:
        """`init` by the encoder's name."""
        if self.init is None:
            return {}
        return self.init if isinstance(self.init, dict) else {next(iter(self.encoders)): self.init}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Recipe:
        """A copy with some fields replaced; ``task``, ``encoder`` and ``monitor_every`` mean the only one here, too."""
        fields = dict(update or {})
        if "task" in fields:
            fields["tasks"] = [fields.pop("task")]
        if "encoder" in fields:
            name = next(iter(self.encoders)) if len(self.encoders) == 1 else "encoder"
            fields["encoders"] = {name: fields.pop("encoder")}
        if "monitor_every" in fields:
            judging = fields.get("judging", self.judging)
            fields["judging"] = judging.model_copy(update={"monitor_every": fields.pop("monitor_every")})
        if odd := fields.keys() - Recipe.model_fields.keys():
            raise TypeError(f"a recipe has no {', '.join(sorted(odd))}")
        return super().model_copy(update=fields, deep=deep)

    def to_json(self) -> str:
        """Complete and re-runnable: ``unlabel train ... --recipe FILE``."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    def with_length(
        self, *, steps: int | None = None, epochs: float | None = None, batch_size: int | None = None
    ) -> Recipe:
        """A copy whose stages have another length or batch size; a warm-up in updates never exceeds the length."""
        if steps is not None and epochs is not None:
            raise UsageError("give --steps or --epochs, not both")
        data = self.model_dump(mode="json")
        for stage in data["stages"]:
            if steps is not None or epochs is not None:
                stage |= {"steps": steps, "epochs": epochs, "horizon": None, "horizon_epochs": None}
            if batch_size is not None:
                stage["batch_size"] = batch_size
        option = "--epochs" if epochs is not None else "--steps" if steps is not None else "--batch-size"
        changed = parse(data, option)
        changed.notes = list(self.notes)
        return changed


def canonical(value: Any) -> Any:
    """Plain data of a recipe in its one form: ``tasks``, ``encoders``, ``judging``; what is wrong is left as it is.

    Args:
        value: what a file holds or a constructor was given: ``task`` or ``tasks``, ``encoder`` or ``encoders``. Version
            0.1 wrote several tasks as one called ``A+B`` with the keywords of each under its name and how they are
            combined beside them, and ``monitor_every`` at the top.
    """
    if not isinstance(value, Mapping):
        return value
    data = dict(value)
    if "task" in data and "tasks" not in data:
        refs, combination = _parted(data.pop("task"))
        data["tasks"] = refs
        if combination:
            data["combination"] = {**dict(data.get("combination") or {}), **combination}
    if "encoder" in data and "encoders" not in data:
        data["encoders"] = {"encoder": data.pop("encoder")}
    if "monitor_every" in data:
        judging, every = data.get("judging", {}), data.pop("monitor_every")
        judging = judging.model_dump() if isinstance(judging, BaseModel) else judging
        data["judging"] = {"monitor_every": every, **judging} if isinstance(judging, Mapping) else judging
    return data


def _continued(value: Any) -> Any:
    """Go on as version 0.1 did with what it wrote: its files are complete, and do not say their version."""
    if not isinstance(value, Mapping) or "version" in value or not value.keys() >= _WRITTEN:
        return value
    stages = value.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, Mapping) for stage in stages):
        return value
    return {**value, "stages": [{"last_batch": "straddle", **stage} for stage in stages]}


def task_names(text: str) -> list[str]:
    """The catalog names in ``A+B``; of a single task, its own.

    Raises:
        UsageError: a name is missing or there twice.
    """
    names = [name.strip() for name in text.split("+")]
    if not all(names) or len(set(names)) < len(names):
        raise UsageError(f"task {text!r}: expected different names joined by '+', e.g. sonar/echo+sonar/drift")
    return names


def task_labels(names: Sequence[str]) -> dict[str, str]:
    """Short name of each task: what follows the slash, or the whole name, slash replaced, where that is not unique."""
    short = {name: name.rpartition("/")[2] for name in names}
    counts = Counter(short.values())
    return {
        name: (label if counts[label] == 1 else name.replace("/", "_")).replace(".", "_")
        for name, label in short.items()
    }


def _parted(task: Any) -> tuple[list[Any], dict[str, Any]]:
    """The tasks of ``A+B``, each with its keywords, and what is left: how they are combined."""
    task = {"name": task} if isinstance(task, str) else task
    name = task.name if isinstance(task, Ref) else task.get("name") if isinstance(task, Mapping) else None
    names = task_names(name) if isinstance(name, str) else []
    if len(names) < 2:
        return [task], {}  # what is no task is refused where it is read
    ref = task if isinstance(task, Ref) else Ref.model_validate(task)
    refs = []
    for name in names:
        options = ref.options.get(name, {})
        if not isinstance(options, Mapping):
            raise UsageError(f"task.{name}: expected the keywords of this part, not {options!r}")
        refs.append({"name": name, "options": dict(options)})
    others = {key: value for key, value in ref.options.items() if key not in names}
    if "combine" in others:
        others["how"] = others.pop("combine")
    return refs, others


def parse(data: Any, source: str) -> Recipe:
    """A Recipe from plain data; UsageError naming `source`, the field, what was expected and the nearest field."""
    prefix = f"{source}: " if source else ""
    if not isinstance(data, Mapping):
        raise UsageError(f"{prefix}expected a recipe (task, encoder, dataset, stages), got {type(data).__name__}")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{prefix}{explain(error)}") from error


def load(path: Path) -> Recipe:
    """Read a recipe from a JSON or YAML file."""
    try:
        text = path.read_text(encoding="utf-8")
        return parse(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} cannot be read: {error}") from error
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML of plain values"
        raise UsageError(f"recipe {path} is not {kind}: {' '.join(str(error).split())}") from error


def explain(error: ValidationError, within: str = "") -> str:
    """The first problem, in one line: where, what was expected, what was given, the nearest field."""
    problem = error.errors(include_url=False)[0]
    location = [part for part in problem["loc"] if not isinstance(part, str) or part.isidentifier()]
    for one, several in (("task", ["tasks", 0]), ("encoder", ["encoders", "encoder"])):  # as users write them
        if location[:2] == several or location == several[:1]:
            location[: len(several)] = [one]
    place = ".".join(str(part) for part in ([within] if within else location))
    if problem["type"] == "extra_forbidden":
        fields: dict[str, type[BaseModel]] = {
            "stages": Stage,
            "groups": Group,
            "execution": Execution,
            "judging": Judging,
            "combination": Combination,
        }
        owner = next((fields[str(part)] for part in reversed(location[:-1]) if str(part) in fields), Recipe)
        return f"{place}: no such field{_nearest_field(str(location[-1]), owner)}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    value = problem["input"]
    shown = "" if problem["type"] == "missing" or isinstance(value, BaseModel | Mapping) else f", not {value!r}"
    return f"{place}: {message}{shown}" if place else f"{message}{shown}"


def _nearest_field(name: str, owner: type[BaseModel]) -> str:
    """The nearest field of `owner`, or the same field where it really lives."""
    if owner is Recipe and name in flat_fields.FIELDS:
        return f"; did you mean stages.0.{flat_fields.FIELDS[name]}?"
    others: list[tuple[str, type[BaseModel]]] = [
        ("stages.0.", Stage),
        ("execution.", Execution),
        ("judging.", Judging),
        ("combination.", Combination),
    ]
    elsewhere = others if owner is Recipe else []
    places = [prefix + name for prefix, model in elsewhere if name in model.model_fields]
    if places:
        return f"; did you mean {places[0]}?"
    aliases = {"tasks": "task", "encoders": "encoder"} if owner is Recipe else {}
    fields = [aliases.get(field, field) for field in owner.model_fields]
    return (
        nearest(name, [*fields, *aliases, *(flat_fields.FIELDS if owner is Stage else ())])
        or f"; the fields are {', '.join(fields)}"
    )
