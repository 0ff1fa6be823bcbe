"""Which optimizers and schedules there are, and whether a stage's suit: names and options, before anything is built.

An optimizer is a class of torch.optim (in any case: ``adamw``, ``SGD``), ``lars``, one that a plugin offers
(``sonar/adan``), or ``package.module:Class``. A schedule is one of `unlabel.optim.schedules`, or
``package.module:function``. What a plugin does not offer is imported only if the user named it in this session, see
`unlabel.catalog.plugins.Catalog.trusted`.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.optim import Optimizer

from unlabel import flat_fields, signature
from unlabel.catalog import importing
from unlabel.errors import UsageError, nearest, one_line
from unlabel.optim.lars import LARS
from unlabel.optim.schedules import SCHEDULES
from unlabel.recipe import Ref

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog
    from unlabel.recipe import Stage

__all__ = ["check", "find", "kept_options", "not_looked_up", "own_options", "own_optimizers", "unknown_optimizer"]

Kind = Literal["optimizer", "schedule"]

_GIVEN = ("params", "lr", "weight_decay")
"""Keywords of an optimizer that the trainer gives."""


@functools.cache
def own_optimizers() -> dict[str, type[Optimizer]]:
    """Optimizer classes by lower-case name: LARS, and those of torch.optim with a rate and weight decay."""
    classes: dict[str, type[Optimizer]] = {"lars": LARS}
    for name, value in vars(torch.optim).items():
        if (
            isinstance(value, type)
            and issubclass(value, Optimizer)
            and {"lr", "weight_decay"} <= set(inspect.signature(value).parameters)
        ):
            classes[name.lower()] = value
    return classes


def find(kind: Kind, name: str, catalog: Catalog) -> Any:
    """The class of an optimizer, or the function of a schedule.

    Raises:
        UsageError: unknown (with the nearest names), not importable, not to be trusted, or something else.
    """
    own = own_optimizers().get(name.lower()) if kind == "optimizer" else SCHEDULES.get(name)
    if own is not None:
        return own
    if ":" in name:
        if name not in catalog.trusted:
            raise UsageError(f"{kind} {name!r} is code from elsewhere: confirm that it may run with --trust {name}")
        target = importing.attribute(name)
    elif kind == "optimizer" and "/" in name:
        target = catalog.load("optimizers", name)
    elif kind == "optimizer":
        raise unknown_optimizer(name, catalog.names("optimizers"))
    else:
        raise UsageError(f"schedule {name!r} is unknown{nearest(name, SCHEDULES) or _listing(SCHEDULES)}")
    return _checked(kind, name, target)


def unknown_optimizer(name: str, offered: list[str]) -> UsageError:
    """The error for a name that is none of torch's, LARS, or among those offered by plugins."""
    names = [*own_optimizers(), *offered]
    return UsageError(f"optimizer {name!r} is unknown{nearest(name.lower(), names) or _listing(names)}")


def not_looked_up(name: str) -> UsageError:
    """The error for a name that nobody has looked up in a catalog yet."""
    if ":" in name or "/" in name:
        return UsageError(f"optimizer {name!r} is none of torch's: look it up in a catalog first (unlabel.verify)")
    return unknown_optimizer(name, [])


def _listing(names: Any) -> str:
    return f"; there are {', '.join(names)}"


def _checked(kind: Kind, name: str, target: Any) -> Any:
    """What somebody else's name stands for, after a look at whether it is of its kind."""
    if kind == "optimizer":
        if not (isinstance(target, type) and issubclass(target, Optimizer)):
            raise UsageError(f"optimizer {name!r} is no subclass of torch.optim.Optimizer: {target!r}")
        if "lr" not in signature.parameters(target):
            raise UsageError(f"optimizer {name!r} has no keyword 'lr', so the schedule could not set its rate")
        return target
    if not callable(target):
        raise UsageError(f"schedule {name!r} is a {type(target).__name__}, not a function")
    missing = {"start", "warmup"} - signature.parameters(target).keys()
    if missing:
        raise UsageError(
            f"schedule {name!r} has no keyword {' and no '.join(sorted(missing))}: expected a function "
            "(step, horizon, *, start, warmup, ...) -> value"
        )
    return target


def check(stage: Stage, role: str, catalog: Catalog) -> None:
    """Check a stage's optimizers and schedules against their real signatures, and convert their options.

    Third-party ones are remembered in `Stage.third_party`, where building and training find them.

    Args:
        stage: changed in place.
        role: how the user addresses it: ``stages.0``.
        catalog: what is installed.

    Raises:
        UsageError: an unknown name or keyword (with the nearest), a value of the wrong type, or one that makes a
            schedule fail.
    """
    named = {f"optimizers.{name}": ref for name, ref in stage.optimizers.items()}
    for place, ref in {"optimizer": stage.optimizer, **named}.items():
        _check_optimizer(ref, f"{role}.{place}", stage, catalog)
    _check_schedule(stage.schedule, f"{role}.schedule", {"start": 1.0}, stage, catalog)
    if isinstance(stage.weight_decay, Ref):
        _check_schedule(stage.weight_decay, f"{role}.weight_decay", {}, stage, catalog)


def _look_up(role: str, kind: Kind, name: str, catalog: Catalog) -> Any:
    try:
        return find(kind, name, catalog)
    except UsageError as error:
        raise UsageError(f"{role}: {error}") from error


def _check_optimizer(ref: Ref, role: str, stage: Stage, catalog: Catalog) -> None:
    target = _look_up(role, "optimizer", ref.name, catalog)
    for name in _GIVEN:
        if name in ref.options:
            raise UsageError(f"{role}.{name}: the stage says it, or its groups: {_instead(role, name)}")
    if stage.weight_decay != 0 and "weight_decay" not in signature.parameters(target):
        raise UsageError(f"{role}: {ref.name} knows no weight decay: set {role.partition('.opt')[0]}.weight_decay=0")
    ref.options = signature.keywords(ref, target, role, given=_GIVEN)
    if ref.name.lower() not in own_optimizers():
        stage.third_party[ref.name] = target


def _instead(role: str, name: str) -> str:
    stage = role.partition(".opt")[0]
    return f"{stage}.{name}" if name != "params" else f"{stage}.groups"


def _check_schedule(ref: Ref, role: str, stage_values: dict[str, float], stage: Stage, catalog: Catalog) -> None:
    target = _look_up(role, "schedule", ref.name, catalog)
    ref.options = signature.keywords(ref, target, role, skip=2, given=("warmup", *stage_values))
    for step in (0, 50, 100):
        value = _tried(target, step, {**stage_values, **ref.options}, role)
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise UsageError(f"{role}: {ref.name} is {value!r} at step {step} of 100; expected a number, 0 or above")
    if ref.name not in SCHEDULES:
        stage.third_party[ref.name] = target


def _tried(schedule: Callable[..., Any], step: int, options: dict[str, Any], role: str) -> Any:
    try:
        return schedule(step, 100, warmup=0, **options)
    except Exception as error:  # somebody else's code, or numbers without sense
        raise UsageError(f"{role}: fails at step {step} of 100: {one_line(error)}") from error


def own_options(ref: Ref) -> dict[str, Any]:
    """The options of an optimizer or schedule that somebody chose: without those that it gets by itself."""
    defaults = flat_fields.defaults_of(ref.name)
    return {key: value for key, value in ref.options.items() if value != defaults.get(key)}


def kept_options(kind: Kind, before: Ref, name: str, catalog: Catalog) -> dict[str, Any]:
    """The options of one optimizer or schedule that another, of this name, takes too."""
    try:
        target = find(kind, name, catalog)
    except UsageError:  # it is reported when the recipe is checked
        return {}
    return {key: value for key, value in own_options(before).items() if signature.takes(target, key, value)}
