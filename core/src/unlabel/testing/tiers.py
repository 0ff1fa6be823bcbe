"""Which components are checked in full by every run of the tests, and which by one that has time (``-m slow``).

Tasks that share a base class share most of what can break: the simplest of each, that of the shortest file, is checked
in full every time, the others, encoders, datasets and evaluations by what costs little. Who works on one wants all of
it: a component whose file git sees as changed is checked in full, too. Nothing is imported to find that out.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
from collections.abc import Iterable
from pathlib import Path

from unlabel.catalog.plugins import Offer

__all__ = ["in_full"]


def in_full(offers: Iterable[Offer]) -> set[str]:
    """Names of the components whose every check is for every run; one that cannot be found is among them."""
    names: set[str] = set()
    bases: set[str] = set()
    changed: dict[Path, set[Path]] = {}
    files = {offer: _file(offer) for offer in offers}
    for offer, path in sorted(files.items(), key=lambda entry: entry[1].stat().st_size if entry[1] else 0):
        base = _base(offer, path) if offer.kind == "tasks" else ""
        if path is None or base is None or (base and base not in bases) or _is_changed(path, changed):
            names.add(offer.name)
        bases |= {base} if base else set()
    return names


def _file(offer: Offer) -> Path | None:
    """Where a component is defined; None if that cannot be told without importing it."""
    try:
        spec = importlib.util.find_spec(offer.target.partition(":")[0])
    except (ImportError, ValueError, AttributeError):
        return None
    path = Path(spec.origin).resolve() if spec and spec.origin else None
    return path if path and path.is_file() else None


def _base(offer: Offer, path: Path | None) -> str | None:
    """The first base class of a task, as it stands in its file; None if it does not stand there."""
    try:
        module = ast.parse(path.read_text(encoding="utf-8")) if path else ast.Module([], [])
    except (OSError, SyntaxError, ValueError):
        return None
    name = offer.target.partition(":")[2]
    bases = [node.bases for node in module.body if isinstance(node, ast.ClassDef) and node.name == name]
    return ast.unparse(bases[0][0]).rpartition(".")[2] if bases and bases[0] else None


def _is_changed(path: Path, known: dict[Path, set[Path]]) -> bool:
    """Whether git sees a file, or one of the package that it stands for, as changed; not so where there is no git."""
    folder = path.parent
    if folder not in known:
        command = [
            "git",
            "-C",
            str(folder),
            "status",
            "--porcelain",
            "-z",
            "--no-renames",
            "--untracked-files=all",
            ".",
        ]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
            top = ["git", "-C", str(folder), "rev-parse", "--show-toplevel"]
            root = Path(subprocess.run(top, capture_output=True, text=True, timeout=10, check=True).stdout.strip())
        except (OSError, subprocess.SubprocessError):
            answer, root = "", folder
        known[folder] = {(root / line[3:]).resolve() for line in answer.split("\0") if line}
    return bool(known[folder] if path.name == "__init__.py" else path in known[folder])
