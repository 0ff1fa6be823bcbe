"""MAE: hide three quarters of the patches, encode the rest, predict the hidden pixels.

He, Chen, Xie, Li, Dollar, Girshick, "Masked Autoencoders Are Scalable Vision Learners", 2021, arXiv 2111.06377.
Predicts the normalised pixels of removed patches from the visible patches and their positions.
Differs from the authors' code in where the masking noise comes from: hashed from each sample's key, so
that masks do not depend on the number of processes; and in one scatter instead of a second sort.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unlabel import Recipe, Ref, Stage, seeds
from unlabel.nn import masking
from unlabel.task import Batch
from unlabel_vision import attention_pictures, masked_autoencoder, views
from unlabel_vision.encoders.patch_encoder import PatchEncoder, require_tokens
from unlabel_vision.image_task import PatchTask

__all__ = ["MAE", "paper", "quick", "tiny"]


class MAE(PatchTask):
    """Masked autoencoder.

    Args:
        encoder: a ViT that can leave patches out.
        mask_ratio: share of the patches to remove, in (0, 1).
        norm_pix: predict pixels normalised patch by patch instead of raw ones.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        crop_scale: area of the random crop, as a share of the image.
        position_order: half of the position table that comes first; "yx" is another library's convention.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        *,
        mask_ratio: float = 0.75,
        norm_pix: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        position_order: Literal["xy", "yx"] = "xy",
    ):
        super().__init__(require_tokens(encoder, "vision/mae"), crop_scale)
        self.mask_ratio, self.norm_pix = mask_ratio, norm_pix
        masking.kept_count(self.length, mask_ratio)  # refuse a ratio that leaves nothing, before any work
        self.encoder.fix_positions(position_order)
        self.decoder = masked_autoencoder.decoder(
            encoder, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads, order=position_order
        )
        masked_autoencoder.initialise(self.encoder, self.decoder)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: see `masked_autoencoder.pixel_loss`; masks from each sample's key."""
        images = views.to_float(batch["image"])
        noise = seeds.uniform(batch["key"], (self.length,))  # (N, L), uniform: random masking
        return self.loss_of(images, noise)

    def loss_of(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The loss for given noise.

        Args:
            images: float, (N, 3, S, S), normalised.
            noise: float, (N, L); the smallest values stay visible.
        """
        mask = masking.from_noise(noise, self.mask_ratio)  # K = int(L (1 - r)) patches stay, truncated as in their code
        # the encoder sees K of L patches and no mask token, the decoder all L; only removed ones enter the loss
        return {"loss": masked_autoencoder.loss(self.encoder, self.decoder, images, mask, self.norm_pix)}

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight images: input, masked input and reconstruction; attention; tokens by their colours."""
        images = views.to_float(batch["image"][:8])
        mask = masking.from_noise(seeds.uniform(batch["key"][:8], (self.length,)), self.mask_ratio)
        prediction = masked_autoencoder.predict(self.encoder, self.decoder, images, mask)
        shown = masked_autoencoder.pictures(images, prediction, mask.mask, self.encoder.patch_size, self.norm_pix)
        return {**shown, **attention_pictures.pictures(self.encoder, images)}


def paper() -> Recipe:
    """ViT-B/16, 800 epochs: 67.8 % linear probe and 83.66 % fine-tuned on ImageNet-1K in the authors' release.

    The authors report 42 h on 64 V100 for ViT-L at 800 epochs. Not run by us.
    ``unlabel train vision/mae --recipe paper --data IMAGENET``
    """
    return Recipe(
        task=Ref("vision/mae"),
        encoder=Ref("vision/vit"),
        dataset=Ref("vision/folder"),
        stages=[masked_autoencoder.stage(epochs=800)],
    )


def quick() -> Recipe:
    """A small ViT on 32-pixel images, minutes on two CPU cores; figures in the README.

    ``unlabel train vision/mae --recipe quick``
    """
    return Recipe(
        task=Ref("vision/mae", decoder_dim=64, decoder_depth=1, decoder_heads=2),
        encoder=Ref("vision/vit", image_size=32, patch_size=4, dim=128, depth=4, heads=4),
        dataset=Ref("vision/photos", crop=32),
        stages=[Stage(epochs=14, batch_size=128, lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/mae --recipe tiny``"""
    return Recipe(
        task=Ref("vision/mae", decoder_dim=16, decoder_depth=1, decoder_heads=2),
        encoder=Ref("vision/vit", image_size=32, patch_size=8, dim=32, depth=2, heads=4),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=20, batch_size=32, lr=1e-3, betas=(0.9, 0.95), warmup_steps=2)],
    )
