"""Recipes: a run as data. Which task, encoder and dataset, with which keywords, in which stages.

A recipe is what `paper()`, `quick()` and `tiny()` of a task return, what a JSON or YAML file holds and
what ``recipe.json`` of a run records; ``--set stages.0.lr=3e-4`` changes one field of it. Every field
and every keyword is checked against the real signature, with its type, before anything is built.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from unlabel import flat_fields
from unlabel.errors import UsageError, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from unlabel.catalog.plugins import Catalog

__all__ = ["Execution", "Group", "Recipe", "Ref", "Stage", "with_defaults", "with_data", "keywords", "load", "named"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class Ref(BaseModel):
    """A name from the catalog with the keywords it is built with: ``Ref("sonar/conv", dim=512)``.

    The name may also be ``package.module:factory``. In files: ``{"name": "sonar/conv", "dim": 512}``; a keyword
    that is itself called ``name`` stands under ``options``.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    options: dict[str, Any] = Field(default_factory=dict)

    def __init__(self, name: str, /, **options: Any) -> None:
        super().__init__(name=name, options=options)

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # pydantic's word for: validate without it

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, value: Any) -> Any:
        """Accept the flat form of files and a bare name."""
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, Mapping):
            return value
        named = {"name": value["name"]} if "name" in value else {}
        nested = value.get("options", {})
        if not isinstance(nested, Mapping):
            return {**named, "options": {key: entry for key, entry in value.items() if key != "name"}}
        return {**named, "options": {**nested, **{k: v for k, v in value.items() if k not in ("name", "options")}}}

    @model_serializer
    def _serialise(self) -> dict[str, Any]:
        if self.options.keys() & {"name", "options"}:
            return {"name": self.name, "options": self.options}
        return {"name": self.name, **self.options}

    def with_options(self, **options: Any) -> Ref:
        """The same name with some keywords changed."""
        return self.model_copy(update={"options": {**self.options, **options}})


def _whole(ref: Ref) -> Ref:
    """A Ref of its own, with lists as tuples and the options that its optimizer gets where nothing is said."""
    options = {name: _tuples(value) for name, value in ref.options.items()}
    return Ref(ref.name, **{**flat_fields.defaults_of(ref.name), **options})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list | tuple) else value


class Group(_Strict):
    """Parameters whose name matches `pattern` (shell style) differ from the rest of their stage."""

    pattern: str = Field(description="shell-style pattern over parameter names, e.g. '*.bias' or 'predictor.*'")
    lr_scale: float = Field(default=1.0, ge=0, description="multiplies the learning rate")
    weight_decay: float | None = Field(default=None, ge=0, description="replaces the stage's weight decay")
    freeze: bool = Field(default=False, description="not trained in this stage")
    fixed_lr: bool = Field(default=False, description="keeps its peak learning rate: no warm-up, no decay")


class Stage(_Strict):
    """One phase of training: how long, how many samples an update, which optimizer and schedule.

    Give `steps` or `epochs`. Stopping earlier than the schedule's end is `horizon` (or `horizon_epochs`):
    the schedule is computed for the horizon, training stops at `steps`.
    """

    name: str = Field(default="main", description="shown in logs")
    steps: int | None = Field(default=None, ge=0, description="updates in this stage; 0 leaves it out")
    epochs: float | None = Field(default=None, gt=0, description="passes over the training data, instead of `steps`")
    horizon: int | None = Field(
        default=None, ge=1, description="updates the schedule is computed for; default: `steps`"
    )
    horizon_epochs: float | None = Field(default=None, gt=0, description="the same in epochs")
    batch_size: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default=256,
        description="samples per update, over all processes and micro-batches; 'all': every training sample",
    )
    accumulate: int = Field(default=1, ge=1, description="micro-batches per update")
    optimizer: Ref = Field(
        default_factory=lambda: Ref("adamw"),
        description="a class of torch.optim in any case, lars, a plugin's, or package.module:Class, with options",
    )
    optimizers: dict[str, Ref] = Field(
        default_factory=dict, description="for tasks with several: those that differ from `optimizer`, by name"
    )
    lr: float = Field(default=1.5e-4, ge=0, description="peak learning rate")
    lr_batch_size: int | None = Field(
        default=None, ge=1, description="`lr` is stated for this batch size and scaled linearly"
    )
    warmup_steps: int | None = Field(default=None, ge=0, description="updates of linear warm-up")
    warmup_epochs: float | None = Field(default=None, ge=0, description="the same in epochs")
    warmup_start_lr: float = Field(default=0.0, ge=0, description="learning rate at the first update")
    warmup_inclusive: bool = Field(
        default=False, description="the last update of the warm-up has the peak rate already, not the first one after"
    )
    schedule: Ref = Field(
        default_factory=lambda: Ref("cosine"),
        description="of the learning rate after the warm-up: cosine, constant, linear, step, polynomial or "
        "package.module:function, with options such as `end`, the rate at its end",
    )
    weight_decay: Annotated[float, Field(ge=0)] | Ref = Field(
        default=0.05, description="a number, or a schedule with options: {name: cosine, start: 0.04, end: 0.4}"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="largest norm of the gradient, over all parameters")
    clip_tensor_norm: float | None = Field(
        default=None, gt=0, description="largest norm of the gradient of each tensor"
    )
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="learning-rate factor per layer below the top"
    )
    decay_vectors: bool = Field(default=False, description="apply weight decay to biases and 1-D parameters too")
    groups: list[Group] = Field(default_factory=list, description="parameters that differ from the rest")
    weights: dict[str, float] = Field(default_factory=dict, description="weights of the task's named losses")
    options: dict[str, Any] = Field(default_factory=dict, description="what the task's enter_stage reads")
    _third_party: dict[str, Any] = PrivateAttr(default_factory=dict)

    if TYPE_CHECKING:

        def __init__(self, **fields: Any) -> None:
            """Fields, in any form that they are read in: a name for a Ref, and flat ones, see `flat_fields`."""

    @model_validator(mode="before")
    @classmethod
    def _fold(cls, value: Any) -> Any:
        return flat_fields.folded(value) if isinstance(value, Mapping) else value

    @field_validator("weight_decay", mode="before")
    @classmethod
    def _number_or_schedule(cls, value: Any) -> Any:
        """A number may stand as text: YAML takes 1e-4 for one."""
        try:
            return float(value) if isinstance(value, str) else value
        except ValueError:
            return value

    @field_validator("optimizer", "schedule", "weight_decay", mode="after")
    @classmethod
    def _of_its_own(cls, value: float | Ref) -> float | Ref:
        return _whole(value) if isinstance(value, Ref) else value

    @field_validator("optimizers", mode="after")
    @classmethod
    def _each_of_its_own(cls, value: dict[str, Ref]) -> dict[str, Ref]:
        return {name: _whole(ref) for name, ref in value.items()}

    @model_validator(mode="after")
    def _one_length(self) -> Stage:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give either `steps` or `epochs`")
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise ValueError("give either `warmup_steps` or `warmup_epochs`")
        if self.horizon is not None and self.horizon_epochs is not None:
            raise ValueError("give either `horizon` or `horizon_epochs`")
        if (self.horizon or math.inf) < (self.steps or 0) or (self.horizon_epochs or math.inf) < (self.epochs or 0):
            raise ValueError("the schedule's horizon is before the end of the stage")
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Stage:
        """A copy with changes, which may be in version 0.1's form, too: unchecked, they would be lost in silence."""
        if update is not None and update.keys() & {"optimizer", "schedule", *flat_fields.FIELDS}:
            update = flat_fields.folded({"optimizer": self.optimizer, "schedule": self.schedule, **update})
            references = {name: _whole(Ref.model_validate(update[name])) for name in ("optimizer", "schedule")}
            update = {**update, **references}
        return super().model_copy(update=update, deep=deep)

    def resolved(self, samples: int) -> Stage:
        """The same stage with every length in updates, for a training set of `samples` samples."""
        size = samples if self.batch_size == "all" else self.batch_size
        each = samples / size  # updates of an epoch
        steps = self.steps if self.steps is not None else math.ceil((self.epochs or 0) * each)
        horizon = self.horizon or (math.ceil(self.horizon_epochs * each) if self.horizon_epochs else steps)
        warmup = self.warmup_steps if self.warmup_steps is not None else round((self.warmup_epochs or 0) * each)
        horizon = max(horizon, steps)  # one may be stated in updates and the other in epochs
        changes = {"steps": steps, "epochs": None, "horizon": horizon, "horizon_epochs": None, "batch_size": size}
        return self.model_copy(update={**changes, "warmup_steps": min(warmup, horizon), "warmup_epochs": None})

    @property
    def size(self) -> int:
        """Samples per update of a resolved stage."""
        if self.batch_size == "all":
            raise ValueError(f"stage {self.name!r} has no batch size before it is resolved for a dataset")
        return self.batch_size

    @property
    def warmup(self) -> int:
        """Warm-up of a resolved stage, in updates."""
        return self.warmup_steps or 0

    @property
    def peak_lr(self) -> float:
        """`lr`, scaled to this batch size if `lr_batch_size` says what it was stated for."""
        return self.lr * self.size / self.lr_batch_size if self.lr_batch_size else self.lr

    @property
    def first_weight_decay(self) -> float:
        """The weight decay, or what its schedule starts with."""
        decay = self.weight_decay
        return float(decay.options["start"]) if isinstance(decay, Ref) else decay

    @property
    def third_party(self) -> dict[str, Any]:
        """Classes and functions of optimizers and schedules that are not the core's, by name: as they were checked."""
        return self._third_party

    def optimizer_ref(self, name: str) -> Ref:
        """What a task's optimizer of that name is to be."""
        return self.optimizers.get(name, self.optimizer)

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The scalar to differentiate, out of a task's named terms; see `unlabel.combine.total`."""
        from unlabel import combine

        return combine.total(dict(terms), self.weights or None)


class Execution(_Strict):
    """Where and how a recipe runs; changes speed, and rounding at most."""

    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:N")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = False
    shard: bool = Field(default=False, description="shard parameters over the processes (FSDP2)")
    workers: int | None = Field(
        default=None, ge=0, description="loader processes per training process; default: chosen"
    )
    deterministic: bool = Field(default=False, description="deterministic kernels on accelerators")


class Recipe(_Strict):
    """A whole run as data."""

    task: Ref
    encoder: Ref
    dataset: Ref
    stages: list[Stage] = Field(min_length=1)
    evaluations: list[Ref] | None = Field(default=None, description="default: the task's own")
    seed: int = Field(default=0, ge=0)
    save_every: int | None = Field(
        default=None, ge=1, description="updates between checkpoints; default: about twenty a stage"
    )
    keep: int = Field(
        default=2, ge=1, description="newest checkpoints kept; the best by the online monitor is kept besides"
    )
    log_every: int = Field(default=10, ge=1, description="updates per line of metrics.jsonl")
    monitor_every: int | None = Field(
        default=None, ge=1, description="updates between online checks; default: ten a stage"
    )
    max_bad: float = Field(default=0.01, ge=0, le=1, description="largest tolerated share of unusable samples")
    init: str | None = Field(default=None, description="where the encoder's first weights come from")
    execution: Execution = Field(default_factory=Execution)

    @model_validator(mode="after")
    def _some_stage(self) -> Recipe:
        if not any(stage.steps or stage.epochs for stage in self.stages):
            raise ValueError("every stage is left out: give one of them `steps` above 0, or `epochs`")
        return self

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
        return parse(data, "--epochs" if epochs is not None else "--steps")

    def with_overrides(self, assignments: Iterable[str], catalog: Catalog) -> Recipe:
        """A copy with ``path=value`` assignments applied, e.g. ``stages.0.lr=3e-4`` or ``task.mask_ratio=0.6``.

        Raises:
            UsageError: unknown field (with the nearest one), or a value of the wrong type.
        """
        from unlabel import multitask

        data = self.model_dump(mode="json")
        joined = multitask.names(self.task.name)
        data["task"] = {**({name: {} for name in joined} if len(joined) > 1 else {}), **data["task"]}
        for assignment in assignments:
            path, value = assigned(assignment)
            _assign(data, path, _renamed(data, path, value, catalog))
        recipe = parse(data, "")
        if recipe.task.name != self.task.name:
            raise UsageError(
                f"the task {self.task.name} cannot be changed to {recipe.task.name} by a setting: start from its recipe"
            )
        recipe.check(catalog)
        return recipe

    def check(self, catalog: Catalog) -> None:
        """Check every keyword of every component against its real signature and type, without building any.

        Raises:
            UsageError: an unknown name or keyword (with the nearest), or a value of the wrong type.
        """
        from unlabel import multitask

        self.task.options = multitask.check(self.task, catalog)
        self.encoder.options = keywords(self.encoder, factory(self.encoder, "encoders", catalog), "encoder")
        self.dataset.options = keywords(self.dataset, factory(self.dataset, "datasets", catalog), "dataset")
        self.check_stages(catalog)
        for ref in self.evaluations or ():
            keywords(ref, catalog.load("evaluations", ref.name), "evaluation", skip=1)

    def check_stages(self, catalog: Catalog) -> None:
        """Check the optimizers and schedules of every stage, as `check` does, and find those that plugins offer."""
        from unlabel.optim import offers

        for number, stage in enumerate(self.stages):
            offers.check(stage, f"stages.{number}", catalog)


def with_data(chosen: Recipe, implied: Mapping[str, Any], catalog: Catalog) -> Recipe:
    """The recipe with what its data determine: each such keyword that encoder or task takes and that is left open.

    Args:
        chosen: left as it is.
        implied: what `Dataset.implies` says.
        catalog: what is installed.
    """
    if not implied:
        return chosen
    from unlabel import multitask

    known = parameters(factory(chosen.encoder, "encoders", catalog))
    encoder = Ref(chosen.encoder.name, **with_defaults(chosen.encoder.options, known, implied))
    return chosen.model_copy(update={"encoder": encoder, "task": multitask.with_data(chosen.task, implied, catalog)})


def with_defaults(options: Mapping[str, Any], known: Iterable[str], implied: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the implied values of those keywords among `known` that are missing or None."""
    missing = {name: implied[name] for name in known if name in implied and options.get(name) is None}
    return {**options, **missing}


def parse(data: Any, source: str) -> Recipe:
    """A Recipe from plain data; UsageError naming `source`, the field, what was expected and the nearest field."""
    prefix = f"{source}: " if source else ""
    if not isinstance(data, Mapping):
        raise UsageError(f"{prefix}expected a recipe (task, encoder, dataset, stages), got {type(data).__name__}")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{prefix}{_explain(error)}") from error


def assigned(assignment: str) -> tuple[str, Any]:
    """Path and value of ``path=value``. Values are JSON (numbers, true, null, lists); all else is text, or YAML lists.

    Raises:
        UsageError: there is no ``=``, or a list or mapping does not end.
    """
    path, equals, text = assignment.partition("=")
    if not equals or not path.strip():
        raise UsageError(f"--set {assignment!r}: expected FIELD=VALUE, e.g. stages.0.lr=3e-4")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        try:
            # YAML only for lists and mappings: it takes the words on, no and 1:30 for something else
            value = yaml.safe_load(text) if text.lstrip()[:1] in ("[", "{") else text
        except yaml.YAMLError as error:
            raise UsageError(f"--set {assignment!r}: the value is neither JSON nor YAML") from error
    return path.strip(), value


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


def named(module: Any) -> dict[str, Callable[[], Recipe]]:
    """The recipes that a task's module offers: ``paper``, ``quick``, ``tiny``, and ``paper_...`` for other data."""
    others = sorted(name for name in vars(module) if name.startswith("paper_"))
    return {name: getattr(module, name) for name in ("paper", *others, "quick", "tiny") if hasattr(module, name)}


def factory(ref: Ref, kind: str, catalog: Catalog) -> Callable[..., Any]:
    """What builds a Ref: a catalog entry, or ``package.module:factory`` for encoders no plugin offers.

    Reading a recipe never runs what it likes: a factory that only stands in a file, and was not typed
    by the user in this session (`Catalog.trusted`), must be a torch module class or a function
    annotated to return one.

    Raises:
        UsageError: unknown, not importable, or not to be trusted.
    """
    if ":" not in ref.name or kind != "encoders":
        return typing.cast(Callable[..., Any], catalog.load(kind, ref.name))
    module, _, attribute = ref.name.partition(":")
    try:
        home = importlib.import_module(module)
    except Exception as error:  # the user's own code: an error in it is theirs to read, not a bug of ours
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(
            f"{ref.name}: {module!r} cannot be imported ({reason}); is its folder on PYTHONPATH?"
        ) from error
    if not hasattr(home, attribute):
        raise UsageError(f"{ref.name}: module {module!r} has no {attribute!r}{nearest(attribute, dir(home))}")
    found = getattr(home, attribute)
    if not callable(found):
        raise UsageError(f"{ref.name} is a {type(found).__name__}, not a class or function that makes an encoder")
    if ref.name not in catalog.trusted and not _makes_module(found):
        raise UsageError(
            f"encoder {ref.name!r} stands in a file and is neither a torch.nn.Module class nor a function annotated "
            f"'-> nn.Module': annotate it, or confirm it by giving --encoder {ref.name}"
        )
    return typing.cast(Callable[..., Any], found)


def _makes_module(found: Callable[..., Any]) -> bool:
    from torch import nn

    made = made_by(found)
    return made is not None and issubclass(made, nn.Module)


def made_by(target: Callable[..., Any]) -> type | None:
    """The class that a class or an annotated function makes; None if its annotation does not say."""
    made = target if inspect.isclass(target) else _hints(target).get("return") if inspect.isfunction(target) else None
    return made if inspect.isclass(made) else None


def _hints(target: Any) -> dict[str, Any]:
    """Resolved annotations; none if some name in them exists for type checkers only, or there cannot be any."""
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):
        return {}


def keywords(
    ref: Ref, target: Callable[..., Any], role: str, skip: int = 0, given: Collection[str] = ()
) -> dict[str, Any]:
    """The options of a Ref, checked and converted against the signature of what they are given to.

    Args:
        ref: name and options.
        target: class or function; its first `skip` parameters are not options.
        role: how the user addresses it (``task``, ``encoder``, ...).
        given: keywords that somebody else gives; they are no options.

    Raises:
        UsageError: unknown keyword, missing one, or a value of the wrong type.
    """
    known = {name: parameter for name, parameter in parameters(target, skip).items() if name not in given}
    checked = {}
    for name, value in ref.options.items():
        if name not in known:
            listing = f"; it takes {', '.join(known)}" if known else "; it takes no keywords"
            raise UsageError(f"{role}.{name}: {ref.name} has no keyword {name!r}{nearest(name, known) or listing}")
        try:
            checked[name] = _adapter(known[name].annotation).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"{role}.{_explain(error, name)}") from error
    for name in required(target, skip):
        if name not in ref.options and name not in given:
            raise UsageError(f"{ref.name} needs {role}.{name}: {_way(ref, role, name)}")
    return checked


def takes(target: Callable[..., Any], name: str, value: Any) -> bool:
    """Whether a class or function has a keyword of that name, and for such a value."""
    parameter = parameters(target).get(name)
    if parameter is None:
        return False
    try:
        _adapter(parameter.annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def _way(ref: Ref, role: str, name: str) -> str:
    """How a user gives a missing keyword."""
    if (role, name) == ("dataset", "path"):
        return "give a path instead of this name"
    return (
        f"give it with --encoder {ref.name}:VALUE" if role == "encoder" else f"give it with --set {role}.{name}=VALUE"
    )


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    """Checks and converts to a type; one that pydantic does not know (a torch.dtype, a network) by isinstance."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return TypeAdapter(annotation)
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def required(target: Callable[..., Any], skip: int = 0) -> list[str]:
    """Names of the parameters without a default, in order; see `parameters`."""
    return [name for name, parameter in parameters(target, skip).items() if parameter.default is parameter.empty]


def parameters(target: Callable[..., Any], skip: int = 0) -> dict[str, inspect.Parameter]:
    """The named parameters of a class or function, annotations resolved (``Any`` where there is none).

    Raises:
        UsageError: something written in C, which does not say what it takes.
    """
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    try:
        found = list(inspect.signature(target).parameters.values())[skip:]
    except ValueError as error:
        raise UsageError(f"{target!r} does not say which keywords it takes: wrap it in a function that does") from error
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in found if p.kind in kinds}


def _renamed(data: Any, path: str, value: Any, catalog: Catalog) -> Any:
    """A bare name for a stage's optimizer or schedule, with the options of the one before that it takes too."""
    kind: Literal["optimizer", "schedule"]
    match path.split("."):
        case ["stages", number, "optimizer" as field]:
            kind, fields = "optimizer", _step(data["stages"], number, path)
        case ["stages", number, "optimizers", field]:
            kind, fields = "optimizer", _step(data["stages"], number, path)["optimizers"]
        case ["stages", number, "schedule" | "weight_decay" as field]:
            kind, fields = "schedule", _step(data["stages"], number, path)
        case _:
            return value
    before = fields.get(field)
    if not isinstance(value, str):
        return value
    if not isinstance(before, Mapping):
        return value if field == "weight_decay" else {"name": value}
    from unlabel.optim import offers

    return {"name": value, "options": offers.kept_options(kind, Ref.model_validate(before), value, catalog)}


def _assign(data: Any, path: str, value: Any) -> None:
    """Set a dotted path in plain data; existing containers are checked here, leaf names by the model afterwards."""
    *parents, last = path.split(".")
    place = data
    for number, part in enumerate(parents):
        place = _step(place, part, ".".join(parents[: number + 1]))
    if isinstance(place, list):
        place[_index(place, last, path)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise UsageError(f"--set {path}: {'.'.join(parents)!r} has no fields")


def _step(place: Any, part: str, path: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, path)]
    if not isinstance(place, dict) or part not in place:
        raise UsageError(f"--set {path}: no field {part!r}{nearest(part, place) if isinstance(place, dict) else ''}")
    return place[part]


def _index(items: list[Any], part: str, path: str) -> int:
    if not part.isdecimal() or int(part) >= len(items):
        raise UsageError(f"--set {path}: {part!r} is not one of 0..{len(items) - 1}")
    return int(part)


def _explain(error: ValidationError, within: str = "") -> str:
    """The first problem, in one line: where, what was expected, what was given, the nearest field."""
    problem = error.errors(include_url=False)[0]
    location = [part for part in problem["loc"] if not isinstance(part, str) or part.isidentifier()]
    place = ".".join(str(part) for part in ([within] if within else location))
    if problem["type"] == "extra_forbidden":
        fields: dict[str, type[BaseModel]] = {"stages": Stage, "execution": Execution, "groups": Group}
        owner = next((fields[str(part)] for part in reversed(location[:-1]) if str(part) in fields), Recipe)
        return f"{place}: no such field{_nearest_field(str(location[-1]), owner)}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = problem["input"]
    shown = "" if problem["type"] == "missing" or isinstance(given, BaseModel | Mapping) else f", not {given!r}"
    return f"{place}: {message}{shown}" if place else f"{message}{shown}"


def _nearest_field(name: str, owner: type[BaseModel]) -> str:
    """The nearest field of `owner`, or the same field where it really lives."""
    if owner is Recipe and name in flat_fields.FIELDS:
        return f"; did you mean stages.0.{flat_fields.FIELDS[name]}?"
    others: list[tuple[str, type[BaseModel]]] = [("stages.0.", Stage), ("execution.", Execution)]
    elsewhere = others if owner is Recipe else []
    found = [prefix + name for prefix, model in elsewhere if name in model.model_fields]
    if found:
        return f"; did you mean {found[0]}?"
    known = [*owner.model_fields, *(flat_fields.FIELDS if owner is Stage else ())]
    return nearest(name, known) or f"; the fields are {', '.join(owner.model_fields)}"
