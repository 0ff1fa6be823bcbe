"""Pictures of forecasts: lines and dots with soft edges on a white canvas, in numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from unlabel.task import Batch
from unlabel_trajectory.forecasting import Forecaster, relative

__all__ = ["Canvas", "forecasts", "next_positions"]

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


def forecasts(task: Forecaster, batch: Batch, largest: int = 8, called: str = "forecast") -> dict[str, np.ndarray]:
    """Pictures of what was observed (dark), the candidates (orange) and what came (green); see `_shown` for whose.

    Args:
        task: draws the candidates.
        batch: ``track`` and, if the data set has scenes, ``scene``.
        largest: how many pictures at most.
        called: what their names begin with.
    """
    pictures = {}
    for title, place in _shown(batch, largest):
        track = relative(batch["track"][place : place + 1], task.observed)
        futures = task.forecast(track[:, : task.observed])[0].cpu().double().numpy()
        whole = track[0].cpu().double().numpy()
        pictures[f"{called}, {title}"] = _draw(whole, futures, task.observed)
    return pictures


def next_positions(tracks: Tensor, predicted: Tensor, batch: Batch, largest: int = 8) -> dict[str, np.ndarray]:
    """Pictures of tracks (green) and of where each step was expected from those before it (orange).

    Args:
        tracks: (N, T, 2), as predicted from.
        predicted: (N, T - 1, 2): of steps 2 to T.
        batch: of these tracks, with ``track`` and, if the data set has scenes, ``scene``.
        largest: how many pictures at most.
    """
    pictures = {}
    for title, place in _shown(batch, largest):
        track, expected = (part[place].detach().cpu().double().numpy() for part in (tracks, predicted))
        canvas = Canvas(np.concatenate([track, expected]))
        canvas.line(track, _TRUTH, 2.0)
        for here, there in zip(track[:-1], expected, strict=True):
            canvas.line(np.stack([here, there]), _FUTURE, 1.5, 0.55)
        canvas.dots(track, _TRUTH, 2.5)
        canvas.dots(expected, _FUTURE, 2.5)
        canvas.dots(track[:1], _OBSERVED, 3.5)
        pictures[f"next positions, {title}"] = canvas.image()
    return pictures


def _shown(batch: Batch, largest: int) -> list[tuple[str, int]]:
    """Name and place of the tracks to draw: of every scene in turn one, those that stand (or move less than most)
    last."""
    tracks = batch["track"]
    scenes = batch.get("scene", torch.zeros(len(tracks), dtype=torch.int64)).tolist()
    moved = torch.linalg.vector_norm(tracks[:, -1] - tracks[:, 0], dim=-1)
    still = (moved < moved.median()).tolist()
    turn: dict[int, int] = {}  # how many tracks of a scene come before
    order = []
    for place in sorted(range(len(tracks)), key=lambda place: still[place]):
        turn[scenes[place]] = turn.get(scenes[place], -1) + 1
        order.append((turn[scenes[place]], scenes[place], place))
    return [(f"scene {scene}, track {number}", place) for number, scene, place in sorted(order)[:largest]]


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
