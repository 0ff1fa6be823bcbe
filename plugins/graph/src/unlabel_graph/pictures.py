"""Pictures of representations, drawn into arrays: no plotting library is needed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["COLOURS", "scatter"]

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


def scatter(points: Tensor, labels: Tensor, *, side: int = 480, dot: int = 2) -> np.ndarray:
    """A map of representations: their first two principal components, one dot a node.

    Args:
        points: float (N, D).
        labels: int64 (N,): colour; -1 is grey, and drawn below the others.
        side: of the picture, in pixels.
        dot: half a dot's side; dots of labelled nodes are twice as large.

    Returns:
        uint8 (side, side, 3).
    """
    centred = (points - points.mean(dim=0)).double().cpu()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    plane = (centred @ vectors[:, -2:].flip(1)).numpy()
    low, high = np.quantile(plane, 0.02, axis=0), np.quantile(plane, 0.98, axis=0)  # hubs lie far out: on the edge
    margin = 2 * dot + 2
    place = np.clip((plane - low) / np.maximum(high - low, 1e-12), 0, 1) * (side - 1 - 2 * margin) + margin
    columns, rows = place.round().astype(np.int64).T

    canvas = np.full((side, side, 3), 255, dtype=np.uint8)
    numbers = labels.cpu().numpy()
    for known, size in ((False, dot), (True, 2 * dot)):
        chosen = (numbers >= 0) == known
        colours = COLOURS[numbers[chosen] % len(COLOURS)] if known else np.array(_UNKNOWN, dtype=np.uint8)
        for down in range(-size, size + 1):
            for right in range(-size, size + 1):
                if down * down + right * right <= size * size:
                    canvas[rows[chosen] + down, columns[chosen] + right] = colours
    return canvas
