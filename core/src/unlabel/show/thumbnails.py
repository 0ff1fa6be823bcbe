"""Small pictures of samples, for the map in a run's report."""

from __future__ import annotations

import numpy as np

from unlabel.show.drawing import halved
from unlabel.task import Sample

__all__ = ["SIDE", "thumbnail"]

SIDE = 32


def thumbnail(sample: Sample) -> np.ndarray | None:
    """The middle of the first picture in a sample, small: uint8, (32, 32, 3); None if there is none."""
    for value in sample.values():
        if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] == 3:
            side = min(value.shape[:2])
            top, left = (value.shape[0] - side) // 2, (value.shape[1] - side) // 2
            square = value[top : top + side, left : left + side]
            while len(square) >= 2 * SIDE:
                square = halved(square)
            places = (np.arange(SIDE) * len(square)) // SIDE
            return square[places][:, places]
    return None
