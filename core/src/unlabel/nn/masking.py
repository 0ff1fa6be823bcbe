"""Hiding tokens: sort a noise per token, keep the first ones, remember how to undo the shuffle.

The semantics are those of He et al., arXiv 2111.06377, to the last index, so that published masks and
latents can be compared. What differs between methods is where the noise comes from, and whether its
smallest or its largest values stay visible.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from unlabel.errors import UsageError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped

__all__ = ["Mask", "context", "from_noise", "kept_count", "restore", "split", "take"]


class Mask(NamedTuple):
    """Which tokens stay.

    Attributes:
        keep: int64, (N, K): indices of the visible tokens, in shuffled order.
        restore: int64, (N, L): where each token is in the shuffled order, visible ones first; gathering
            the shuffled sequence by it gives the original order.
        mask: float32, (N, L): 1 where a token is removed, 0 where it stays.
        order: int64, (N, L): indices of all tokens in shuffled order; `keep` is its beginning.
    """

    keep: Tensor
    restore: Tensor
    mask: Tensor
    order: Tensor


def kept_count(length: int, ratio: float) -> int:
    """How many of `length` tokens stay visible: ``int(length * (1 - ratio))``.

    The product is truncated, not rounded, as published: 100 tokens at a ratio of 0.9 keep 9.

    Raises:
        UsageError: if `ratio` is outside (0, 1), or so extreme that no token is kept or none is removed.
    """
    if not 0.0 < ratio < 1.0:
        raise UsageError(f"mask ratio {ratio} is outside (0, 1); 0.75 is a common choice")
    kept = int(length * (1.0 - ratio))
    if kept in (0, length):
        extreme = "leaves none of" if kept == 0 else "removes none of"
        raise UsageError(f"mask ratio {ratio} {extreme} {length} tokens; choose another ratio or more tokens")
    return kept


def from_noise(noise: Float[Tensor, "n l"], ratio: float, descending: bool = False) -> Mask:
    """Keep the tokens whose noise comes first.

    Args:
        noise: float, (N, L); uniform noise gives uniformly random masks.
        ratio: share of the tokens to remove, in (0, 1).
        descending: keep the largest values instead of the smallest.

    Returns:
        A `Mask` on the device of `noise`; equal values keep their order.

    Raises:
        UsageError: see `kept_count`.
    """
    return split(noise, kept_count(noise.shape[1], ratio), descending)


def split(noise: Float[Tensor, "n l"], kept: int, descending: bool = False) -> Mask:
    """Keep the `kept` tokens whose noise comes first; none and all are allowed.

    Args:
        noise: float, (N, L).
        kept: how many tokens of each sample stay, 0 to L.
        descending: keep the largest values instead of the smallest.

    Returns:
        A `Mask` on the device of `noise`; equal values keep their order.
    """
    count, length = noise.shape
    shuffle = torch.argsort(noise, dim=1, descending=descending, stable=True)
    keep = shuffle[:, :kept]

    # The inverse of a permutation is one scatter; sorting the permutation again would cost another sort.
    place = torch.arange(length, device=noise.device).expand(count, length)
    inverse = torch.empty_like(shuffle).scatter_(1, shuffle, place)
    mask = torch.ones(count, length, device=noise.device).scatter_(1, keep, 0.0)
    return Mask(keep, inverse, mask, shuffle)


def context(noise: Float[Tensor, "n l"], ratio: float, valid: Bool[Tensor, "n l"] | None = None) -> Bool[Tensor, "n l"]:
    """Which tokens of sequences of unequal length are context: all but ``int(ratio * length)`` of each.

    This is the convention of Zhai et al., arXiv 2207.07611: what is *not* context is truncated, where
    `kept_count` truncates what stays.

    Args:
        noise: float, (N, L); the smallest values are context.
        ratio: share that is not, in [0, 1).
        valid: bool, (N, L): False for padding, which is never context; None if there is none.

    Returns:
        bool, (N, L).

    Raises:
        UsageError: if `ratio` is outside [0, 1).
    """
    if not 0.0 <= ratio < 1.0:
        raise UsageError(f"mask ratio {ratio} is outside [0, 1): at least one token must be context")
    if valid is None:
        valid = torch.ones_like(noise, dtype=torch.bool)
    length = valid.sum(1, keepdim=True)
    wanted = length - (ratio * length.double()).long()
    order = torch.argsort(noise.masked_fill(~valid, torch.inf), dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(noise.shape[1], device=noise.device).expand_as(order)
    )
    return rank < wanted


def take(tokens: Shaped[Tensor, "n l d"], keep: Int[Tensor, "n k"]) -> Shaped[Tensor, "n k d"]:
    """The tokens at the given indices, sample by sample.

    Args:
        tokens: (N, L, D).
        keep: int64, (N, K).

    Returns:
        (N, K, D), in the order of `keep`.
    """
    count, length, dim = tokens.shape
    # Selecting whole rows is several times faster than an element-wise gather, on the way back too.
    row = keep + length * torch.arange(count, device=keep.device)[:, None]
    return tokens.reshape(-1, dim).index_select(0, row.reshape(-1)).view(count, keep.shape[1], dim)


def restore(
    kept: Float[Tensor, "n k d"], mask_token: Float[Tensor, "... #d"], restore_ids: Int[Tensor, "n l"]
) -> Float[Tensor, "n l d"]:
    """Put kept tokens back where they were, with `mask_token` everywhere else.

    Args:
        kept: float, (N, K, D), in shuffled order as `take` gives them.
        mask_token: float, broadcastable to (1, 1, D); cast to the dtype of `kept`.
        restore_ids: int64, (N, L): `Mask.restore`.

    Returns:
        (N, L, D) in the original order.
    """
    count, visible, dim = kept.shape
    hidden = mask_token.to(kept.dtype).expand(count, restore_ids.shape[1] - visible, dim)
    return take(torch.cat([kept, hidden], dim=1), restore_ids)
