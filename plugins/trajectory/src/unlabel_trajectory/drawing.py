"""Pictures of forecasts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unlabel.show.drawing import Canvas
from unlabel.task import Batch
from unlabel_trajectory.forecasting import Forecaster, relative

__all__ = ["forecasts", "next_positions"]

_OBSERVED, _TRUTH, _FUTURE, _GRID = (33, 37, 41), (25, 135, 84), (253, 126, 20), (222, 226, 230)


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
