"""Pictures of predicted positions: patches laid out where a network believes they belong."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.nn import masking, patches

__all__ = ["rearranged"]


def rearranged(
    images: Tensor, chosen: Tensor, places: Tensor, patch_size: int, contrast: Tensor | None = None
) -> Tensor:
    """Lay some patches of each image out at given places.

    Args:
        images: float, (N, 3, S, S).
        chosen: int64, (N, K): which patches, row-major indices.
        places: int64, (N, K): where each of them goes.
        patch_size: side of a patch in pixels.
        contrast: float, (N, K): multiplies each patch, to show some of them paler; None shows all as they are.

    Returns:
        (N, 3, S, S): patches that meet at a place are averaged, empty places are 0.
    """
    pieces = masking.take(patches.patchify(images, patch_size), chosen)  # (N, K, 3 p^2)
    if contrast is not None:
        pieces = pieces * contrast[..., None]
    count, length = len(images), (images.shape[-1] // patch_size) ** 2
    row = (places + length * torch.arange(count, device=places.device)[:, None]).flatten()
    laid = pieces.new_zeros(count * length, pieces.shape[-1]).index_add_(0, row, pieces.flatten(0, 1))
    many = pieces.new_zeros(count * length).index_add_(0, row, pieces.new_ones(len(row)))
    laid = laid / many.clamp(min=1)[:, None]
    return patches.unpatchify(laid.view(count, length, -1), patch_size, images.shape[-2:])
