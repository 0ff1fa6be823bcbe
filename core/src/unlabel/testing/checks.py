"""What a plugin promises, one function a check. The docstring says what and why; the message, how to mend it.

How a component is built, run and compared is in `unlabel.testing.trials`; nothing here imports torch, so that listing
the checks costs nothing. A check returns if all is well, raises `Violation` if the promise is broken, and
`NotApplicable` where there is nothing to check.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unlabel import describe

if TYPE_CHECKING:
    from unlabel.testing.trials import Component, TaskTrial, Whole

__all__ = ["CHECKS", "PLUGIN_CHECKS", "Check", "NotApplicable", "Violation"]


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
    """

    function: Callable[[Any], None]
    kinds: tuple[str, ...]

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """What is checked, in one line."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]


_FOUND: list[Check] = []

TASKS = ("tasks",)
EVERYTHING = ("tasks", "encoders", "datasets", "evaluations", "commands", "observers")


def _of(*kinds: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a check of components of these kinds."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        _FOUND.append(Check(function, kinds))
        return function

    return register


# The plugin as a whole


@_of("plugin")
def loads(plugin: Whole) -> None:
    """The plugin is installed, and the host finds nothing wrong with it.

    A name that two plugins claim, a misspelt hook, or something printed while importing is a problem of the host's.
    """
    problems = plugin.found.problems
    if problems:
        raise Violation("; ".join(problems))


@_of("plugin")
def imports_nothing_heavy(plugin: Whole) -> None:
    """Asking what the plugin offers imports neither torch nor numpy, in an interpreter of its own.

    Every `unlabel` command asks every installed plugin; one heavy import costs all of them seconds.
    """
    heavy = plugin.imported() & {"torch", "numpy"}
    if heavy:
        raise Violation(
            f"the plugin's entry point imports {' and '.join(sorted(heavy))}: name components by strings "
            "('package.module:Class'), and move imports out of its module and of the package's __init__.py"
        )


# Every component


@_of(*EVERYTHING)
def resolves(component: Component) -> None:
    """The name leads to an object of the kind it is offered as, and bears the plugin's prefix.

    Without the prefix two plugins would sooner or later claim one name. Commands and observers may do without it.
    """
    prefix = f"{component.plugin}/"
    if component.kind not in ("commands", "observers") and not component.name.startswith(prefix):
        raise Violation(
            f"{component.name!r} lacks the plugin's prefix: call it {prefix}{component.name.split('/')[-1]}"
        )
    wrong = component.misfit()
    if wrong:
        raise Violation(wrong)


@_of(*EVERYTHING)
def is_described(component: Component) -> None:
    """There is a docstring, whose first line says in one sentence what this is; `unlabel list` shows it.

    A task's is its module's: the idea, the paper, what is predicted from what, where it differs.
    """
    line = describe.summary(component.offer)["summary"]
    where = (
        f"module {component.offer.target.partition(':')[0]}" if component.kind == "tasks" else component.offer.target
    )
    if not line:
        raise Violation(f"{where} has no docstring: say in its first line what {component.name} is")
    if len(line) > 160:
        raise Violation(f"the first line of {where} has {len(line)} characters: one short sentence, then a blank line")


@_of("tasks", "encoders", "datasets", "evaluations")
def keywords_documented(component: Component) -> None:
    """Every keyword has a type and a meaning under ``Args:``, and a task's has a default and is keyword-only.

    Keywords are the configuration: `unlabel show` prints them, and values given on the command line are checked
    against their types. The defaults of a task are its paper's.
    """
    problems = component.undocumented()
    if problems:
        raise Violation("; ".join(problems))


# Tasks


@_of(*TASKS)
def loss_is_a_finite_scalar(task: TaskTrial) -> None:
    """`loss` returns named scalars; those that drive the update are finite and need a gradient."""
    for name, value in task.terms().items():
        if value.shape:
            raise Violation(f"loss() returns {name!r} of shape {tuple(value.shape)}: a scalar is expected, use .mean()")
        if not value.isfinite():
            raise Violation(f"loss() returns {name!r} = {value.item()} on the first batch: a finite number is expected")
        drives = name == "loss" or name.startswith("loss_")
        if drives and not value.requires_grad:
            raise Violation(
                f"{name!r} needs no gradient, so nothing would be learnt: is it detached, or under no_grad?"
            )


PLUGIN_CHECKS: tuple[Check, ...] = tuple(check for check in _FOUND if check.kinds == ("plugin",))
"""The checks of a plugin as a whole."""

CHECKS: tuple[Check, ...] = tuple(check for check in _FOUND if check.kinds != ("plugin",))
"""The checks of its components."""
