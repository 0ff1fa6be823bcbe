"""How much of what is shown is kept, so that a run's folder and its report stay small; captions say what was cut."""

from __future__ import annotations

import math
from functools import singledispatch

import numpy as np

from unlabel.show.drawing import halved
from unlabel.show.media import Cell, Clip, Mark, Media, Picture, Sound, Table, Text

__all__ = ["clean", "limited"]

_AREA = 1 << 20  # of a picture; a larger one is halved
_SMALLEST = 8  # rows and columns of a picture that is still halved
_FRAMES, _SIDE = 8, 160  # of a clip
_SECONDS, _CHANNELS = 6, 2  # of a sound
_RATE = 48_000  # Hz; of a faster sound fewer seconds are kept
_LINES, _CHARACTERS, _LABEL = 60, 4_000, 80  # of a text
_ROWS, _COLUMNS, _CELL = 50, 20, 200  # of a table


@singledispatch
def limited(media: Media) -> Media:
    """The same, or as much of it as is kept, with a caption that says what was cut."""
    raise TypeError(f"{type(media).__name__} cannot be shown")


@limited.register
def _(media: Picture) -> Picture:
    array = media.array
    while array.shape[0] * array.shape[1] > _AREA and min(array.shape[:2]) > _SMALLEST:
        array = halved(array)
    note = "" if array is media.array else f"{_size(array)} of {_size(media.array)}"
    return Picture(array, _noted(media.caption, note))


@limited.register
def _(media: Clip) -> Clip:
    count = len(media.array)
    array = media.array[_spread(count, _FRAMES)]
    notes = [] if len(array) == count else [f"{len(array)} of {count} pictures"]
    while max(array.shape[1:3]) > _SIDE and min(array.shape[1:3]) > _SMALLEST:
        array = np.stack([halved(picture) for picture in array])
    if array.shape[1:] != media.array.shape[1:]:
        notes.append(f"{_size(array[0])} of {_size(media.array[0])}")
    rate = media.rate if len(array) in (1, count) else media.rate * (len(array) - 1) / (count - 1)
    return Clip(array, rate, _noted(media.caption, *notes))


@limited.register
def _(media: Sound) -> Sound:
    channels, count = media.samples.shape
    shown = min(count, _SECONDS * min(media.rate, _RATE))
    notes = [f"the first {shown / media.rate:.2g} of {count / media.rate:.3g} s"] if shown < count else []
    notes += [f"{_CHANNELS} of {channels} channels"] if channels > _CHANNELS else []
    return Sound(media.samples[:_CHANNELS, :shown], media.rate, _noted(media.caption, *notes))


@limited.register
def _(media: Text) -> Text:
    total, room = len(media.plain), _CHARACTERS
    lines: list[list[str | Mark]] = []
    for line in media.lines[:_LINES]:
        if room <= 0:
            break
        parts: list[str | Mark] = []
        for part in line:
            text = clean(part.text if isinstance(part, Mark) else part)[: max(0, room)]
            room -= len(text)
            if text:
                parts.append(Mark(text, clean(part.label)[:_LABEL], part.strength) if isinstance(part, Mark) else text)
        lines.append(parts)
        room -= 1  # the line's end
    shorter = Text(lines)
    shown = len(shorter.plain)
    return Text(lines, _noted(media.caption, f"the first {shown:,} of {total:,} characters" if shown < total else ""))


@limited.register
def _(media: Table) -> Table:
    columns = [clean(name)[:_CELL] for name in media.columns[:_COLUMNS]]
    rows = [[_shortened(cell) for cell in row[:_COLUMNS]] for row in media.rows[:_ROWS]]
    notes = [
        f"the first {most} of {count:,} {what}"
        for what, count, most in (("rows", len(media.rows), _ROWS), ("columns", len(media.columns), _COLUMNS))
        if count > most
    ]
    return Table(columns, rows, _noted(media.caption, *notes))


def clean(text: str) -> str:
    """The text without what no file of text may hold: lone surrogates, and control characters but tabs."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(" " if (letter < " " and letter != "\t") or letter == "\x7f" else letter for letter in whole)


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of ``range(count)``, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(np.int64))


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _noted(caption: str, *notes: str) -> str:
    caption = clean(caption)
    caption = caption if len(caption) <= _CELL else caption[: _CELL - 3] + "..."
    return "; ".join(filter(None, [caption, *notes]))


def _shortened(cell: Cell) -> Cell:
    if isinstance(cell, float) and not math.isfinite(cell):
        return str(cell)  # JSON has no such number
    if isinstance(cell, int) and abs(cell) > 2**53:  # nor any that all readers take for the same
        return str(cell)[:_CELL]
    if not isinstance(cell, str) or len(cell) <= _CELL:
        return clean(cell) if isinstance(cell, str) else cell
    return clean(cell[: _CELL - 3]) + "..."
