"""Boxes with any number of axes: stretches of a line, rectangles, cuboids, also in time; and maps read at them.

A box is 2 A numbers: where it starts along each of A axes, in the order of the array's axes, then where it ends. In a
plane that is top, left, bottom, right. Ends are exclusive: cell i of an axis lies between i and i + 1, its centre at
i + 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from unlabel.errors import UsageError

__all__ = ["areas", "centres", "intersections", "iou", "of_sizes", "relative", "sample"]


def of_sizes(values: Tensor) -> Tensor:
    """Boxes from starts and lengths: (..., 2 A) -> (..., 2 A), e.g. top, left, height, width."""
    start, length = values.chunk(2, dim=-1)
    return torch.cat([start, start + length], dim=-1)


def areas(boxes: Tensor) -> Tensor:
    """How much of a line, a plane, a solid it is: (..., 2 A) -> (...); 0 where a box ends before it starts."""
    start, end = boxes.chunk(2, dim=-1)
    return (end - start).clamp(min=0).prod(dim=-1)


def intersections(first: Tensor, second: Tensor) -> Tensor:
    """Area that two boxes have in common, of each pair: (..., N, 2 A), (..., M, 2 A) -> (..., N, M)."""
    (start, end), (other_start, other_end) = (boxes.chunk(2, dim=-1) for boxes in (first, second))
    low = torch.maximum(start[..., :, None, :], other_start[..., None, :, :])
    high = torch.minimum(end[..., :, None, :], other_end[..., None, :, :])
    return (high - low).clamp(min=0).prod(dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each pair, in [0, 1]: (..., N, 2 A), (..., M, 2 A) -> float (..., N, M).

    Two boxes without area have 0.
    """
    common = intersections(first, second)
    union = areas(first)[..., :, None] + areas(second)[..., None, :] - common
    return torch.where(union > 0, common / union.where(union > 0, torch.ones_like(union)), 0.0)


def relative(boxes: Tensor, frame: Tensor) -> Tensor:
    """Boxes as shares of a frame, which itself spans 0 to 1 along each axis.

    Args:
        boxes: (..., K, 2 A).
        frame: (..., 2 A): a box with an area, in the same coordinates.

    Returns:
        float, (..., K, 2 A); outside [0, 1] where a box is outside of the frame.
    """
    start, end = frame.chunk(2, dim=-1)
    return (boxes - torch.cat([start, start], dim=-1)[..., None, :]) / torch.cat([end - start] * 2, dim=-1)[
        ..., None, :
    ]


def centres(boxes: Tensor, grid: Sequence[int], mirrored: Tensor | None = None) -> Tensor:
    """Where the centres of a grid of cells lie that fills a box, as the tokens of a crop do.

    Args:
        boxes: (..., 2 A).
        grid: cells along each axis.
        mirrored: bool, (..., A): axes along which the cells run backwards, as those of a mirrored crop; None: nowhere.

    Returns:
        float, (..., L, A), row-major, in the coordinates of the boxes.
    """
    start, end = boxes.chunk(2, dim=-1)
    kind = boxes.dtype if boxes.is_floating_point() else torch.float32
    lines = [(torch.arange(count, dtype=kind, device=boxes.device) + 0.5) / count for count in grid]
    share = torch.stack([line.reshape(-1) for line in torch.meshgrid(*lines, indexing="ij")], dim=-1)  # (L, A)
    if mirrored is not None:
        share = torch.where(mirrored[..., None, :], 1 - share, share)
    return start[..., None, :] + share * (end - start)[..., None, :]


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Read maps between their cells, linearly along each axis; beyond the outermost centres a map goes on as it ends.

    With the `centres` of boxes as points it crops: ``sample(maps, centres(relative(boxes, frame), grid))``.

    Args:
        maps: float, (N, C, *size), of one to three axes.
        points: float, (N, K, A): along each axis the map spans 0 to 1.

    Returns:
        (N, K, C).

    Raises:
        UsageError: maps of more than three axes, or points of another number.
    """
    axes = maps.ndim - 2
    if not 1 <= axes <= 3 or points.shape[-1] != axes:
        raise UsageError(f"maps of {axes} axes cannot be read at points of {points.shape[-1]}: expected one to three")
    if axes == 1:  # torch reads planes and solids
        maps, points = maps[..., None], functional.pad(points, (0, 1), value=0.5)
    places = (2 * points - 1).flip(-1).to(maps.dtype)  # torch wants the last axis first, from -1 to 1
    ones = [1] * (max(2, axes) - 1)
    read = functional.grid_sample(
        maps, places.view(len(maps), -1, *ones, max(2, axes)), padding_mode="border", align_corners=False
    )
    return read.flatten(2).transpose(1, 2)
