"""``unlabel check``: the contract outside pytest, as a table."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from unlabel.errors import UsageError, nearest
from unlabel.testing.contract import Case, Result, cases, find, results

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog

__all__ = ["check_plugin"]

_STYLES = {"ok": "green", "failed": "bold red", "not applicable": "dim"}


def check_plugin(plugin: str, only: list[str], catalog: Catalog, as_json: bool) -> int:
    """Run a plugin's checks and print how each went.

    Args:
        plugin: its name.
        only: run the checks whose id holds one of these texts; none: all.
        catalog: what is installed.
        as_json: a list of objects in place of the table.

    Returns:
        How many failed.

    Raises:
        UsageError: no such plugin, or no such check.
    """
    find(plugin, catalog)
    chosen = [case for case in cases(plugin, catalog) if not only or any(text in case.id for text in only)]
    if not chosen:
        known = [case.id for case in cases(plugin, catalog)]
        raise UsageError(f"no check of {plugin!r} holds {' or '.join(only)} in its id{nearest(only[0], known)}")
    with contextlib.redirect_stdout(sys.stderr):  # what the plugin prints is no result
        found = list(_watched(chosen))
    if as_json:
        print(json.dumps([_plain(result) for result in found], indent=2))
    else:
        _print(found)
    return sum(result.outcome == "failed" for result in found)


def _watched(chosen: list[Case]) -> Iterator[Result]:
    """The results, with the check that is at work shown on a terminal."""
    from unlabel.terminal import terminal

    console = terminal()
    if not console.is_terminal:
        yield from results(chosen)
        return
    with console.status("") as status:
        for number, case in enumerate(chosen):
            status.update(f"{number + 1}/{len(chosen)}  {case.id}")
            yield from results([case])


def _plain(result: Result) -> dict[str, str]:
    case = result.case
    return {
        "id": case.id,
        "kind": case.kind.removesuffix("s"),
        "component": case.component,
        "check": case.check.name,
        "outcome": result.outcome,
        "reason": result.reason,
    }


def _print(found: list[Result]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)  # a file has no width of its own
    table = Table("component", "check", "result", "reason", box=None, pad_edge=False)
    before = ""
    for result in found:
        name = result.case.component
        outcome = Text(result.outcome, _STYLES[result.outcome])
        table.add_row(Text(name if name != before else ""), result.case.check.name, outcome, Text(result.reason))
        before = name
    console.print(table)
    counts = [f"{sum(r.outcome == outcome for r in found)} {outcome}" for outcome in _STYLES]
    console.print(f"\n{len(found)} checks: {', '.join(counts)}", highlight=False)
