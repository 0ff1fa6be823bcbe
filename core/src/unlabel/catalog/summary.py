"""What the catalog's names mean, a line each: read out of the source files' docstrings, without importing anything.

So listing stays fast however heavy the libraries behind a name are.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import re
from pathlib import Path

from unlabel.catalog.plugins import Offer

__all__ = ["summary"]

_TOP_LEVEL = re.compile(r"^(?=[^\s)\]#])", re.MULTILINE)
_DOCSTRING = re.compile(r":[ \t]*(?:#.*)?\n\s+[rR]?(\"{3}|'{3}|\"|')[\s\S]*?\1")
_ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def summary(offer: Offer) -> dict[str, str]:
    """Name, plugin, one line and arXiv number (empty if none) of an offer, without importing it."""
    module, _, attribute = offer.target.partition(":")
    text = _source(module)
    top = re.match(r"\s*(?:#.*\n\s*)*[rR]?(\"{3}|'{3})(.*?)\1", text, re.DOTALL)
    document = inspect.cleandoc(top.group(2)) if top else ""
    description = document if offer.kind == "tasks" else _docstring(text, attribute) or document
    paper = _ARXIV.search(document) if offer.kind == "tasks" else None
    line = description.partition("\n")[0].strip()
    return {"name": offer.name, "plugin": offer.plugin, "summary": line, "arxiv": paper.group(1) if paper else ""}


def _docstring(text: str, name: str) -> str:
    """The docstring of a top-level class or function.

    Only its head is parsed, up to the end of the first docstring in sight, which is what makes it fast; where
    that cannot be parsed (it was no docstring), all of its lines are.
    """
    start = re.search(rf"^(?:class|(?:async )?def) {re.escape(name)}\b", text, re.MULTILINE)
    if start is None:
        return ""
    following = _TOP_LEVEL.search(text, start.end())
    end = following.start() if following else len(text)
    document = _DOCSTRING.search(text, start.end(), end)
    for stop in (document.end() if document else end, end):
        try:
            node = ast.parse(text[start.start() : stop]).body[0]
        except (SyntaxError, ValueError, RecursionError, MemoryError):  # whatever the parser says to what is no Python
            continue
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            return ast.get_docstring(node) or ""
    return ""


def _source(module: str) -> str:
    """The source of a module, found without importing its packages; empty if there is none to read."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    places = [Path(place).joinpath(*rest) for place in spec.submodule_search_locations or ()]
    if not rest and spec.origin:
        places.append(Path(spec.origin))
    for place in places:
        for candidate in (place, place.with_name(f"{place.name}.py"), place / "__init__.py"):
            with contextlib.suppress(OSError, ValueError):  # not there, not ours to read, or no path at all
                return candidate.read_text(encoding="utf-8", errors="replace")
    return ""
