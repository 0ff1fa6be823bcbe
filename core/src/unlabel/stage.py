"""Stages: one phase of training as data, and what recipes are made of: names with keywords."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_serializer,
    model_validator,
)

from unlabel import flat_fields

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Group", "Ref", "Stage", "Strict"]


class Strict(BaseModel):
    """Plain data whose fields are checked, also when they are assigned; others are refused."""

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


class Group(Strict):
    """Parameters whose name matches `pattern` (shell style) differ from the rest of their stage."""

    pattern: str = Field(description="shell-style pattern over parameter names, e.g. '*.bias' or 'predictor.*'")
    lr_scale: float = Field(default=1.0, ge=0, description="multiplies the learning rate")
    weight_decay: float | None = Field(default=None, ge=0, description="replaces the stage's weight decay")
    freeze: bool = Field(default=False, description="not trained in this stage")
    fixed_lr: bool = Field(default=False, description="keeps its peak learning rate: no warm-up, no decay")


class Stage(Strict):
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
    last_batch: Literal["drop", "straddle"] = Field(
        default="drop",
        description="samples that do not fill a batch at the end of an epoch: left out of it, others each epoch; or "
        "followed by the first of the next epoch, among which they may be again (version 0.1)",
    )
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

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Stage:
        """A copy with changes, which may be in version 0.1's form, too: unchecked, they would be lost in silence."""
        if update is not None and update.keys() & {"optimizer", "schedule", *flat_fields.FIELDS}:
            update = flat_fields.folded({"optimizer": self.optimizer, "schedule": self.schedule, **update})
            references = {name: _whole(Ref.model_validate(update[name])) for name in ("optimizer", "schedule")}
            update = {**update, **references}
        return super().model_copy(update=update, deep=deep)

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

    def resolved(self, samples: int) -> Stage:
        """The same stage with every length in updates, for a training set of `samples` samples."""
        size = samples if self.batch_size == "all" else self.batch_size
        each = max(1, samples // size) if self.last_batch == "drop" else samples / size  # updates of an epoch
        steps = self.steps if self.steps is not None else math.ceil((self.epochs or 0) * each)
        horizon = self.horizon or (math.ceil(self.horizon_epochs * each) if self.horizon_epochs else steps)
        warmup = self.warmup_steps if self.warmup_steps is not None else round((self.warmup_epochs or 0) * each)
        horizon = max(horizon, steps)  # one may be stated in updates and the other in epochs
        changes = {"steps": steps, "epochs": None, "horizon": horizon, "horizon_epochs": None, "batch_size": size}
        return self.model_copy(update={**changes, "warmup_steps": min(warmup, horizon), "warmup_epochs": None})

    def epoch_of(self, step: int, samples: int) -> int:
        """The epoch in which a resolved stage's update `step` begins, from 0, for `samples` training samples."""
        if self.last_batch == "drop":
            return step // max(1, samples // self.size)
        return step * self.size // samples

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
