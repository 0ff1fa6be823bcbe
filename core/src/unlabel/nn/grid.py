"""Tokens on grids of any number of axes: lines, planes, solids, and these in time.

What lies on such a grid is cut and put together by `unlabel.nn.patches`, and placed by `unlabel.nn.positions`; here it
is hidden: by boxes, or by the same places at all times. Sequences of tokens are row-major, the last axis fastest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unlabel.nn import masking
from unlabel.nn.masking import Mask

__all__ = ["cover", "enlarged", "tube", "union"]


def union(boxes: Tensor, size: Sequence[int], counted: Tensor | None = None) -> Tensor:
    """Which cells of a grid lie in any of several boxes.

    Args:
        boxes: int64, (N, R, 2 A), see `unlabel.nn.boxes`; what lies outside of the grid is cut off.
        size: cells along each axis.
        counted: bool, (N, R): which boxes count; None: all.

    Returns:
        bool, (N, *size).
    """
    first, rest = _spans(boxes, size)
    return _union(first if counted is None else first * counted[..., None], rest, size)


def cover(boxes: Tensor, wanted: Tensor, size: Sequence[int]) -> Tensor:
    """The union of the first boxes of each sample that cover `wanted` cells or more, and of no further ones.

    How many boxes that takes is found by bisection, for all samples at once and without waiting for the device.

    Args:
        boxes: int64, (N, R, 2 A), see `unlabel.nn.boxes`, in the order in which they are taken.
        wanted: float, (N,), cells.
        size: cells along each axis.

    Returns:
        bool, (N, *size); the union of all R boxes where that is not enough.
    """
    first, rest = _spans(boxes, size)
    number = torch.arange(boxes.shape[1], device=boxes.device)

    def of_first(count: Tensor) -> Tensor:
        return _union(first * (number < count[:, None])[..., None], rest, size)

    few = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    enough = torch.full_like(few, boxes.shape[1])
    for _ in range((boxes.shape[1] - 1).bit_length()):
        middle = (few + enough) // 2
        reached = of_first(middle).flatten(1).sum(1) >= wanted
        few, enough = torch.where(reached, few, middle), torch.where(reached, middle, enough)
    return of_first(enough)


def _spans(boxes: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """1 where a cell lies within a box, else 0: along the first axis, (N, R, size[0]), and on the rest, (N, R, M)."""
    start, end = boxes.chunk(2, dim=-1)
    lines = []
    for axis, count in enumerate(size):
        cell = torch.arange(count, device=boxes.device)
        lines.append(((cell >= start[..., axis, None]) & (cell < end[..., axis, None])).float())
    rest = lines[1] if len(lines) > 1 else lines[0].new_ones(*lines[0].shape[:2], 1)
    for line in lines[2:]:
        rest = (rest[..., :, None] * line[..., None, :]).flatten(2)
    return lines[0], rest


def _union(first: Tensor, rest: Tensor, size: Sequence[int]) -> Tensor:
    counts = torch.bmm(first.transpose(1, 2), rest)  # by how many boxes a cell is covered
    return (counts > 0).view(len(first), *size)


def tube(noise: Tensor, kept: int, times: int) -> Mask:
    """Keep the same places at all times (Tong et al., arXiv 2203.12602, section 3.3): nothing is hidden in one frame
    and shown in the next.

    Args:
        noise: float, (N, S): of the places of a frame; those of the smallest values stay.
        kept: how many places stay, 0 to S.
        times: frames, or groups of them, with S tokens each.

    Returns:
        A `Mask` of the times * S tokens, time slowest: at each time `kept` of them stay.
    """
    rank = masking.split(noise, kept).restore  # no two are equal, so that all times of a place stay together
    return masking.split(rank.repeat(1, times), kept * times)


def enlarged(mask: Tensor, patch: int | Sequence[int]) -> Tensor:
    """A value of each patch for each of its cells.

    Args:
        mask: any dtype, (N, *grid).
        patch: length of a patch, one for all axes or one for each.

    Returns:
        The same dtype, (N, *size), each axis `patch` times as long.
    """
    axes = mask.ndim - 1
    lengths = (patch,) * axes if isinstance(patch, int) else tuple(patch)
    for axis, length in enumerate(lengths, start=1):
        mask = mask.repeat_interleave(length, dim=axis)
    return mask
