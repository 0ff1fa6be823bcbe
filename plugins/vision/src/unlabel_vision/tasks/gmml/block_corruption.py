"""Corrupting groups of connected pixels: random rectangles, one after the other, until enough is covered.

Atito, Awais, Kittler, arXiv 2205.14986. The published procedure is a loop over rectangles of one image. Here all
rectangles of all images are drawn at once, and how many of them count is found by bisection: the same distribution,
without waiting for the device. What is drawn is given by the caller as uniform numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unlabel.errors import UsageError
from unlabel.nn import boxes, grid

__all__ = ["BLOCKS", "aligned", "cover", "drawn", "scattered"]

BLOCKS = 256
"""Rectangles drawn for an image. Three quarters of it take 84 of them on average, with a spread of 12."""


def drawn(u: Tensor, size: tuple[int, int], align: int = 1, largest: float = 0.3) -> Tensor:
    """Whole numbers for rectangles: row, column, height, width, with the ranges of the authors' code.

    Their upper ends are exclusive: no side reaches `largest`, no rectangle starts in the last `align` rows or columns.

    Args:
        u: uniform in [0, 1), (..., 4).
        size: height and width of the image in pixels.
        align: rectangles start and end at multiples of it, see `aligned`.
        largest: bound of a rectangle's sides, as a share of the image's.

    Returns:
        int64, (..., 4).

    Raises:
        UsageError: the image is too small for any rectangle.
    """
    bounds = [(0, side - align) for side in size] + [(align, int(side * largest)) for side in size]
    if any(high <= low for low, high in bounds):
        raise UsageError(
            f"images of {size[0]}x{size[1]} pixels have no room for blocks of {align} pixels or more, below "
            f"{largest:g} of a side: use a smaller align, or larger images"
        )
    low, high = (u.new_tensor([bound[end] for bound in bounds]) for end in (0, 1))
    return (low + (u * (high - low)).floor()).long()


def aligned(draws: Tensor, size: tuple[int, int], align: int = 1) -> Tensor:
    """Rectangles from what was drawn: snapped to the grid of `align`, and cut at the border.

    Args:
        draws: int64, (..., 4): row, column, height, width.
        size: height and width of the image.
        align: positions are rounded down to a multiple of it, sides to the nearest one (halves to even), even 0.

    Returns:
        int64, (..., 4).
    """
    corner = draws[..., :2] // align * align
    room = torch.tensor(size, device=draws.device) - corner
    sides = torch.minimum(draws[..., 2:], room)
    return torch.cat([corner, (sides.double() / align).round().long() * align], dim=-1)


def cover(blocks: Tensor, wanted: Tensor, size: tuple[int, int]) -> Tensor:
    """The union of the first rectangles of each image that cover `wanted` pixels or more, and of no further ones.

    Args:
        blocks: int64, (N, R, 4), of `aligned`.
        wanted: float, (N,), pixels.
        size: height and width of the image.

    Returns:
        bool, (N, H, W); the union of all R rectangles where that is not enough.
    """
    return grid.cover(boxes.of_sizes(blocks), wanted, size)


def scattered(noise: Tensor, wanted: Tensor, patch_size: int) -> Tensor:
    """Isolated whole patches instead of groups, for comparison: the fewest that cover `wanted` pixels or more.

    Args:
        noise: float, (N, L): patches of the smallest values are taken; L a square number.
        wanted: float, (N,), pixels.
        patch_size: side of a patch.

    Returns:
        bool, (N, H, W).
    """
    side = math.isqrt(noise.shape[1])
    rank = noise.argsort(dim=1).argsort(dim=1)
    hidden = rank < (wanted / patch_size**2).ceil()[:, None]
    return grid.enlarged(hidden.view(-1, side, side), patch_size)
