"""Pictures of forecasts: lines and dots with soft edges on a white canvas, in numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from unlabel.task import Batch
from unlabel_trajectory.forecasting import Forecaster, relative

__all__ = ["Canvas", "forecasts"]

_SIZE = 256
_OBSERVED, _TRUTH, _FUTURE, _GRID = (33, 37, 41), (25, 135, 84), (253, 126, 20), (222, 226, 230)


class Canvas:
    """A square canvas that positions are drawn on, each axis to the same scale.

    Args:
        positions: float, (N, 2): everything that must be visible.
        size: side in pixels.

    Attributes:
        pixels: float64, (size, size, 3), 0 to 255.
    """

    def __init__(self, positions: np.ndarray, size: int = _SIZE):
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
        return (positions - self.centre) * np.array([self.scale, -self.scale]) + self.size / 2

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
            along, across = bx - ax, by - ay
            length = along * along + across * across
            share = ((self._x - ax) * along + (self._y - ay) * across) / length if length > 1e-12 else 0.0
            share = np.clip(share, 0, 1)
            distance = np.hypot(self._x - ax - share * along, self._y - ay - share * across)
            np.minimum(nearest, distance, out=nearest)
        self._cover(nearest, width / 2, colour, strength)

    def dots(self, positions: np.ndarray, colour: Sequence[int], radius: float = 3.0) -> None:
        """A dot at each position, (N, 2)."""
        places = self.place(positions)
        nearest = np.full(self._x.shape, np.inf)
        for x, y in places:
            np.minimum(nearest, np.hypot(self._x - x, self._y - y), out=nearest)
        self._cover(nearest, radius, colour, 1.0)

    def _cover(self, distance: np.ndarray, reach: float, colour: Sequence[int], strength: float) -> None:
        """Blend the colour in where a shape is nearer than `reach`, over an edge of one pixel."""
        share = strength * np.clip(reach + 0.5 - distance, 0, 1)[:, :, None]
        self.pixels += (np.array(colour, float) - self.pixels) * share

    def image(self) -> np.ndarray:
        """What was drawn: uint8, (size, size, 3)."""
        return self.pixels.round().astype(np.uint8)


def forecasts(task: Forecaster, batch: Batch, largest: int = 8) -> dict[str, np.ndarray]:
    """One picture a scene: what was observed (dark), the candidates (orange), what came (green).

    Args:
        task: draws the candidates.
        batch: ``track`` and, if the data set has scenes, ``scene``.
        largest: how many scenes at most.
    """
    scenes = batch.get("scene", torch.zeros(len(batch["track"]), dtype=torch.int64)).tolist()
    moving = torch.linalg.vector_norm(batch["track"][:, -1] - batch["track"][:, 0], dim=-1).tolist()
    chosen: dict[int, int] = {}
    for place, scene in enumerate(scenes):  # in each scene the one that moves furthest: standing looks like nothing
        if scene not in chosen or moving[place] > moving[chosen[scene]]:
            chosen[scene] = place
    pictures = {}
    for scene in sorted(chosen)[:largest]:
        track = relative(batch["track"][chosen[scene] : chosen[scene] + 1], task.observed)
        futures = task.forecast(track[:, : task.observed])[0].cpu().double().numpy()
        whole = track[0].cpu().double().numpy()
        pictures[f"forecast, scene {scene}"] = _draw(whole, futures, task.observed)
    return pictures


def _draw(track: np.ndarray, futures: np.ndarray, observed: int) -> np.ndarray:
    canvas = Canvas(np.concatenate([track, futures.reshape(-1, 2)]))
    here = track[observed - 1 : observed]
    reach = canvas.size / canvas.scale
    for axis in np.eye(2):
        canvas.line(np.stack([here[0] - reach * axis, here[0] + reach * axis]), _GRID, 1.0)
    for future in futures:
        canvas.line(np.concatenate([here, future]), _FUTURE, 1.5, 0.55)
    canvas.dots(futures[:, -1], _FUTURE, 2.5)
    canvas.line(track[observed - 1 :], _TRUTH, 2.5)
    canvas.dots(track[-1:], _TRUTH, 4.0)
    canvas.line(track[:observed], _OBSERVED, 2.5)
    canvas.dots(here, _OBSERVED, 3.5)
    return canvas.image()
