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
    """Everything about one name: document, keywords, and for a task its recipes, data and encoders.

    A task of several encoders has ``parts`` besides: which fit each of them.
    """
    target = offer.load()
    parts = signature.encoder_parts(target) if offer.kind == "tasks" else {}
    skip = {"tasks": len(parts), "evaluations": 1, "optimizers": 1, "observers": 1}.get(offer.kind, 0)
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
    description: dict[str, Any] = {
        **summary(offer),
        "kind": offer.kind.removesuffix("s"),
        "document": document,
        "keywords": keywords,
    }
    if offer.kind == "tasks":
        fitting = {part: _encoders(target, part, offer, catalog) for part in parts}
        typed = [(part, name) for part, names in fitting.items() for name in names]  # as --encoder takes them
        description["encoders"] = [name if len(parts) == 1 else f"{part}={name}" for part, name in typed]
        description |= {"parts": fitting} if len(parts) > 1 else {}
        description["evaluations"] = list(target.evaluations)
        description |= {"loss": _loss(target), "expected": dict(target.expected), "recipes": _recipes(offer)}
        description |= {"show": _show(target), "outputs": list(target.outputs)}
    return description


def _show(task: Any) -> str:
    """What a task, or the class it is made from, says of its `show`; empty if it shows nothing."""
    return "" if task.show is Task.show else inspect.cleandoc(task.show.__doc__ or "")


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


def _encoders(task: Any, part: str, offer: Offer, catalog: Catalog) -> list[str]:
    """Encoders of the task's own plugins whose type fits one of the task's encoders."""

    parameter_class = signature.parameters(task)[part].annotation
    prefix = offer.name.partition("/")[0] + "/"
    fitting = []
    for encoder in catalog.offers("encoders"):
        if encoder.name.startswith(prefix):
            try:
                made_class = signature.made_by(encoder.load())
            except UsageError:  # it lacks a library: the task can still be shown
                continue
            # a factory that promises only "some module" may make one that fits
            if (
                made_class is None
                or not inspect.isclass(parameter_class)
                or issubclass(made_class, parameter_class)
                or issubclass(parameter_class, made_class)
            ):
                fitting.append(encoder.name)
    return fitting


def _recipes(offer: Offer) -> dict[str, dict[str, Any]]:

    return {
        name: {
            "document": inspect.getdoc(make) or "",
            "dataset": (recipe := make()).dataset.name,
            "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
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
    meanings: dict[str, str] = {}
    for section in re.findall(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", document, re.MULTILINE):
        current: list[str] = []
        for line in section.splitlines():
            entry = re.match(r"^ {4}(\w[\w, ]*):\s*(.*)", line)
            if entry:
                current = [name.strip() for name in entry.group(1).split(",")]
                meanings |= {name: entry.group(2) for name in current if name not in meanings}
            elif line.strip():
                meanings |= {name: f"{meanings[name]} {line.strip()}" for name in current}
    return meanings
