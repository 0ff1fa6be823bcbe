"""What components take: values checked against real signatures, with their types, before anything is built.

A `Ref` is a name and keywords. Which keywords there are, of which type and with which defaults, is said once, by the
constructor or function itself; this module reads it there.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from unlabel.catalog import importing
from unlabel.errors import UsageError, nearest
from unlabel.recipe import Recipe, Ref, explain

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog

__all__ = [
    "encoder_of",
    "encoder_parts",
    "factory",
    "keywords",
    "made_by",
    "parameters",
    "required",
    "takes",
    "with_defaults",
]


def encoder_parts(task: Callable[..., Any]) -> dict[str, bool]:
    """The encoders a task is built around: name of each parameter before ``*`` -> whether it must be given.

    A task of one writes ``def __init__(self, encoder, *, ...)``, one of several ``(self, image, text, *, ...)``; with a
    default of None one may be left out. A positional parameter with another default is a keyword like any other.
    """
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return {
        name: parameter.default is parameter.empty
        for name, parameter in parameters(task).items()
        if parameter.kind is positional and (parameter.default is parameter.empty or parameter.default is None)
    }


def encoder_of(part: str, task: Callable[..., Any], recipe: Recipe) -> str | None:
    """Which encoder of a recipe a task's part is: that of its name, or the only one of both; None if there is none."""
    if part in recipe.encoders:
        return part
    alone = len(recipe.encoders) == 1 and sum(encoder_parts(task).values()) == 1
    return next(iter(recipe.encoders)) if alone and encoder_parts(task)[part] else None


def with_defaults(options: Mapping[str, Any], known: Iterable[str], implied: Mapping[str, Any]) -> dict[str, Any]:
    """Options with the implied values of those keywords among `known` that are missing or None."""
    missing = {name: implied[name] for name in known if name in implied and options.get(name) is None}
    return {**options, **missing}


def factory(ref: Ref, kind: str, catalog: Catalog) -> Callable[..., Any]:
    """What builds a Ref: a catalog entry, or ``package.module:factory`` for encoders no plugin offers.

    Reading a recipe never runs what it likes: a factory that only stands in a file, and was not typed
    by the user in this session (`Catalog.trusted`), must be a torch module class or a function
    annotated to return one.

    Raises:
        UsageError: unknown, not importable, or not to be trusted.
    """
    if ":" not in ref.name or kind != "encoders":
        return typing.cast(Callable[..., Any], catalog.load(kind, ref.name))
    target = importing.attribute(ref.name)
    if not callable(target):
        raise UsageError(f"{ref.name} is a {type(target).__name__}, not a class or function that makes an encoder")
    if ref.name not in catalog.trusted and not _makes_module(target):
        raise UsageError(
            f"encoder {ref.name!r} stands in a file and is neither a torch.nn.Module class nor a function annotated "
            f"'-> nn.Module': annotate it, or confirm it by giving --encoder {ref.name}"
        )
    return typing.cast(Callable[..., Any], target)


def _makes_module(target: Callable[..., Any]) -> bool:
    from torch import nn

    product = made_by(target)
    return product is not None and issubclass(product, nn.Module)


def made_by(target: Callable[..., Any]) -> type | None:
    """The class that a class or an annotated function makes; None if its annotation does not say."""
    product = (
        target if inspect.isclass(target) else _hints(target).get("return") if inspect.isfunction(target) else None
    )
    return product if inspect.isclass(product) else None


def _hints(target: Any) -> dict[str, Any]:
    """Resolved annotations; none if some name in them exists for type checkers only, or there cannot be any."""
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):
        return {}


def keywords(
    ref: Ref, target: Callable[..., Any], role: str, skip: int = 0, given: Collection[str] = ()
) -> dict[str, Any]:
    """The options of a Ref, checked and converted against the signature of what they are given to.

    Args:
        ref: name and options.
        target: class or function; its first `skip` parameters are not options.
        role: how the user addresses it (``task``, ``encoder``, ...).
        given: keywords that somebody else gives; they are no options.

    Raises:
        UsageError: unknown keyword, missing one, or a value of the wrong type.
    """
    known = {name: parameter for name, parameter in parameters(target, skip).items() if name not in given}
    checked = {}
    for name, value in ref.options.items():
        if name not in known:
            listing = f"; it takes {', '.join(known)}" if known else "; it takes no keywords"
            raise UsageError(f"{role}.{name}: {ref.name} has no keyword {name!r}{nearest(name, known) or listing}")
        try:
            checked[name] = _adapter(known[name].annotation).validate_python(value)
        except ValidationError as error:
            raise UsageError(f"{role}.{explain(error, name)}") from error
    for name in required(target, skip):
        if name not in ref.options and name not in given:
            raise UsageError(f"{ref.name} needs {role}.{name}: {_way(ref, role, name)}")
    return checked


def takes(target: Callable[..., Any], name: str, value: Any) -> bool:
    """Whether a class or function has a keyword of that name, and for such a value."""
    parameter = parameters(target).get(name)
    if parameter is None:
        return False
    try:
        _adapter(parameter.annotation).validate_python(value)
    except ValidationError:
        return False
    return True


def _way(ref: Ref, role: str, name: str) -> str:
    """How a user gives a missing keyword."""
    if (role, name) == ("dataset", "path"):
        return "give a path instead of this name"
    return (
        f"give it with --encoder {ref.name}:VALUE" if role == "encoder" else f"give it with --set {role}.{name}=VALUE"
    )


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    """Checks and converts to a type; one that pydantic does not know (a torch.dtype, a network) by isinstance."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return TypeAdapter(annotation)
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def required(target: Callable[..., Any], skip: int = 0) -> list[str]:
    """Names of the parameters without a default, in order; see `parameters`."""
    return [name for name, parameter in parameters(target, skip).items() if parameter.default is parameter.empty]


def parameters(target: Callable[..., Any], skip: int = 0) -> dict[str, inspect.Parameter]:
    """The named parameters of a class or function, annotations resolved (``Any`` where there is none).

    Raises:
        UsageError: something written in C, which does not say what it takes.
    """
    hints = _hints(target.__init__ if inspect.isclass(target) else target)
    try:
        listed = list(inspect.signature(target).parameters.values())[skip:]
    except ValueError as error:
        raise UsageError(f"{target!r} does not say which keywords it takes: wrap it in a function that does") from error
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in listed if p.kind in kinds}
