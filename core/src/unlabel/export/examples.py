"""Inputs of encoders: one tensor, several, or several by keyword."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from unlabel.export.protocols import Example

__all__ = ["arguments", "call", "tensors"]


def arguments(example: Example) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional and keyword arguments.

    Raises:
        TypeError: it is something else.
    """
    positional = (example,) if isinstance(example, Tensor) else example if isinstance(example, tuple) else ()
    keywords = dict(example) if isinstance(example, Mapping) else {}
    values = [*positional, *keywords.values()]
    if not values or not all(isinstance(value, Tensor) for value in values):
        raise TypeError(
            f"example() returned {type(example).__name__}, expected a tensor, or a tuple or dict of tensors"
        )
    return positional, keywords


def call(encoder: nn.Module, example: Example) -> Any:
    """What the encoder makes of it."""
    positional, keywords = arguments(example)
    return encoder(*positional, **keywords)


def tensors(example: Example) -> dict[str, Tensor]:
    """The tensors by place (``"0"``, ``"1"``) or keyword."""
    positional, keywords = arguments(example)
    return {**{str(place): value for place, value in enumerate(positional)}, **keywords}
