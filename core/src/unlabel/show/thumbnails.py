"""What stands for a sample in a report's map: a small picture, or first words."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import numpy as np

from unlabel.show import drawing, limits, media
from unlabel.show.media import Clip, Picture, Text

if TYPE_CHECKING:
    from unlabel.data import Dataset
    from unlabel.task import Sample

__all__ = ["SIDE", "thumbnail"]

SIDE = 32
_WORDS = 60  # characters


def thumbnail(dataset: Dataset, sample: Sample) -> np.ndarray | str | None:
    """A sample of a dataset, small, if the dataset shows it.

    Returns:
        Of a picture or the middle one of a clip its middle, uint8, (32, 32, 3); of a text its first words; None if
        there is nothing that a map could show.
    """
    shown = dataset.show(sample)
    match None if shown is None else media.of(shown):
        case Picture(array):
            return drawing.square(array, SIDE)
        case Clip(array):
            return drawing.square(array[len(array) // 2], SIDE)
        case Text() as text:
            return _first_words(text.plain)
    return None


def _first_words(text: str) -> str:
    text = " ".join(limits.clean(text[: 4 * _WORDS]).split())
    return textwrap.shorten(text, _WORDS, placeholder="...") if " " in text[:_WORDS] else text[:_WORDS]
