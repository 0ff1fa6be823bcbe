"""What a task or a dataset can show of itself: a picture, a text, a sound, a clip or a table.

Each checks what it is given when it is made, and says what that was; `Task.show` and `Dataset.show` return them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Cell", "Clip", "Mark", "Media", "Picture", "Sound", "Table", "Text", "checked", "described", "of"]

Cell: TypeAlias = "str | int | float | bool | None"
"""What stands in a table's cell."""

_CHANNELS = 8
_FASTEST = 768_000  # Hz; twice what studios record at


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture.

    Args:
        array: uint8, (H, W, 3), red, green, blue.
        caption: a line below it.

    Raises:
        ValueError: it is something else.
    """

    array: np.ndarray
    caption: str = ""

    def __post_init__(self) -> None:
        _check_colours(self.array, "(H, W, 3)")
        _check_caption(self.caption)


@dataclass(frozen=True, eq=False)
class Clip:
    """Moving pictures.

    Args:
        array: uint8, (T, H, W, 3), red, green, blue.
        rate: pictures a second.
        caption: a line below it.

    Raises:
        ValueError: it is something else.
    """

    array: np.ndarray
    rate: float
    caption: str = ""

    def __post_init__(self) -> None:
        _check_colours(self.array, "(T, H, W, 3)")
        if not _is_number(self.rate) or not 0 < self.rate < math.inf:
            raise ValueError(f"a clip of {self.rate!r} pictures a second, expected a number above 0")
        _check_caption(self.caption)


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound.

    Args:
        samples: float32, (T,) or (C, T), within [-1, 1]; kept as (C, T), with at most 8 channels.
        rate: samples a second.
        caption: a line below it.

    Raises:
        ValueError: it is something else, or silent for being NaN.
    """

    samples: np.ndarray
    rate: int
    caption: str = ""

    def __post_init__(self) -> None:
        samples = self.samples
        if not isinstance(samples, np.ndarray) or samples.dtype != np.float32 or samples.ndim not in (1, 2):
            raise ValueError(f"{described(samples)}, expected a float32 array (T,) or (C, T)")
        if not samples.size or (samples.ndim == 2 and len(samples) > _CHANNELS):
            raise ValueError(
                f"a sound of shape {samples.shape}, expected samples, in at most {_CHANNELS} channels (C, T)"
            )
        largest = float(np.abs(samples).max())  # NaN if any is
        if not largest <= 1:
            raise ValueError(f"a sound that reaches {largest:g}, expected samples within [-1, 1]")
        if not _is_number(self.rate) or self.rate != int(self.rate) or not 1 <= self.rate <= _FASTEST:
            raise ValueError(f"a sound of {self.rate!r} samples a second, expected a whole number up to {_FASTEST:,}")
        object.__setattr__(self, "samples", np.atleast_2d(samples))
        object.__setattr__(self, "rate", int(self.rate))
        _check_caption(self.caption)


@dataclass(frozen=True)
class Mark:
    """A part of a line that is highlighted.

    Args:
        text: the part.
        label: what is said of it: its class, or what was guessed instead.
        strength: how strongly, in (0, 1]: an attention's weight, say.

    Raises:
        ValueError: it is something else.
    """

    text: str
    label: str = ""
    strength: float = 1.0

    def __post_init__(self) -> None:
        for value in (self.text, self.label):
            if not isinstance(value, str):
                raise ValueError(f"a mark of {described(value)}, expected a str")
        if not _is_number(self.strength) or not 0 < self.strength <= 1:
            raise ValueError(f"a mark of strength {self.strength!r} is outside (0, 1]")


@dataclass(frozen=True, init=False)
class Text:
    """A text, some of which may be highlighted.

    Args:
        text: a str, or lines, each a str or a sequence of str and `Mark`.
        caption: a line below it.

    Attributes:
        lines: of the text, each in its parts.

    Raises:
        ValueError: it is something else.
    """

    lines: tuple[tuple[str | Mark, ...], ...]
    caption: str = ""

    def __init__(self, text: str | Sequence[str | Sequence[str | Mark]], caption: str = ""):
        lines = text.splitlines() if isinstance(text, str) else text
        if not isinstance(lines, Sequence):
            raise ValueError(f"a text of {described(text)}, expected a str or a sequence of lines")
        object.__setattr__(self, "lines", tuple(_line(line) for line in lines))
        object.__setattr__(self, "caption", caption)
        _check_caption(caption)

    @property
    def plain(self) -> str:
        """The text alone, line by line."""
        return "\n".join("".join(_plain(part) for part in line) for line in self.lines)


@dataclass(frozen=True, init=False)
class Table:
    """A table.

    Args:
        columns: their names.
        rows: of str, numbers, bool and None, as many as there are columns.
        caption: a line above it.

    Raises:
        ValueError: it is something else.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""

    def __init__(self, columns: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = ""):
        if isinstance(columns, str) or not columns or not all(isinstance(name, str) for name in columns):
            raise ValueError(f"a table with the columns {columns!r}, expected names")
        for number, row in enumerate(rows):
            if len(row) != len(columns):
                raise ValueError(f"row {number} of a table has {len(row)} cells, expected {len(columns)} as columns")
        object.__setattr__(self, "columns", tuple(columns))
        object.__setattr__(self, "rows", tuple(tuple(map(_cell, row)) for row in rows))
        object.__setattr__(self, "caption", caption)
        _check_caption(caption)


Media: TypeAlias = Picture | Text | Sound | Clip | Table
"""Anything that can be shown."""


def of(value: Any) -> Media:
    """What was shown: one of the kinds as it is, and an array as the `Picture` it is.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, Media):
        return value
    if isinstance(value, np.ndarray):
        return Picture(value)
    raise ValueError(f"{described(value)}, expected a Picture, Text, Sound, Clip or Table, or a uint8 array (H, W, 3)")


def checked(shown: Any) -> dict[str, Media]:
    """What a task showed, by name.

    Raises:
        ValueError: a name or what it stands for is something else; the message names it.
    """
    if not isinstance(shown, Mapping):
        raise ValueError(f"show() returned {described(shown)}, expected a dict of what there is to see, by name")
    media = {}
    for name, value in shown.items():
        if not isinstance(name, str):
            raise ValueError(f"show() returned the name {name!r}, expected a str")
        try:
            media[name] = of(value)
        except ValueError as error:
            raise ValueError(f"{name!r} is {error}") from error
    return media


def described(value: object) -> str:
    """What was given, for a message: class, and of an array its type and shape."""
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


def _check_colours(array: object, shape: str) -> None:
    axes = shape.count(",") + 1
    if not (
        isinstance(array, np.ndarray)
        and array.dtype == np.uint8
        and array.ndim == axes
        and array.shape[-1] == 3
        and array.size
    ):
        raise ValueError(f"{described(array)}, expected a uint8 array {shape}")


def _check_caption(caption: object) -> None:
    if not isinstance(caption, str):
        raise ValueError(f"a caption of {described(caption)}, expected a str")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _line(line: Any) -> tuple[str | Mark, ...]:
    parts = (line,) if isinstance(line, str | Mark) else line
    if not isinstance(parts, Sequence) or not all(isinstance(part, str | Mark) for part in parts):
        raise ValueError(f"a line of {described(line)}, expected a str or a sequence of str and Mark")
    return tuple(part for part in parts if _plain(part))


def _plain(part: str | Mark) -> str:
    return part.text if isinstance(part, Mark) else part


def _cell(value: Any) -> Cell:
    value = value.item() if isinstance(value, np.generic) else value
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"a cell of {described(value)}, expected a str, a number, a bool or None")
    return value
