"""Stereo: windows of the stereo photographs that scikit-image carries, with measured disparity. Needs no download.

A motorcycle in a workshop, seen by two cameras side by side (Scharstein et al., "High-resolution stereo datasets with
subpixel-accurate ground truth", GCPR 2014). Sample *i* is a square window at a place and of a size hashed from *i*, and
in the right photograph the window that is shifted by the mean disparity in it, so that near things move one way and far
things the other. Training windows come from the left 62 % of the scene, test windows from the right 28 %: no
pixel of either photograph is in both.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel.task import Sample
from unlabel_vision import views
from unlabel_vision.datasets.drawn import Drawn

__all__ = ["Scene", "Stereo", "scene", "unoccluded"]

_FOCAL, _BASELINE, _OFFSET = 994.978, 0.193001, 31.086  # pixels, metres, pixels between the principal points
_PARTS = {"train": (0.0, 0.62), "test": (0.72, 1.0)}


class Scene(NamedTuple):
    """The photographs and what is known of them.

    Attributes:
        left, right: uint8, (500, 741, 3).
        disparity: float64, (500, 741): a point at column x on the left is at x - disparity on the right; NaN unknown.
        seen: bool, (500, 741): whether the disparity is known, and the point not hidden on the right.
    """

    left: np.ndarray
    right: np.ndarray
    disparity: np.ndarray
    seen: np.ndarray


def unoccluded(disparity: np.ndarray, tolerance: float = 1.0) -> np.ndarray:
    """Which pixels of a left image are seen on the right: those that no nearer pixel of their row falls on.

    Args:
        disparity: float, (H, W), NaN where unknown.
        tolerance: by how much a nearer pixel is nearer, in pixels.

    Returns:
        bool, (H, W); False where unknown, or outside of the right image.
    """
    height, width = disparity.shape
    known = np.isfinite(disparity)
    value = np.where(known, disparity, 0.0)
    column = np.rint(np.arange(width) - value).astype(np.int64)
    inside = known & (column >= 0) & (column < width)
    row = np.broadcast_to(np.arange(height)[:, None], disparity.shape)
    nearest = np.full((height, width), -np.inf)
    np.maximum.at(nearest, (row[inside], column[inside]), value[inside])
    found: np.ndarray = inside & (value >= nearest[row, np.clip(column, 0, width - 1)] - tolerance)
    return found


@functools.cache
def scene() -> Scene:
    """The photographs, read-only; loaded once per process."""
    import skimage.data

    left, right, disparity = skimage.data.stereo_motorcycle()  # type: ignore[no-untyped-call]
    disparity = np.where(np.isfinite(disparity), disparity, np.nan).astype(np.float64)
    found = Scene(left, right, disparity, unoccluded(disparity))
    for part in found:
        part.setflags(write=False)
    return found


class Stereo(Drawn):
    """Windows of a stereo photograph.

    Samples are ``{"image", "second", "depth", "flow", "visible"}``, see `unlabel_vision.datasets.rooms.Rooms`; depth is
    0 where it was not measured.

    Args:
        size: side of the windows in pixels; squares of one to two times that are cut out and resized.
        count: number of training pairs; there are a quarter as many test pairs.
        seed: another number gives other windows.
    """

    kind = "pairs, stereo"

    def __init__(self, *, size: int = 73, count: int = 2000, seed: int = 0):
        if not 16 <= size <= 200:
            raise UsageError(f"size {size} is outside 16 to 200 pixels, where the test part of the photograph ends")
        if count < 4:
            raise UsageError(f"count {count} is less than 4, which leaves nothing for testing")
        super().__init__(size, count, seed)

    def window(self, index: int) -> tuple[int, int, int, int]:
        """Top, left and side of a sample's square on the left, and how much further left it is on the right."""
        found = scene()
        height, width = found.left.shape[:2]
        begin, end = (round(share * width) for share in _PARTS[self.part])
        rng = seeds.generator(self.seed, self.part == "test", index, 0x5E)
        for _ in range(100):
            side = int(rng.integers(self.side, min(2 * self.side, end - begin) + 1))
            top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(begin, end - side + 1))
            inside = found.disparity[top : top + side, left : left + side]
            if np.isfinite(inside).mean() > 0.5:
                shift = round(float(np.nanmean(inside)))
                if left - shift >= 0:
                    return top, left, side, shift
        raise RuntimeError("no window with known disparity was found")

    def __getitem__(self, index: int) -> Sample:
        found = scene()
        top, left, side, shift = self.window(index)
        pick = np.clip(((np.arange(self.side) + 0.5) * side / self.side).astype(np.int64), 0, side - 1)
        rows, columns = top + pick[:, None], left + pick[None, :]
        disparity = found.disparity[rows, columns]
        known = np.isfinite(disparity)
        moved = np.where(known, (shift - disparity) * self.side / side, 0.0)
        place = np.arange(self.side) + 0.5 + moved
        depth = np.where(known, _FOCAL * _BASELINE / (np.where(known, disparity, 0.0) + _OFFSET), 0.0)
        square = (self.side, self.side)
        return {
            "image": np.array(views.resize(found.left, (top, left, side, side), square)),
            "second": np.array(views.resize(found.right, (top, left - shift, side, side), square)),
            "depth": depth.astype(np.float32),
            "flow": np.stack([moved, np.zeros_like(moved)], axis=-1).astype(np.float32),
            "visible": (found.seen[rows, columns] & (place >= 0) & (place < self.side)).astype(np.uint8),
        }

    def name_of(self, index: int) -> str:
        top, left, side, _ = self.window(index)
        return f"{self.part} window {index} at row {top}, column {left}, {side} pixels"
