"""What a check is, and how it says that a promise is broken."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Check", "NotApplicable", "Violation", "are_numbers", "of", "registered", "same_everywhere"]


class Violation(AssertionError):
    """A component breaks the contract: what is wrong, with the figure, and how to mend it."""


class NotApplicable(Exception):
    """There is nothing to check here, and why."""


@dataclass(frozen=True)
class Check:
    """One promise.

    Attributes:
        function: takes the component's trial and raises.
        kinds: the hooks whose components are checked.
        costly: whether it trains, or takes long otherwise; see `unlabel.testing.tiers`.
    """

    function: Callable[[Any], None]
    kinds: tuple[str, ...]
    costly: bool = False

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """What is checked, in one line."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_CHECKS: list[Check] = []


def of(*kinds: str, costly: bool = False) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a check of components of these kinds."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        _CHECKS.append(Check(function, kinds, costly))
        return function

    return register


def registered() -> tuple[Check, ...]:
    """Every check of the modules that were imported, in their order."""
    return tuple(_CHECKS)


def same_everywhere(readings: list[dict[str, str]], what: str, mend: str) -> None:
    """Readings: here, here again, and in two other processes."""
    here, *others = readings
    for other, where in zip(others, ("a second time", "in another process", "in another process"), strict=True):
        wrong = sorted(name for name in here.keys() | other.keys() if here.get(name) != other.get(name))
        if wrong:
            raise Violation(
                f"{what} {where} gives something else ({wrong[0]}; {len(wrong)} of {len(here)} differ): {mend}"
            )


def are_numbers(found: Any, name: str) -> None:
    """Nothing, if an evaluation returned finite numbers by name."""
    if not isinstance(found, dict) or not found:
        raise Violation(f"{name} returns {found!r}: numbers by name are expected, e.g. {{'accuracy': 0.5}}")
    for key, value in found.items():
        if not isinstance(key, str) or isinstance(value, bool) or not isinstance(value, int | float):
            raise Violation(f"{name} returns {key!r}: {value!r} ({type(value).__name__}); a plain number is expected")
        if not math.isfinite(value):
            raise Violation(f"{name} returns {key} = {value}: a finite number is expected")
