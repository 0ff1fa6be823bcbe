"""Schedules: the learning rate and the weight decay of an update, as functions of the step alone.

So resuming needs no scheduler state: the loop calls `set_schedules` before every update. A schedule is a pure
function ``(step, horizon, *, start, warmup, ...) -> value``; the recipe names it, with its further keywords as
options: ``Ref("cosine", end=1e-6)``. For the learning rate `start` is the stage's peak rate, and the stage itself
warms up to it. For the weight decay `start` is an option too, and `warmup` is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from torch.optim import Optimizer

from unlabel.errors import UsageError
from unlabel.recipe import Ref

if TYPE_CHECKING:
    from unlabel.recipe import Stage

__all__ = [
    "SCHEDULES",
    "constant",
    "cosine",
    "learning_rate",
    "linear",
    "polynomial",
    "set_lr",
    "set_schedules",
    "set_weight_decay",
    "step_decay",
    "warm_up",
    "weight_decay",
]


def warm_up(step: float, warmup: float, start: float, peak: float) -> float:
    """Linear from `start` at step 0 to `peak` at step `warmup`."""
    return start + (peak - start) * step / warmup


def _done(step: float, horizon: float, warmup: float) -> float:
    """How much of what follows the warm-up is over, in [0, 1]."""
    return 1.0 if step >= horizon else (step - warmup) / (horizon - warmup)


def cosine(step: float, horizon: float, *, start: float, warmup: float = 0, end: float = 0.0) -> float:
    """Half a cosine from `start` to `end`.

    Args:
        step: updates done, from 0 (fractions allowed; any unit, if it is the same for all three).
        horizon: where the schedule ends; `end` beyond.
        start: value at the end of the warm-up.
        warmup: how many steps belong to the warm-up: the schedule begins after them.
        end: value at `horizon`.
    """
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * _done(step, horizon, warmup)))


def constant(step: float, horizon: float, *, start: float, warmup: float = 0) -> float:
    """Always `start`; arguments as in `cosine`."""
    return start


def linear(step: float, horizon: float, *, start: float, warmup: float = 0, end: float = 0.0) -> float:
    """A line from `start` to `end`; arguments as in `cosine`."""
    return polynomial(step, horizon, start=start, warmup=warmup, end=end)


def polynomial(
    step: float, horizon: float, *, start: float, warmup: float = 0, end: float = 0.0, power: float = 1.0
) -> float:
    """``end + (start - end) * (1 - done) ** power``; arguments as in `cosine`.

    Args:
        power: 1 is a line, 2 a parabola that ends flat.
    """
    return float(end + (start - end) * (1.0 - _done(step, horizon, warmup)) ** power)


def step_decay(
    step: float,
    horizon: float,
    *,
    start: float,
    warmup: float = 0,
    milestones: tuple[float, ...] = (),
    gamma: float = 0.1,
) -> float:
    """`start` times `gamma` for every milestone passed; arguments as in `cosine`.

    Args:
        milestones: fractions of `horizon` (warm-up included), in (0, 1); rounded to whole steps.
        gamma: factor at each milestone.
    """
    return float(start * gamma ** sum(step >= round(fraction * horizon) for fraction in milestones))


SCHEDULES: dict[str, Callable[..., float]] = {
    "cosine": cosine,
    "constant": constant,
    "linear": linear,
    "step": step_decay,
    "polynomial": polynomial,
}
"""What recipes call them."""


# --- of a stage ----------------------------------------------------------------------------------


def learning_rate(stage: Stage, step: int) -> float:
    """The learning rate of a resolved stage at a step, for groups whose scale is 1.

    Linear from `Stage.warmup_start_lr` to `Stage.peak_lr` over the warm-up, then as the stage's schedule says; only
    the peak is scaled with the batch size.
    """
    if step < stage.warmup:
        length = max(1, stage.warmup - 1) if stage.warmup_inclusive else stage.warmup
        return warm_up(step, length, stage.warmup_start_lr, stage.peak_lr)
    return _value(stage, stage.schedule, step, warmup=stage.warmup, start=stage.peak_lr)


def weight_decay(stage: Stage, step: int) -> float:
    """The weight decay of a resolved stage at a step, for groups that say nothing else."""
    if not isinstance(stage.weight_decay, Ref):
        return stage.weight_decay
    return _value(stage, stage.weight_decay, step, warmup=0)


def _value(stage: Stage, ref: Ref, step: int, **position: float) -> float:
    function = SCHEDULES.get(ref.name) or stage.third_party.get(ref.name)
    if function is None:
        raise UsageError(f"schedule {ref.name!r} is none of {', '.join(SCHEDULES)}: look it up first (unlabel.verify)")
    return float(function(step, stage.horizon, **position, **ref.options))


def set_lr(optimizers: Mapping[str, Optimizer], stage: Stage, step: int) -> None:
    """Set the learning rate of every group of every optimizer for the update after `step` updates.

    A group may hold ``"lr_scale"`` (multiplies the rate; 1 without) and ``"fixed_lr"`` (keeps the peak:
    no warm-up, no decay; False without), as those that `groups` makes do.
    """
    rate = learning_rate(stage, step)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            base = stage.peak_lr if group.get("fixed_lr", False) else rate
            group["lr"] = base * group.get("lr_scale", 1.0)


def set_weight_decay(optimizers: Mapping[str, Optimizer], stage: Stage, step: int) -> None:
    """Set the weight decay for the update after `step` updates, if the stage has a schedule for it.

    It is that of the groups with ``"scheduled_decay"``, as `groups` makes them: what is spared stays spared, and a
    group with a weight decay of its own keeps it.
    """
    if not isinstance(stage.weight_decay, Ref):
        return
    decay = weight_decay(stage, step)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            if group.get("scheduled_decay", False):
                group["weight_decay"] = decay


def set_schedules(optimizers: Mapping[str, Optimizer], stage: Stage, step: int) -> None:
    """Set all that a stage schedules for the update after `step` updates: learning rates and weight decay."""
    set_lr(optimizers, stage, step)
    set_weight_decay(optimizers, stage, step)
