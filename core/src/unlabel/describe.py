"""Everything about one component: what it is, its keywords, and for a task its recipes, data and encoders."""

from __future__ import annotations

import inspect
import re
import typing
from typing import Any

from unlabel import compose, signature
from unlabel.catalog.plugins import Catalog, Offer
from unlabel.catalog.summary import summary
from unlabel.errors import UsageError
from unlabel.task import Task

__all__ = ["arguments", "component"]


def component(offer: Offer, catalog: Catalog) -> dict[str, Any]:
    """Everything about one name: document, keywords, and for a task its recipes, data and encoders."""

    target = offer.load()
    skip = {"evaluations": 1, "optimizers": 1, "observers": 1}.get(offer.kind, 0)
    if offer.kind == "tasks":
        skip = len(signature.encoder_parts(target))
    meanings = _meanings(target)
    keywords = [
        {
            "name": name,
            "type": _type(parameter.annotation),
            "default": None if parameter.default is parameter.empty else parameter.default,
            "required": parameter.default is parameter.empty,
            "meaning": meanings.get(name, ""),
        }
        for name, parameter in signature.parameters(target, skip).items()
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
        found |= {"loss": _loss(target), "expected": dict(target.expected), "show": _show(target)}
        found |= {"outputs": list(target.outputs), "recipes": _recipes(offer)}
    return found


def _loss(task: Any) -> str:
    """What a task says of its own `loss`: the terms, their formula; empty if it says nothing."""
    return inspect.cleandoc(task.loss.__doc__ or "") if task.loss.__doc__ and "loss" in vars(task) else ""


def _show(task: Any) -> str:
    """What a task, or the class it is made from, says of its `show`; empty if it shows nothing."""
    return "" if task.show is Task.show else inspect.cleandoc(task.show.__doc__ or "")


def _meanings(target: Any) -> dict[str, str]:
    """Meanings of the keywords: from the docstrings of a class and of its ``__init__``, else from those it inherits."""
    owners = reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]
    documents = [
        text for owner in owners for text in (owner.__doc__, getattr(vars(owner).get("__init__"), "__doc__", ""))
    ]
    return {name: meaning for text in documents for name, meaning in arguments(inspect.cleandoc(text or "")).items()}


def _encoders(task: Any, offer: Offer, catalog: Catalog) -> list[str]:
    """Encoders of the task's own plugin whose type fits, as ``--encoder`` takes them: of several, ``PART=NAME``."""

    parts = signature.encoder_parts(task)
    annotations = {name: parameter.annotation for name, parameter in signature.parameters(task).items()}
    prefix = offer.name.partition("/")[0] + "/"
    known: dict[str, type | None] = {}
    for encoder in catalog.offers("encoders"):
        if encoder.name.startswith(prefix):
            try:
                known[encoder.name] = signature.made_by(encoder.load())
            except UsageError:  # it lacks a library: the task can still be shown
                continue
    return [
        name if len(parts) == 1 else f"{part}={name}"
        for part in parts
        for name, made in known.items()
        if _fits(made, annotations[part])
    ]


def _fits(made: type | None, wanted: Any) -> bool:
    """Whether what a factory makes may be what a parameter asks for; one that promises only "some module" may."""
    return made is None or not inspect.isclass(wanted) or issubclass(made, wanted) or issubclass(wanted, made)


def _recipes(offer: Offer) -> dict[str, dict[str, Any]]:

    return {
        name: {
            "document": inspect.getdoc(make) or "",
            "dataset": (chosen := make()).dataset.name,
            "recipe": chosen.model_dump(mode="json", exclude_defaults=True),
        }
        for name, make in compose.named(offer.module()).items()
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
