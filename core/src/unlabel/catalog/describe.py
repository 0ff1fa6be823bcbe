"""What the catalog's names mean: one line each without importing anything, or everything about one.

`summary` reads a docstring out of the source file, so that listing stays fast however heavy the
libraries behind a name are; `component` imports it and reads its signature.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import inspect
import re
import typing
from pathlib import Path
from typing import Any

from unlabel.catalog.plugins import Catalog, Offer
from unlabel.errors import UsageError

__all__ = ["arguments", "component", "summary"]

_TOP_LEVEL = re.compile(r"^(?=[^\s)\]#])", re.MULTILINE)
_DOCSTRING = re.compile(r":[ \t]*(?:#.*)?\n\s+[rR]?(\"{3}|'{3}|\"|')[\s\S]*?\1")
_ARXIV = re.compile(r"\b(\d{4}\.\d{4,5})\b")


def summary(offer: Offer) -> dict[str, str]:
    """Name, plugin, one line and arXiv number (empty if none) of an offer, without importing it."""
    module, _, attribute = offer.target.partition(":")
    text = _source(module)
    top = re.match(r"\s*(?:#.*\n\s*)*[rR]?(\"{3}|'{3})(.*?)\1", text, re.DOTALL)
    document = inspect.cleandoc(top.group(2)) if top else ""
    chosen = document if offer.kind == "tasks" else _docstring(text, attribute) or document
    paper = _ARXIV.search(document) if offer.kind == "tasks" else None
    line = chosen.partition("\n")[0].strip()
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


def component(offer: Offer, catalog: Catalog) -> dict[str, Any]:
    """Everything about one name: document, keywords, and for a task its recipes, data and encoders."""
    from unlabel import recipe

    target = offer.load()
    skip = {"tasks": 1, "evaluations": 1, "optimizers": 1, "observers": 1}.get(offer.kind, 0)
    meanings = _meanings(target)
    keywords = [
        {
            "name": name,
            "type": _type(parameter.annotation),
            "default": None if parameter.default is parameter.empty else parameter.default,
            "required": parameter.default is parameter.empty,
            "meaning": meanings.get(name, ""),
        }
        for name, parameter in recipe.parameters(target, skip).items()
    ]
    document = inspect.getdoc(inspect.getmodule(target) if offer.kind == "tasks" else target) or ""
    found: dict[str, Any] = {
        **summary(offer),
        "kind": offer.kind.removesuffix("s"),
        "document": document,
        "keywords": keywords,
    }
    if offer.kind == "tasks":
        found |= {"encoders": _encoders(target, offer, catalog), "evaluations": list(target.evaluations)}
        found |= {"loss": _loss(target), "expected": dict(target.expected), "recipes": _recipes(offer)}
    return found


def _loss(task: Any) -> str:
    """What a task says of its own `loss`: the terms, their formula; empty if it says nothing."""
    return inspect.cleandoc(task.loss.__doc__ or "") if task.loss.__doc__ and "loss" in vars(task) else ""


def _meanings(target: Any) -> dict[str, str]:
    """Meanings of the keywords: from the docstrings of a class and of its ``__init__``, else from those it inherits."""
    owners = reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]
    documents = [
        text for owner in owners for text in (owner.__doc__, getattr(vars(owner).get("__init__"), "__doc__", ""))
    ]
    return {name: meaning for text in documents for name, meaning in arguments(inspect.cleandoc(text or "")).items()}


def arguments(document: str) -> dict[str, str]:
    """The meanings under ``Args:`` (and ``Attributes:``) of a docstring, by name."""
    found: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", document, re.MULTILINE):
        current: list[str] = []
        for line in section.splitlines():
            entry = re.match(r"^ {4}(\w[\w, ]*):\s*(.*)", line)
            if entry:
                current = [name.strip() for name in entry.group(1).split(",")]
                found |= {name: entry.group(2) for name in current if name not in found}
            elif line.strip():
                found |= {name: f"{found[name]} {line.strip()}" for name in current}
    return found


def _encoders(task: Any, offer: Offer, catalog: Catalog) -> list[str]:
    """Encoders of the task's own plugins whose type fits the task's first parameter."""
    from unlabel import recipe

    wanted = next(iter(recipe.parameters(task).values())).annotation
    prefix = offer.name.partition("/")[0] + "/"
    fitting = []
    for encoder in catalog.offers("encoders"):
        if encoder.name.startswith(prefix):
            try:
                made = recipe.made_by(encoder.load())
            except UsageError:  # it lacks a library: the task can still be shown
                continue
            # a factory that promises only "some module" may make one that fits
            if made is None or not inspect.isclass(wanted) or issubclass(made, wanted) or issubclass(wanted, made):
                fitting.append(encoder.name)
    return fitting


def _recipes(offer: Offer) -> dict[str, dict[str, Any]]:
    from unlabel import recipe

    return {
        name: {
            "document": inspect.getdoc(make) or "",
            "dataset": (chosen := make()).dataset.name,
            "recipe": chosen.model_dump(mode="json", exclude_defaults=True),
        }
        for name, make in recipe.named(offer.module()).items()
    }


def _type(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty or annotation is Any:
        return "any"
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(repr(value) for value in typing.get_args(annotation))
    return (
        str(annotation).replace("typing.", "")
        if typing.get_origin(annotation)
        else getattr(annotation, "__name__", str(annotation))
    )
