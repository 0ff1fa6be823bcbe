"""Drawing into arrays with numpy alone.

Pictures are taken while a task trains: a library for drawing costs half a second to import, which the first update
would pay, and a plugin that draws would have to depend on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

__all__ = ["COLOURS", "Canvas", "contact_sheet", "halved", "scatter", "square"]

COLOURS = np.array(
    [
        (31, 119, 180),
        (255, 127, 14),
        (44, 160, 44),
        (214, 39, 40),
        (148, 103, 189),
        (140, 86, 75),
        (227, 119, 194),
        (188, 189, 34),
        (23, 190, 207),
        (65, 105, 80),
    ],
    dtype=np.uint8,
)
"""One colour a class, repeated after ten."""

_UNKNOWN = (205, 205, 205)


class Canvas:
    """A square canvas that positions are drawn on, each axis to the same scale.

    Args:
        positions: float, (N, 2): everything that must be visible.
        size: side in pixels.

    Attributes:
        pixels: float64, (size, size, 3), 0 to 255.
    """

    def __init__(self, positions: np.ndarray, size: int = 256):
        low, high = positions.min(0), positions.max(0)
        self.centre = (low + high) / 2
        extent = float((high - low).max())
        self.scale = 0.84 * size / max(extent, 1e-6)
        self.size = size
        self.pixels = np.full((size, size, 3), 255.0)
        places = np.arange(size) + 0.5
        self._x, self._y = np.meshgrid(places, places)

    def place(self, positions: np.ndarray) -> np.ndarray:
        """Where positions, (..., 2), lie on the canvas, in pixels; y points up."""
        places: np.ndarray = (positions - self.centre) * np.array([self.scale, -self.scale]) + self.size / 2
        return places

    def line(self, positions: np.ndarray, colour: Sequence[int], width: float = 1.5, strength: float = 1.0) -> None:
        """A line through positions, (N, 2).

        Args:
            positions: its corners.
            colour: red, green, blue, 0 to 255.
            width: in pixels.
            strength: 1 covers what is below, less lets it shine through.
        """
        places = self.place(positions)
        nearest = np.full(self._x.shape, np.inf)
        for (ax, ay), (bx, by) in pairwise(places):  # a handful of steps
            near = self._near(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by), width)
            along, across = bx - ax, by - ay
            length = along * along + across * across
            x, y = self._x[near] - ax, self._y[near] - ay
            share = np.clip((x * along + y * across) / max(length, 1e-12), 0, 1)
            np.minimum(nearest[near], np.hypot(x - share * along, y - share * across), out=nearest[near])
        self._cover(nearest, width / 2, colour, strength)

    def dots(self, positions: np.ndarray, colour: Sequence[int], radius: float = 3.0) -> None:
        """A dot at each position, (N, 2)."""
        places = self.place(positions)
        nearest = np.full(self._x.shape, np.inf)
        for x, y in places:
            near = self._near(x, y, x, y, 2 * radius)
            np.minimum(nearest[near], np.hypot(self._x[near] - x, self._y[near] - y), out=nearest[near])
        self._cover(nearest, radius, colour, 1.0)

    def _near(self, left: float, top: float, right: float, bottom: float, width: float) -> tuple[slice, slice]:
        """The part of the canvas that a shape of that width in that box can reach."""
        low = np.floor(np.array([top, left]) - width / 2 - 1).clip(0, self.size).astype(int)
        high = np.ceil(np.array([bottom, right]) + width / 2 + 1).clip(0, self.size).astype(int)
        return slice(low[0], high[0]), slice(low[1], high[1])

    def _cover(self, distance: np.ndarray, reach: float, colour: Sequence[int], strength: float) -> None:
        """Blend the colour in where a shape is nearer than `reach`, over an edge of one pixel."""
        near = distance < reach + 0.5  # a line covers little of the canvas, and a picture has hundreds
        share = strength * np.clip(reach + 0.5 - distance[near], 0, 1)[:, None]
        self.pixels[near] += (np.array(colour, float) - self.pixels[near]) * share

    def image(self) -> np.ndarray:
        """What was drawn: uint8, (size, size, 3)."""
        return self.pixels.round().astype(np.uint8)


def halved(picture: np.ndarray) -> np.ndarray:
    """Half as many rows and columns, each the mean of two by two; an odd last one is left out.

    Args:
        picture: uint8, (H, W, 3), H and W at least 2.
    """
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
    sums = picture[: 2 * rows : 2, : 2 * columns].astype(np.uint16) + picture[1 : 2 * rows : 2, : 2 * columns]
    means: np.ndarray = ((sums[:, ::2] + sums[:, 1::2] + 2) // 4).astype(np.uint8)
    return means


def contact_sheet(pictures: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Lay pictures out row by row on white.

    Args:
        pictures: uint8, (N, H, W, 3).
        columns: pictures per row.
        gap: between them, in rows and columns.

    Returns:
        uint8, (rows * (H + gap) - gap, columns * (W + gap) - gap, 3).
    """
    count, height, width, _ = pictures.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, dtype=np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = picture
    return sheet


def scatter(places: np.ndarray, labels: np.ndarray, *, side: int = 480, dot: int = 2) -> np.ndarray:
    """Dots in the plane; what lies outside the middle 96 % of either axis is drawn at the edge.

    Args:
        places: float, (N, 2): right and down.
        labels: int64, (N,): colour; -1 is grey, and drawn below the others.
        side: of the picture.
        dot: half a dot's side; dots with a label are twice as large.

    Returns:
        uint8, (side, side, 3).
    """
    low, high = np.quantile(places, 0.02, axis=0), np.quantile(places, 0.98, axis=0)
    margin = 2 * dot + 2
    scaled = np.clip((places - low) / np.maximum(high - low, 1e-12), 0, 1) * (side - 1 - 2 * margin) + margin
    columns, rows = scaled.round().astype(np.int64).T

    canvas = np.full((side, side, 3), 255, dtype=np.uint8)
    for known, size in ((False, dot), (True, 2 * dot)):
        drawn = (labels >= 0) == known
        colours = COLOURS[labels[drawn] % len(COLOURS)] if known else np.array(_UNKNOWN, dtype=np.uint8)
        for down in range(-size, size + 1):
            for right in range(-size, size + 1):
                if down * down + right * right <= size * size:
                    canvas[rows[drawn] + down, columns[drawn] + right] = colours
    return canvas


def square(picture: np.ndarray, side: int) -> np.ndarray:
    """The middle of a picture, small: uint8, (side, side, 3), of uint8, (H, W, 3)."""
    edge = min(picture.shape[:2])
    top, left = (picture.shape[0] - edge) // 2, (picture.shape[1] - edge) // 2
    middle = picture[top : top + edge, left : left + edge]
    while len(middle) >= 2 * side:
        middle = halved(middle)
    places = (np.arange(side) * len(middle)) // side
    return middle[places][:, places]
