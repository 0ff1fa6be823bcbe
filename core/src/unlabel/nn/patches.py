"""Cutting grids of numbers into patches and putting them back.

Works for any number of axes: (N, C, H, W), (N, C, T, H, W), ... Patches come row-major (the last axis
runs fastest); inside a patch the order is the axes in turn and the channel last, e.g. row, column,
channel, as He et al., arXiv 2111.06377, have it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from unlabel.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

__all__ = ["NormalizedPatches", "grid", "normalize_patches", "patchify", "unpatchify"]


class NormalizedPatches(NamedTuple):
    """Patches with mean 0 and variance 1 each, and what undoes it: ``patches = values * std + mean``.

    Attributes:
        values: float, (N, L, D).
        mean: float, (N, L, 1).
        std: float, (N, L, 1), never zero.
    """

    values: Tensor
    mean: Tensor
    std: Tensor


def grid(size: Sequence[int], patch: int | Sequence[int]) -> tuple[int, ...]:
    """How many patches fit along each axis.

    Args:
        size: length of each axis, e.g. ``(224, 224)``.
        patch: length of a patch, one for all axes or one for each.

    Raises:
        UsageError: if a patch does not divide its axis, or if there are not as many lengths as axes.
    """
    lengths = _per_axis(patch, len(size))
    if any(length < 1 or axis % length for axis, length in zip(size, lengths, strict=True)):
        shape = "x".join(map(str, size))
        raise UsageError(f"patches of {'x'.join(map(str, lengths))} do not tile {shape}: each must divide its axis")
    return tuple(axis // length for axis, length in zip(size, lengths, strict=True))


def _per_axis(patch: int | Sequence[int], axes: int) -> tuple[int, ...]:
    lengths = (patch,) * axes if isinstance(patch, int) else tuple(patch)
    if len(lengths) != axes:
        raise UsageError(f"patch size {lengths} has {len(lengths)} lengths, but there are {axes} axes to cut")
    return lengths


def patchify(values: Shaped[Tensor, "n c ..."], patch: int | Sequence[int]) -> Shaped[Tensor, "n l d"]:
    """Cut a batch into patches.

    Args:
        values: any dtype, (N, C, H, W), or with any other number of axes after the channels.
        patch: length of a patch, one for all axes or one for each.

    Returns:
        (N, L, prod(patch) * C), L = number of patches; inner order: the axes in turn, then the channel.

    Raises:
        UsageError: if the patches do not tile the axes.
    """
    count, channels, *size = values.shape
    axes = len(size)
    steps, lengths = grid(size, patch), _per_axis(patch, axes)
    pairs = [number for pair in zip(steps, lengths, strict=True) for number in pair]
    split = values.reshape(count, channels, *pairs)  # (N, C, h, p, w, q)
    order = [0, *range(2, 2 + 2 * axes, 2), *range(3, 3 + 2 * axes, 2), 1]
    return split.permute(order).reshape(count, math.prod(steps), math.prod(lengths) * channels)


def unpatchify(
    patches: Shaped[Tensor, "n l d"], patch: int | Sequence[int], size: Sequence[int]
) -> Shaped[Tensor, "n c ..."]:
    """Put patches back together: the inverse of `patchify`.

    Args:
        patches: any dtype, (N, L, prod(patch) * C).
        patch: length of a patch, one for all axes or one for each.
        size: length of each axis of the result, e.g. ``(224, 224)``.

    Returns:
        (N, C, *size).

    Raises:
        UsageError: if patches of this number and width do not make a result of this size.
    """
    axes = len(size)
    steps, lengths = grid(size, patch), _per_axis(patch, axes)
    count, number, width = patches.shape
    if number != math.prod(steps) or width % math.prod(lengths):
        raise UsageError(
            f"{number} patches of {width} values do not make {'x'.join(map(str, size))}: expected "
            f"{math.prod(steps)} patches of a multiple of {math.prod(lengths)} values"
        )
    split = patches.reshape(count, *steps, *lengths, width // math.prod(lengths))  # (N, h, w, p, q, C)
    order = [0, 1 + 2 * axes, *(axis for i in range(axes) for axis in (1 + i, 1 + axes + i))]
    return split.permute(order).reshape(count, -1, *size)


def normalize_patches(patches: Float[Tensor, "n l d"], eps: float = 1e-6) -> NormalizedPatches:
    """Give each patch mean 0 and variance 1 over all its values (He et al., arXiv 2111.06377, section 3).

    The variance is the unbiased one (n - 1), as in the authors' code; a constant patch becomes zeros.

    Args:
        patches: float, (N, L, D).
        eps: added to the variance.

    Returns:
        The normalised patches with their mean and ``sqrt(variance + eps)``, for showing them again.
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    std = torch.sqrt(variance + eps)
    return NormalizedPatches((patches - mean) / std, mean, std)
