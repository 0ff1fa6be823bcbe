"""Schedules with a linear warm-up before them, each as one function of the step: for training loops of one's own."""

from __future__ import annotations

from collections.abc import Iterable

from unlabel.optim import schedules
from unlabel.optim.schedules import warm_up

__all__ = ["constant", "linear", "polynomial", "step_decay", "warmup_cosine"]


def warmup_cosine(
    step: float, horizon: float, warmup: float = 0, start: float = 0.0, end: float = 0.0, peak: float = 1.0
) -> float:
    """Linear from `start` to `peak` over `warmup` steps, then half a cosine down to `end` at `horizon`.

    Args:
        step: updates done, from 0 (fractions allowed; any unit, if it is the same for all three).
        horizon: where the schedule ends; `end` beyond.
        warmup: length of the warm-up.
        start: value at step 0 if there is a warm-up.
        end: value at `horizon`.
        peak: value after the warm-up.
    """
    if step < warmup:
        return warm_up(step, warmup, start, peak)
    return schedules.cosine(step, horizon, start=peak, warmup=warmup, end=end)


def constant(step: float, warmup: float = 0, start: float = 0.0, peak: float = 1.0) -> float:
    """Linear from `start` to `peak` over `warmup` steps, then `peak`; arguments as in `warmup_cosine`."""
    return warm_up(step, warmup, start, peak) if step < warmup else peak


def linear(
    step: float, horizon: float, warmup: float = 0, start: float = 0.0, end: float = 0.0, peak: float = 1.0
) -> float:
    """Linear warm-up, then linear down to `end` at `horizon`; arguments as in `warmup_cosine`."""
    return polynomial(step, horizon, warmup, start, end, peak, power=1.0)


def polynomial(
    step: float,
    horizon: float,
    warmup: float = 0,
    start: float = 0.0,
    end: float = 0.0,
    peak: float = 1.0,
    *,
    power: float,
) -> float:
    """Linear warm-up, then ``end + (peak - end) * (1 - done) ** power``; arguments as in `warmup_cosine`."""
    if step < warmup:
        return warm_up(step, warmup, start, peak)
    return schedules.polynomial(step, horizon, start=peak, warmup=warmup, end=end, power=power)


def step_decay(
    step: float,
    horizon: float,
    warmup: float = 0,
    start: float = 0.0,
    peak: float = 1.0,
    *,
    milestones: Iterable[float],
    gamma: float,
) -> float:
    """Linear warm-up, then `peak` times `gamma` for every milestone passed; arguments as in `warmup_cosine`.

    Args:
        milestones: fractions of `horizon` (warm-up included); rounded to whole steps.
        gamma: factor at each milestone.
    """
    if step < warmup:
        return warm_up(step, warmup, start, peak)
    return schedules.step_decay(step, horizon, start=peak, milestones=tuple(milestones), gamma=gamma)
