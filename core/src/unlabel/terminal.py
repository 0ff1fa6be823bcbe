"""What is said to the user: on standard error, so that ``--json`` on standard output stays clean."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Say", "lacking_lines", "print_results", "say", "silent", "terminal"]

Say = Callable[[Any], None]
"""Shows a line, or something that rich can render."""


def terminal() -> Console:
    """The console messages go to."""
    from rich.console import Console

    return Console(file=sys.stderr, soft_wrap=True)


def say(what: Any) -> None:
    """Show a line as it is: a path may hold brackets."""
    terminal().print(what, highlight=False, markup=False)


def silent(what: Any) -> None:
    """Say nothing."""


def lacking_lines(lacking: Mapping[str, str]) -> list[str]:
    """Which evaluations could not be made, and why: those that lack the same in one line."""
    reasons: dict[str, list[str]] = {}
    for name, reason in lacking.items():
        reasons.setdefault(reason, []).append(name)
    return [f"{', '.join(names)}: not made: {reason}" for reason, names in reasons.items()]


def print_results(say: Say, results: dict[str, Any]) -> None:
    """The result table: evaluations before and after, time and speed, and the verdict."""
    from rich.table import Table
    from rich.text import Text

    if results.get("after"):
        table = Table("evaluation", "measure", "random init", "trained", box=None, pad_edge=False)
        for name, numbers in results["after"].items():
            for measure, value in numbers.items():
                before = results.get("before", {}).get(name, {}).get(measure, float("nan"))
                table.add_row(name, measure, f"{before:.4g}", Text(f"{value:.4g}", "bold"))
        say(table)
    else:
        say(results.get("note", "not evaluated"))
    for line in lacking_lines(results.get("lacking", {})):
        say(line)
    say(f"trained in {results['seconds']:.1f} s, {results['samples_per_second']:.0f} samples/s")
    for level, sentence in results["health"]:
        say(f"health  {level}: {sentence}")
