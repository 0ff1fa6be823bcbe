"""Pictures of what an encoder of patches attends to, and of which patches it finds alike."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from unlabel.nn import patches
from unlabel.show import drawing
from unlabel_vision import views
from unlabel_vision.encoders.patch_encoder import Attend, PatchEncoder, merged, project

__all__ = ["colours", "pictures", "tokens_and_attention"]

_HEADS = 8  # shown of a layer


@torch.no_grad()
def tokens_and_attention(encoder: PatchEncoder, images: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of whole images, and where the last block's heads look.

    Args:
        encoder: one in parts.
        images: float, (N, 3, S, S), normalised.

    Returns:
        (N, L, dim): patches after the final norm. float32, (N, heads, L): what the class token (without one: the mean
        over all patches) pays each patch, all scores of a query summing to 1.
    """
    seen: list[Tensor] = []

    def attend(attention: nn.Module, tokens: Tensor) -> Tensor:
        query, key, value = project(attention, tokens)
        weights = (query.float() @ key.float().transpose(-2, -1) / math.sqrt(query.shape[-1])).softmax(-1)
        seen.append(weights)
        return merged(attention, weights.to(value.dtype) @ value)

    only_last: list[Attend | None] = [None] * (encoder.layers - 1) + [attend]
    tokens = encoder.run(encoder.with_class(encoder.embed(images) + encoder.positions), only_last)
    first = encoder.class_tokens
    payer = seen[0][:, :, 0] if first else seen[0].mean(2)  # (N, heads, T)
    return tokens[:, first:], payer[:, :, first:]


def colours(tokens: Tensor) -> Tensor:
    """The three directions in which tokens differ most, as red, green and blue.

    Args:
        tokens: float, (N, L, dim); all images together span the directions, so that a colour means the same in all.

    Returns:
        float32, (N, L, 3), in [0, 1]; the sign of each direction makes the largest entry of its component positive.
    """
    rows = tokens.float().flatten(0, 1)
    rows = rows - rows.mean(0)
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    directions = directions[:3]
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    found = rows @ (directions * largest.sign()).T
    low, high = found.amin(0), found.amax(0)
    result: Tensor = ((found - low) / (high - low).clamp_min(1e-6)).view(*tokens.shape[:2], -1)
    return result


def pictures(encoder: PatchEncoder, images: Tensor) -> dict[str, np.ndarray]:
    """Each image beside where up to eight heads of the last block look, and beside its tokens' `colours`.

    Args:
        encoder: one in parts.
        images: float, (N, 3, S, S), normalised; a handful.

    Returns:
        ``{"attention": ..., "tokens": ...}``: uint8 pictures; attention is white where a head looks most.
    """
    tokens, attention = tokens_and_attention(encoder, images)
    size, grid = images.shape[-1], encoder.grid
    shown = views.to_pixels(images.float())  # (N, S, S, 3)

    maps = attention[:, :_HEADS] / attention[:, :_HEADS].amax(-1, keepdim=True).clamp_min(1e-12)
    grey = _enlarged(maps[..., None].expand(-1, -1, -1, 3).flatten(0, 1), grid, size)
    rows = np.concatenate([shown[:, None], grey.reshape(len(images), -1, size, size, 3)], axis=1)
    coloured = _enlarged(colours(tokens), grid, size)
    pairs = np.stack([shown, coloured], axis=1)
    return {
        "attention": drawing.contact_sheet(rows.reshape(-1, size, size, 3), columns=rows.shape[1]),
        "tokens": drawing.contact_sheet(pairs.reshape(-1, size, size, 3), columns=2),
    }


def _enlarged(values: Tensor, grid: int, size: int) -> np.ndarray:
    """Each patch in one colour: float, (N, L, 3), in [0, 1] -> uint8, (N, S, S, 3)."""
    side = size // grid
    pixels = values[:, :, None].expand(-1, -1, side**2, -1).flatten(2)
    whole = patches.unpatchify(pixels, side, (size, size)).permute(0, 2, 3, 1)
    return (whole * 255).round().to(torch.uint8).cpu().numpy()
