"""Masked autoencoding of pixels: the decoder, the target and the loss that every such method shares.

He et al. 2021, arXiv 2111.06377. What a method adds is where the mask comes from.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlabel.nn import losses, masking, patches, positions, transformer
from unlabel.nn.decoder import Decoder
from unlabel.nn.masking import Mask
from unlabel.recipe import Stage
from unlabel.show import drawing
from unlabel_vision import views
from unlabel_vision.encoders.patch_encoder import PatchEncoder

__all__ = ["decoder", "initialise", "loss", "pictures", "pixel_loss", "predict", "stage"]


def decoder(
    encoder: PatchEncoder, *, dim: int, depth: int, heads: int, order: positions.Order = "xy", values: int | None = None
) -> Decoder:
    """The decoder that predicts every patch of an encoder's images, 3 p^2 pixels each unless `values` says otherwise.

    Args:
        encoder: whose tokens it gets.
        dim, depth, heads: of the decoder.
        order: which half of the position table comes first, see `unlabel.nn.positions.sincos`.
        values: numbers to predict for each patch.
    """
    return Decoder(
        encoder.dim,
        (encoder.grid, encoder.grid),
        values or 3 * encoder.patch_size**2,
        dim,
        depth,
        heads,
        order,
        class_token=bool(encoder.class_tokens),
    )


def initialise(encoder: PatchEncoder, *others: nn.Module) -> None:
    """The paper's first weights: linears Xavier-uniform, tokens N(0, 0.02), patch projection as a linear map.

    Args:
        encoder: its class token is a token.
        others: decoders; their parameters called ``mask_token`` are tokens.
    """
    for module in (encoder, *others):
        transformer.xavier_init(module)
    tokens = [parameter for module in others for name, parameter in module.named_parameters() if name == "mask_token"]
    for token in [encoder.model.cls_token, *tokens] if encoder.class_tokens else tokens:
        nn.init.normal_(token, std=0.02)


def predict(encoder: PatchEncoder, decoder: Decoder, images: Tensor, mask: Mask) -> Tensor:
    """Encode the visible patches alone, predict all: (N, 3, S, S) -> (N, L, 3 p^2)."""
    prediction: Tensor = decoder(encoder.tokens(images, mask.keep), mask.restore)
    return prediction


def loss(encoder: PatchEncoder, decoder: Decoder, images: Tensor, mask: Mask, norm_pix: bool) -> Tensor:
    """`pixel_loss` of what encoder and decoder predict from the visible patches.

    Only what enters the loss is computed: the prediction, and its target, of the removed patches.
    """
    hidden = mask.order[:, mask.keep.shape[1] :]  # (N, L - K): the removed patches
    prediction = decoder(encoder.tokens(images, mask.keep), mask.restore, hidden)  # (N, L - K, 3 p^2)
    target = masking.take(patches.patchify(images.float(), encoder.patch_size), hidden)
    return _errors(prediction, target, norm_pix).mean()  # each sample has as many


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
    return losses.masked_mean(_errors(prediction, patches.patchify(images.float(), patch_size), norm_pix), mask)


def _errors(prediction: Tensor, target: Tensor, norm_pix: bool) -> Tensor:
    """Mean squared error of each patch: (N, L, 3 p^2) twice -> float32, (N, L)."""
    if norm_pix:
        target = patches.normalize_patches(target).values  # t' = (t - mean) / sqrt(var + 1e-6), var unbiased
    return (prediction.float() - target).square().mean(-1)  # e_l; the loss is sum(m e) / sum(m), m = 1 where removed


def pictures(
    images: Tensor, prediction: Tensor, mask: Tensor, patch_size: int, norm_pix: bool, seen: Tensor | None = None
) -> dict[str, np.ndarray]:
    """Input, masked input and reconstruction side by side, one image a row.

    With `norm_pix` the prediction is in units of each patch's own spread; it is put back with the
    *target's* mean and spread, so colours look better than the network alone could make them.

    Args:
        images, prediction, mask, patch_size, norm_pix: as in `pixel_loss`; a handful of images.
        seen: float, (N, 3, S, S): what the network was shown of each image besides, if it was more; a fourth picture
            behind the input.

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
    shown = [images] + ([] if seen is None else [seen])
    shown += [
        patches.unpatchify(values, patch_size, size)
        for values in (target * (1 - hidden), prediction * hidden + target * (1 - hidden))
    ]
    row = torch.stack(shown, dim=1).flatten(0, 1)  # input, masked input, reconstruction of each image in turn
    return {"reconstruction": drawing.contact_sheet(views.to_pixels(row), columns=len(shown))}


def stage(*, epochs: int, **others: Any) -> Stage:
    """The paper's pretraining on ImageNet-1K, optimizer and schedule, which methods built on it have kept.

    AdamW (0.9, 0.95), decay 0.05, batch 4,096, rate 1.5e-4 for every 256 images, 40 epochs of warm-up, half a cosine to
    0 (the paper, appendix A).

    Args:
        epochs: the paper's own longest run has 1,600, its ablations 800.
        others: fields of the stage that a method adds.
    """
    return Stage(
        epochs=epochs,
        batch_size=4096,
        lr=1.5e-4,
        lr_batch_size=256,
        betas=(0.9, 0.95),
        weight_decay=0.05,
        warmup_epochs=40,
        **others,
    )
