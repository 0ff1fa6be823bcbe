"""Fixed sine-cosine position tables in one, two or three dimensions, and tables for another grid size.

The one-dimensional code is Vaswani et al., arXiv 1706.03762, section 3.5, with all sines before all
cosines; more axes share the width equally (He et al., arXiv 2111.06377). Which axis comes first differs
between code bases, and trained weights are bound to one convention: hence `order`.

Instead of adding a table, `rotary` and `rotate` turn queries and keys by angles that grow with the position, so that
attention depends on differences of positions alone.

For tasks that predict positions, `neighbourhood` says which wrong answers are nearly right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from unlabel.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

__all__ = ["Order", "Rotary", "interpolate", "neighbourhood", "places", "rotary", "rotate", "sincos"]

Order = Literal["xy", "yx"]


class Rotary(NamedTuple):
    """Cosines and sines by which `rotate` turns tokens, of which there are `axes` equal parts.

    Attributes:
        cos, sin: float, (..., L, D): each part holds its angles twice.
        axes: number of parts.
    """

    cos: Tensor
    sin: Tensor
    axes: int


def _encode(positions: Float[Tensor, " l"], dim: int) -> Float[Tensor, "l {dim}"]:
    """Sines, then cosines, of the positions at dim/2 frequencies from 1 down to 1/10000: float64, (L, dim)."""
    half = dim // 2
    omega = 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = positions[:, None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def sincos(
    dim: int,
    grid: Sequence[int],
    *,
    order: Order = "xy",
    class_row: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "l {dim}"]:
    """The fixed table of a grid of tokens, computed in float64.

    Args:
        dim: width of a row; a multiple of twice the number of axes.
        grid: tokens along each axis, the fastest-running last: ``(length,)``, ``(rows, columns)`` or
            ``(times, rows, columns)``.
        order: which axis takes the first part of the width: "xy" the last (columns first), "yx" the first.
        class_row: put a row of zeros before the others, for a class token.
        dtype: of the result.

    Returns:
        (L, dim), or (1 + L, dim) with `class_row`; L = product of `grid`, row-major.

    Raises:
        UsageError: if `dim` cannot be shared out, `grid` has not one to three axes, or `order` is unknown.
    """
    axes = len(grid)
    if not 1 <= axes <= 3:
        raise UsageError(f"a position table needs one to three axes, got the grid {tuple(grid)}")
    if dim < 1 or dim % (2 * axes):
        raise UsageError(
            f"width {dim} cannot be shared by sines and cosines of {axes} axes: not a multiple of {2 * axes}"
        )
    if order not in ("xy", "yx"):
        raise UsageError(f"position order {order!r} is unknown: expected 'xy' or 'yx'")

    columns = places(grid).unbind(1)
    ordered = reversed(columns) if order == "xy" else columns
    table = torch.cat([_encode(column, dim // axes) for column in ordered], dim=1)
    if class_row:
        table = torch.cat([table.new_zeros(1, dim), table])
    return table.to(dtype)


def places(grid: Sequence[int]) -> Float[Tensor, "l axes"]:
    """Where the tokens of a grid are: float64, (L, axes), row-major; the axes in the order of `grid`."""
    lines = [torch.arange(count, dtype=torch.float64) for count in grid]
    return torch.stack([place.reshape(-1) for place in torch.meshgrid(*lines, indexing="ij")], dim=1)


def rotary(
    dim: int, where: Shaped[Tensor, "... l axes"], base: float = 100.0, dtype: torch.dtype = torch.float32
) -> Rotary:
    """Angles for tokens at given places (Su et al., arXiv 2104.09864), the width shared equally by the axes.

    Pair i of the n = dim / (2 axes) pairs of an axis turns by position * base^(-i / n). A pair is number i of the
    first and of the second half of the axis' part, not two neighbours (Weinzaepfel et al., arXiv 2211.10408).

    Args:
        dim: width of a head; a multiple of twice the number of axes.
        where: (..., L, axes): places, in tokens; `places` gives those of a grid.
        base: ratio of the fastest to (nearly) the slowest frequency, above 0.
        dtype: of the result; angles are computed in float64.

    Raises:
        UsageError: if `dim` cannot be shared out, or `base` is not positive.
    """
    axes = where.shape[-1]
    if dim < 1 or dim % (2 * axes):
        raise UsageError(f"heads of width {dim} cannot be rotated about {axes} axes: not a multiple of {2 * axes}")
    if base <= 0:
        raise UsageError(f"the base of rotary positions is {base}: expected a positive number, usually 100")
    pairs = dim // (2 * axes)
    omega = float(base) ** (-torch.arange(pairs, dtype=torch.float64, device=where.device) / pairs)
    angle = where.double()[..., None] * omega  # (..., L, axes, pairs)
    angle = torch.cat([angle, angle], dim=-1).flatten(-2)
    return Rotary(angle.cos().to(dtype), angle.sin().to(dtype), axes)


def rotate(tokens: Float[Tensor, "*lead l d"], turn: Rotary) -> Float[Tensor, "*lead l d"]:
    """Turn queries or keys: float, (..., L, D) -> the same, turned in the tables' dtype; the tables broadcast."""
    parts = tokens.reshape(*tokens.shape[:-1], turn.axes, 2, -1)
    first, second = parts.unbind(-2)
    turned = torch.stack([-second, first], dim=-2).reshape(tokens.shape)
    return (tokens * turn.cos + turned * turn.sin).to(tokens.dtype)


def interpolate(
    table: Float[Tensor, "*lead old d"], old_grid: Sequence[int], new_grid: Sequence[int], prefix_tokens: int = 1
) -> Float[Tensor, "*lead new d"]:
    """Resample a table for another number of tokens, cubically along each axis; prefix rows are kept.

    Args:
        table: float, (..., prefix_tokens + product of `old_grid`, D).
        old_grid: tokens along each axis of the table, one to three, e.g. ``(rows, columns)``.
        new_grid: tokens along each axis wanted.
        prefix_tokens: rows before the grid's (class token, registers), left as they are.

    Returns:
        The dtype of `table`, (..., prefix_tokens + product of `new_grid`, D); `table` itself if nothing changes.

    Raises:
        UsageError: if the table has not the rows that `old_grid` and `prefix_tokens` say, or another number of axes.
    """
    if len(old_grid) != len(new_grid) or not 1 <= len(old_grid) <= 3:
        raise UsageError(f"a table of grid {tuple(old_grid)} cannot be resampled to {tuple(new_grid)}")
    expected = prefix_tokens + math.prod(old_grid)
    if table.shape[-2] != expected:
        raise UsageError(
            f"the position table has {table.shape[-2]} rows; a grid of {tuple(old_grid)} after "
            f"{prefix_tokens} prefix tokens needs {expected}"
        )
    if tuple(old_grid) == tuple(new_grid):
        return table
    *lead, _, dim = table.shape
    prefix, rows = table[..., :prefix_tokens, :], table[..., prefix_tokens:, :]
    resampled = rows.reshape(-1, *old_grid, dim)  # (B, *grid, D)
    if len(old_grid) > 1:
        resampled = _cubic(resampled, (new_grid[-2], new_grid[-1]))
    if len(old_grid) != 2:  # the first axis of one or three, alone
        apart = resampled.reshape(len(resampled), old_grid[0], -1, dim)
        resampled = _cubic(apart, (new_grid[0], apart.shape[2]))
    return torch.cat([prefix, resampled.reshape(*lead, -1, dim)], dim=-2)


def _cubic(rows: Float[Tensor, "b ... d"], size: tuple[int, int]) -> Float[Tensor, "b ... d"]:
    """Resample the last two axes of a grid, bicubically: (B, ..., rows, columns, D) -> (B, ..., *size, D)."""
    planes = rows.flatten(0, -4).permute(0, 3, 1, 2)
    planes = functional.interpolate(planes, size=size, mode="bicubic", align_corners=False)
    return planes.permute(0, 2, 3, 1).reshape(*rows.shape[:-3], *size, rows.shape[-1])


def neighbourhood(grid: Sequence[int], sigma: float) -> Float[Tensor, "l l"]:
    """How much of the truth each position is, when another one is true: soft labels for predicting positions.

    ``w(i, j)`` is proportional to ``exp(-d^2 / sigma^2)``, d the distance of i and j in tokens, and sums to 1 over j
    (Wang et al., arXiv 2309.03576, section 3.3).

    Args:
        grid: tokens along each axis, any number of axes.
        sigma: width in tokens, at least 0; 0 gives the identity (hard labels).

    Returns:
        float32, (L, L): row i are the labels where i is true; L = product of `grid`, row-major.

    Raises:
        UsageError: a negative width.
    """
    if sigma < 0:
        raise UsageError(f"the width of position labels is {sigma}: expected 0 (hard labels) or more; 1 is usual")
    if sigma == 0:
        return torch.eye(math.prod(grid))
    where = places(grid)
    squared = (where[:, None] - where[None]).square().sum(-1)
    return torch.softmax(-squared / sigma**2, dim=1).to(torch.float32)
