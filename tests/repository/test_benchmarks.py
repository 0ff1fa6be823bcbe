"""The benchmarks ask of the library only what is there: they run too seldom to be found out otherwise."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").rglob("*.py"))


def imported(module: str, name: str) -> object | None:
    """What ``from module import name`` gives; None if it fails."""
    try:
        found = importlib.import_module(module)
        return getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        return None


def missing(source: str) -> Iterator[str]:
    """Names that a source imports from this repository's packages, or reads off their modules, and that are not there;
    imports inside functions too."""
    tree = ast.parse(source)
    modules: dict[str, ModuleType] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0].startswith("unlabel"):
            for alias in node.names:
                value = imported(node.module, alias.name)
                if value is None:
                    yield f"{node.module}.{alias.name}"
                elif isinstance(value, ModuleType):
                    modules[alias.asname or alias.name] = value
    assigned = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = modules.get(node.value.id)
            if owner is not None and node.value.id not in assigned and not hasattr(owner, node.attr):
                yield f"{owner.__name__}.{node.attr}"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT / "benchmarks")))
def test_what_a_benchmark_asks_for_is_there(script: Path) -> None:
    assert list(missing(script.read_text(encoding="utf-8"))) == []


def test_what_is_not_there_would_be_found() -> None:
    source = (
        "from unlabel import errors as words\nfrom unlabel.errors import UsageError\n"
        "def f():\n    from unlabel.errors import absent\n    words.nearest, words.gone\n"
    )
    assert list(missing(source)) == ["unlabel.errors.absent", "unlabel.errors.gone"]
