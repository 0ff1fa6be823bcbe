"""The core's own arrows: who imports whom inside it, how long its files are, how much its functions and classes ask.

An import inside a function is an arrow like any other; one that only a type checker reads is none.
"""

from __future__ import annotations

import ast
import graphlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from unlabel import Dataset, Task

CORE = Path(__file__).resolve().parents[2] / "core" / "src" / "unlabel"

ORDER = (
    ("cli",),
    ("launch",),
    ("session",),
    ("report", "export", "embed"),
    ("run",),
    ("judge",),
    ("build",),
    ("compose",),
    ("joining", "claims", "verify"),
    ("signature",),
    ("recipe",),
    ("stage",),
    ("catalog",),
    ("storage",),
)
"""One way down: each may know those below it, and those beside it, never one above. What is in none of the rows may be
known by all. Names of files or folders; one that is not there yet is no matter."""

LONGEST = 450
"""Lines of a file: what one sitting reads."""

MOST_PARAMETERS = 6
"""Positional parameters of a function: more of them are something that has no name yet. Keyword-only ones are read at
the call."""

MOST_MEMBERS = {Task: 24, Dataset: 24}
"""Public names that a base class adds. An author reads all of them before writing one class: what only some need is a
function, or a protocol beside the class. These are what there is now, and one more needs one that goes."""


def named(path: Path) -> str:
    """The module's name, without ``__init__``: ``unlabel.nn.heads``."""
    return ".".join(path.relative_to(CORE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {named(path): path for path in sorted(CORE.rglob("*.py"))}


def executed(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below one, without those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from executed(child)


def imported(source: str, modules: Mapping[str, Path]) -> set[str]:
    """Modules of the core that a file imports, at any depth of it."""
    found: set[str] = set()
    for node in executed(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in modules else node.module for name in names}
    return found & modules.keys() - {"unlabel"}  # whose public names are loaded when they are asked for


ARROWS = {name: imported(path.read_text(encoding="utf-8"), MODULES) - {name} for name, path in MODULES.items()}


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """The largest sets of modules each of which leads to all others of its set."""
    reach = {name: set(targets) for name, targets in arrows.items()}
    for through in arrows:
        for targets in reach.values():
            if through in targets:
                targets |= reach[through]
    found = {frozenset(other for other in reach[name] if name in reach[other]) for name in reach if name in reach[name]}
    return sorted(sorted(circle) for circle in found)


def upward(arrows: Mapping[str, set[str]]) -> list[str]:
    """Arrows against `ORDER`."""
    row = {f"unlabel.{name}": number for number, names in enumerate(ORDER) for name in names}

    def place(module: str) -> int | None:
        return row.get(".".join(module.split(".")[:2]))

    return [
        f"{name} imports {target}"
        for name, targets in arrows.items()
        for target in sorted(targets)
        if (here := place(name)) is not None and (there := place(target)) is not None and there < here
    ]


def test_no_arrows_of_the_core_make_a_circle() -> None:
    found = [f"{len(circle)} files: {', '.join(circle)}" for circle in circles(ARROWS)]
    assert not found, "\n".join(found)


def test_arrows_of_the_core_point_one_way_down() -> None:
    assert not upward(ARROWS), "\n".join(upward(ARROWS))


def test_arrows_inside_functions_count_and_those_for_types_do_not() -> None:
    source = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from unlabel import cli\n"
        "def f():\n    from unlabel import loop\n    import unlabel.nn.heads\n"
        "    from unlabel.errors import UsageError\n"
    )
    assert imported(source, MODULES) == {"unlabel.loop", "unlabel.nn.heads", "unlabel.errors"}


def test_circles_and_upward_arrows_would_be_found() -> None:
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(arrows) == [["a", "b", "c"], ["d", "e"]]
    straight = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert circles(straight) == []
    assert list(graphlib.TopologicalSorter(straight).static_order()) == ["c", "b", "a"]
    assert upward({"unlabel.recipe": {"unlabel.run", "unlabel.errors"}, "unlabel.cli": {"unlabel.report.page"}}) == [
        "unlabel.recipe imports unlabel.run"
    ]


def test_no_file_of_the_core_is_long() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    long = [f"{name}: {count} lines" for name, count in lines.items() if count > LONGEST]
    assert not long, "\n".join(long)


def test_functions_of_the_core_take_few_positional_parameters() -> None:
    """The command line's own apart: there, a parameter is an option."""
    crowded = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and name.split(".")[1:2] != ["cli"]:
                given = [entry.arg for entry in (*node.args.posonlyargs, *node.args.args)]
                count = len(given) - (given[:1] in (["self"], ["cls"]))
                crowded += [f"{name}:{node.lineno}: {node.name} ({count})"] if count > MOST_PARAMETERS else []
    assert not crowded, "\n".join(crowded)


@pytest.mark.parametrize("kind", MOST_MEMBERS, ids=lambda kind: kind.__name__)
def test_a_base_class_asks_little_of_its_authors(kind: type) -> None:
    own = [name for name in vars(kind) if not name.startswith("_")]
    assert len(own) <= MOST_MEMBERS[kind], own
    assert all(inspect.getdoc(getattr(kind, name)) for name in own if inspect.isfunction(getattr(kind, name)))
