"""Masked autoencoding of pixels: the decoder, the target and the loss that every such method shares.

He et al. 2021, arXiv 2111.06377. What a method adds is where the mask comes from.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from unlabel.nn import losses, masking, patches, positions, transformer
from unlabel.nn.masking import Mask
from unlabel_vision import views
from unlabel_vision.encoders.vit import ViT

__all__ = ["PixelDecoder", "initialise", "pictures", "pixel_loss", "predict"]

HEALTHY = {"feature_std": (0.05, 2.0)}
"""Class tokens of masked autoencoders share a large mean: a spread that elsewhere means collapse is ordinary here."""


class PixelDecoder(nn.Module):
    """Light transformer that sees the encoded patches and mask tokens, and predicts every patch's pixels.

    Args:
        encoder_dim: width of the encoded tokens.
        grid: patches per side.
        patch_size: side of a patch in pixels.
        dim, depth, heads: of the decoder.
        order: which half of the position table comes first, see `unlabel.nn.positions.sincos`.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_dim: int,
        grid: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        order: positions.Order = "xy",
    ):
        super().__init__()
        table = positions.sincos(dim, (grid, grid), order=order, class_row=True)
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("positions", table, persistent=False)
        self.transformer = transformer.Transformer(dim, depth, heads)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.predict = nn.Linear(dim, patch_size**2 * 3)

    def forward(self, encoded: Tensor, restore: Tensor) -> Tensor:
        """Predict pixels.

        Args:
            encoded: (N, 1 + K, encoder_dim): class token, then the visible patches in shuffled order.
            restore: int64, (N, L), of the mask.

        Returns:
            (N, L, 3 p^2), each patch row, column, channel.
        """
        tokens = self.embed(encoded)
        patches_ = masking.restore(tokens[:, 1:], self.mask_token, restore)
        sequence = torch.cat([tokens[:, :1], patches_], dim=1) + self.positions
        prediction: Tensor = self.predict(self.norm(self.transformer(sequence)))
        return prediction[:, 1:]


def initialise(encoder: ViT, decoder: PixelDecoder) -> None:
    """The paper's first weights: linears Xavier-uniform, tokens N(0, 0.02), patch projection as a linear map."""
    transformer.xavier_init(encoder)
    transformer.xavier_init(decoder)
    nn.init.normal_(encoder.model.cls_token, std=0.02)
    nn.init.normal_(decoder.mask_token, std=0.02)


def predict(encoder: ViT, decoder: PixelDecoder, images: Tensor, mask: Mask) -> Tensor:
    """Encode the visible patches alone, predict all: (N, 3, S, S) -> (N, L, 3 p^2)."""
    prediction: Tensor = decoder(encoder.tokens(images, mask.keep), mask.restore)
    return prediction


def pixel_loss(images: Tensor, prediction: Tensor, mask: Tensor, patch_size: int, norm_pix: bool = True) -> Tensor:
    """Mean squared error on the removed patches, one ratio over the batch, in float32.

    Args:
        images: float, (N, 3, S, S), normalised.
        prediction: (N, L, 3 p^2).
        mask: (N, L), 1 where removed.
        patch_size: p.
        norm_pix: compare with each patch normalised by its own mean and unbiased variance.

    Returns:
        Scalar.
    """
    target = patches.patchify(images.float(), patch_size)
    if norm_pix:
        target = patches.normalize_patches(target).values
    error = (prediction.float() - target).square().mean(-1)  # (N, L)
    return losses.masked_mean(error, mask)


def pictures(
    images: Tensor, prediction: Tensor, mask: Tensor, patch_size: int, norm_pix: bool
) -> dict[str, np.ndarray]:
    """Input, masked input and reconstruction side by side, one image a row.

    With `norm_pix` the prediction is in units of each patch's own spread; it is put back with the
    *target's* mean and spread, so colours look better than the network alone could make them.

    Args:
        images, prediction, mask, patch_size, norm_pix: as in `pixel_loss`; a handful of images.

    Returns:
        ``{"reconstruction": uint8 picture}``.
    """
    images, prediction = images.float(), prediction.float()
    target = patches.patchify(images, patch_size)
    if norm_pix:
        normalised = patches.normalize_patches(target)
        prediction = prediction * normalised.std + normalised.mean
    hidden = mask[..., None]
    size = images.shape[-2:]
    shown = [images] + [
        patches.unpatchify(values, patch_size, size)
        for values in (target * (1 - hidden), prediction * hidden + target * (1 - hidden))
    ]
    triples = torch.stack(shown, dim=1).flatten(0, 1)  # input, masked input, reconstruction of each image in turn
    return {"reconstruction": views.contact_sheet(views.to_pixels(triples), columns=3)}
