"""DropPos: hide most patches, take the positions of most of the others away, and ask where those were.

Wang, Fan, Wang, Song, Wang, Zhang, "DropPos: Pre-Training Vision Transformers by Reconstructing Dropped Positions",
2023, arXiv 2309.03576. Predicts the index of each visible patch without a position, among all, from the visible
patches and the few positions that are left; near misses count in part, and patches like the class token count more.
Differs from the authors' code where it departs from the paper: labels are smoothed on the true grid (theirs is 16 x 16
for 14 x 14 patches) and sum to 1 for each true position (theirs for each predicted one).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import Progress, Recipe, Ref, Stage, engine, seeds
from unlabel.errors import UsageError
from unlabel.nn import losses, masking, positions, transformer
from unlabel.nn.masking import Mask
from unlabel.recipe import Execution
from unlabel.show import drawing
from unlabel.task import Batch
from unlabel_vision import attention_pictures, masked_autoencoder, views
from unlabel_vision.encoders.patch_encoder import PatchEncoder, require_tokens
from unlabel_vision.image_task import PatchTask
from unlabel_vision.position_prediction import rearranged

__all__ = ["DropPos", "PositionDecoder", "attentive_weights", "paper", "quick", "tiny", "without_positions"]


def without_positions(rows: Tensor, dropped: Tensor, token: Tensor) -> Tensor:
    """Position inputs of the visible patches: their own rows, or the token where the position is dropped.

    Args:
        rows: (N, V, D): true position rows.
        dropped: bool, (N, V).
        token: (1, 1, D).
    """
    return torch.where(dropped[..., None], token.to(rows.dtype), rows)


def wrong_positions(rows: Tensor, slots: Mask) -> Tensor:
    """Position inputs in which each dropped position is replaced by that of another dropped one: (N, V, D).

    Args:
        rows: (N, V, D): true position rows.
        slots: which slots keep theirs; the others, in random order, pass theirs on around a circle.
    """
    first = slots.keep.shape[1]
    giver = slots.order.clone()
    giver[:, first:] = slots.order[:, first:].roll(1, dims=1)
    return masking.take(rows, torch.empty_like(giver).scatter_(1, slots.order, giver))


def attentive_weights(encoded: Tensor, temperature: float) -> Tensor:
    """How much each patch resembles the class token: softmax of the cosines over the patches (section 3.3).

    Over all L patches, taken at the visible ones and brought to sum 1 again, it is the softmax over the visible
    ones alone: only their tokens are needed.

    Args:
        encoded: (N, 1 + V, D): class token and patches after the final norm.
        temperature: divides the cosines.

    Returns:
        float32, (N, V), sum 1; no gradient.
    """
    unit = functional.normalize(encoded.detach().float(), dim=-1)
    # a_l = softmax over l of cos(z_cls, z_l) / tau; tau 0.1 is the authors'
    return torch.softmax((unit[:, 1:] * unit[:, :1]).sum(-1) / temperature, dim=1)


class PositionDecoder(nn.Module):
    """Light transformer without positions that tells for each token which one it is.

    Args:
        encoder_dim: width of the encoded tokens.
        length: number of positions.
        dim, depth, heads: of the decoder.
    """

    def __init__(self, encoder_dim: int, length: int, dim: int, depth: int, heads: int):
        super().__init__()
        self.embed = nn.Linear(encoder_dim, dim)
        self.transformer = transformer.Transformer(dim, depth, heads)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.predict = nn.Linear(dim, length)

    def forward(self, encoded: Tensor) -> Tensor:
        """(N, 1 + V, encoder_dim), class token first -> logits (N, V, length); the class token is seen as well."""
        logits: Tensor = self.predict(self.norm(self.transformer(self.embed(encoded))))
        return logits[:, 1:]


class DropPos(PatchTask):
    """Reconstruction of dropped positions.

    Args:
        encoder: a ViT with a class token.
        mask_ratio: share of the patches to remove, in [0, 1).
        position_ratio: share of the visible patches whose position is dropped, in (0, 1].
        dropped: what takes the place of a dropped position: a learned token, nothing, or another one's position.
        sigma: width in patches within which a near miss counts; 0 counts the true position alone.
        sigma_decay: let `sigma` fall linearly to 0, epoch by epoch.
        attentive: how much each patch counts is its likeness to the class token, seen by the current encoder in the
            whole image with all positions ("full": the paper's; a second forward pass without gradient), in the
            visible patches with all their positions ("visible": a quarter of that pass at a mask ratio of 0.75), or
            in the pass that is trained ("own": no further pass); or all count alike ("none").
        temperature: of the attentive weights.
        ignore_confident: leave out patches whose true position is predicted with more than its label already.
        reconstruction: also predict the removed patches' pixels, as MAE does, from the same encoded patches.
        position_weight: weight of the positions where pixels are predicted too; 0.05 for ViT-B, 0.1 for ViT-L.
        norm_pix: predict pixels normalised patch by patch.
        decoder_dim: width of the decoders.
        decoder_depth: blocks of each decoder.
        decoder_heads: attention heads of the decoders.
        crop_scale: area of the random crop, as a share of the image.
        position_order: half of the position table that comes first.

    Raises:
        UsageError: an encoder without a class token, or ratios that leave nothing to see or to predict.
    """

    obsolete = ("epoch", "done")  # copies of the loop's counters

    sigma: Tensor
    labels: Tensor

    def __init__(
        self,
        encoder: PatchEncoder,
        *,
        mask_ratio: float = 0.75,
        position_ratio: float = 0.75,
        dropped: Literal["token", "zeros", "wrong"] = "token",
        sigma: float = 1.0,
        sigma_decay: bool = True,
        attentive: Literal["full", "visible", "own", "none"] = "full",
        temperature: float = 0.1,
        ignore_confident: bool = False,
        reconstruction: bool = False,
        position_weight: float = 0.05,
        norm_pix: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 2,
        decoder_heads: int = 16,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        position_order: Literal["xy", "yx"] = "xy",
    ):
        super().__init__(require_tokens(encoder, "vision/droppos"), crop_scale)
        self.visible = int(self.length * (1.0 - mask_ratio))  # V = int(L (1 - gamma)): 49 of 196
        self.kept = int(self.visible * (1.0 - position_ratio))  # P = int(V (1 - gamma_pos)): 12
        if not 0.0 <= mask_ratio < 1.0 or self.visible < 1:
            raise UsageError(f"mask_ratio {mask_ratio} leaves none of {self.length} patches; 0.75 is the paper's")
        if not 0.0 < position_ratio <= 1.0 or self.kept == self.visible:
            raise UsageError(
                f"position_ratio {position_ratio} drops none of the positions of {self.visible} visible patches; "
                "0.75 is the paper's"
            )
        if reconstruction and self.visible == self.length:
            raise UsageError("reconstruction=true needs removed patches: use a mask_ratio above 0")
        self.dropped, self.attentive, self.temperature = dropped, attentive, temperature
        self.first_sigma, self.sigma_decay, self.ignore_confident = sigma, sigma_decay, ignore_confident
        self.position_weight, self.norm_pix = position_weight, norm_pix

        self.encoder.fix_positions(position_order)
        self.decoder = PositionDecoder(encoder.dim, self.length, decoder_dim, decoder_depth, decoder_heads)
        sizes = {"dim": decoder_dim, "depth": decoder_depth, "heads": decoder_heads}
        self.pixels = masked_autoencoder.decoder(encoder, **sizes, order=position_order) if reconstruction else None
        masked_autoencoder.initialise(self.encoder, self.decoder, *([] if self.pixels is None else [self.pixels]))
        token = torch.zeros(1, 1, encoder.dim)
        if dropped == "token":
            self.position_token = nn.Parameter(nn.init.normal_(token, std=0.02))
        else:
            self.register_buffer("position_token", token, persistent=False)

        # The width of this epoch's labels, which a resume inside the epoch must know; the labels follow from it.
        self.register_buffer("sigma", torch.tensor(sigma, dtype=torch.float64))
        self.register_buffer("labels", self._labels(sigma), persistent=False)

    def _labels(self, sigma: float) -> Tensor:
        return positions.neighbourhood((self.encoder.grid, self.encoder.grid), sigma)

    def enter_epoch(self, progress: Progress, resumed: bool) -> None:
        """The labels' width of this epoch: ``sigma * (1 - epoch / epochs)``; the same when resuming inside it."""
        if not resumed:
            self.sigma.fill_(self.first_sigma * (1.0 - (progress.fraction if self.sigma_decay else 0.0)))
        self.labels.copy_(self._labels(self.sigma.item()))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss", "accuracy"}``, and the accuracy weighted as the loss; with `reconstruction` two losses.

        The loss is ln L for equal logits. A guess from the positions that are left hits one in L - P.
        """
        patch_noise = seeds.uniform(batch["key"], (self.length,), stream=1)
        position_noise = seeds.uniform(batch["key"], (self.visible,), stream=2)
        return self.loss_of(views.to_float(batch["image"]), patch_noise, position_noise)

    def loss_of(self, images: Tensor, patch_noise: Tensor, position_noise: Tensor) -> dict[str, Tensor]:
        """The losses for given noise.

        Args:
            images: float, (N, 3, S, S), normalised.
            patch_noise: float, (N, L); the smallest values stay visible.
            position_noise: float, (N, V); the smallest values keep their positions.
        """
        mask, slots = masking.split(patch_noise, self.visible), masking.split(position_noise, self.kept)
        patches = masking.take(self.encoder.embed(images), mask.keep)  # (N, V, D)

        encoded = self.encode_visible(patches, mask, slots)
        logits = self.decoder(encoded)  # (N, V, L)

        # m_j = [position of slot j dropped] * a_j
        weights = slots.mask * self.weights(images, patches, encoded, mask)
        if self.ignore_confident:
            weights = weights * self._unsure(logits, mask.keep)
        total = engine.gather(weights.sum()[None]).mean()  # of all processes, each of which hides other weights
        # L = sum m_j CE(o_j, w(y_j, .)) / sum m_j, one ratio over the batch; rows of w sum to 1, as in the text
        loss = losses.masked_cross_entropy(logits, mask.keep, weights, self.labels, total)
        scores = {"accuracy": losses.masked_accuracy(logits, mask.keep, slots.mask)}
        if self.attentive != "none":
            scores["accuracy_attentive"] = losses.masked_accuracy(logits, mask.keep, weights)
        if self.pixels is None:
            return {"loss": loss, **scores}

        prediction = self.pixels(encoded, mask.restore)
        pixel_loss = masked_autoencoder.pixel_loss(
            images, prediction, mask.mask, self.encoder.patch_size, self.norm_pix
        )
        return {"loss_position": self.position_weight * loss, "loss_reconstruction": pixel_loss, **scores}

    def encode_visible(self, patches: Tensor, mask: Mask, slots: Mask) -> Tensor:
        """Encode visible patches with what is left of their positions: (N, V, D) -> (N, 1 + V, D)."""
        rows = self.encoder.positions[mask.keep]
        if self.dropped == "wrong":
            given = wrong_positions(rows, slots)
        else:
            given = without_positions(rows, slots.mask.bool(), self.position_token)
        return self.encoder.run(self.encoder.with_class(patches + given))

    def weights(self, images: Tensor, patches: Tensor, encoded: Tensor, mask: Mask) -> Tensor:
        """Attentive weights of the visible patches: float32, (N, V), of sum 1 (or all 1); see `attentive`."""
        if self.attentive == "none":
            return torch.ones_like(mask.keep, dtype=torch.float32)
        if self.attentive != "own":
            with torch.no_grad():
                if self.attentive == "full":
                    tokens = self.encoder.tokens(images)
                    encoded = torch.cat([tokens[:, :1], masking.take(tokens[:, 1:], mask.keep)], dim=1)
                else:
                    placed = patches + self.encoder.positions[mask.keep]
                    encoded = self.encoder.run(self.encoder.with_class(placed))
        return attentive_weights(encoded, self.temperature)

    @torch.no_grad()
    def _unsure(self, logits: Tensor, truth: Tensor) -> Tensor:
        """Where the true position's probability does not exceed its label: (N, V)."""
        probability = logits.float().softmax(-1).gather(2, truth[..., None])[..., 0]
        return probability <= self.labels.diagonal()[truth]

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight images: whole; visible patches, pale where the position is dropped; laid out as predicted.

        Besides, where the last block looks, and tokens by their colours; see `attention_pictures`.
        """
        images, key = views.to_float(batch["image"][:8]), batch["key"][:8]
        mask = masking.split(seeds.uniform(key, (self.length,), stream=1), self.visible)
        slots = masking.split(seeds.uniform(key, (self.visible,), stream=2), self.kept)
        patches = masking.take(self.encoder.embed(images), mask.keep)
        logits = self.decoder(self.encode_visible(patches, mask, slots))

        size, dropped = self.encoder.patch_size, slots.mask.bool()
        seen = rearranged(images, mask.keep, mask.keep, size, 1.0 - 0.6 * slots.mask)
        placed = rearranged(images, mask.keep, torch.where(dropped, logits.argmax(-1), mask.keep), size)
        triples = torch.stack([images, seen, placed], dim=1).flatten(0, 1)
        shown = drawing.contact_sheet(views.to_pixels(triples), columns=3)
        return {"positions": shown, **attention_pictures.pictures(self.encoder, images)}


def paper() -> Recipe:
    """ViT-B/16, 800 epochs: the authors report 84.2 % fine-tuned on ImageNet-1K and 47.8 mIoU on ADE20K.

    With 200 epochs they report 83.0 %.
    The full second pass is 55 % of a step; ``--set task.attentive=visible`` or ``own`` saves most or all of it, at
    weights that are not the paper's. Not run by us.
    ``unlabel train vision/droppos --recipe paper --data IMAGENET``
    """
    return Recipe(
        task=Ref("vision/droppos"),
        encoder=Ref("vision/vit"),
        dataset=Ref("vision/folder"),
        stages=[
            Stage(
                epochs=800,
                batch_size=2048,
                lr=1.5e-4,
                lr_batch_size=256,
                betas=(0.9, 0.95),
                weight_decay=0.05,
                warmup_epochs=10,
                clip_tensor_norm=5.0,
            )
        ],
        execution=Execution(precision="fp32"),
    )


def quick() -> Recipe:
    """A small ViT on handwritten digits (8 x 8 patches), minutes on two CPU cores.

    Digits stand where digits stand; crops of photographs, which the other quick recipes train on, could be from
    anywhere in them, and teach no position in so short a time.
    ``unlabel train vision/droppos --recipe quick``
    """
    return Recipe(
        task=Ref("vision/droppos", decoder_dim=64, decoder_depth=1, decoder_heads=2),
        encoder=Ref("vision/vit", image_size=32, patch_size=4, dim=128, depth=4, heads=4),
        dataset=Ref("vision/digits"),
        stages=[Stage(epochs=30, batch_size=64, lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=2)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/droppos --recipe tiny``"""
    return Recipe(
        task=Ref("vision/droppos", decoder_dim=16, decoder_depth=1, decoder_heads=2),
        encoder=Ref("vision/vit", image_size=32, patch_size=4, dim=32, depth=2, heads=4),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=20, batch_size=32, lr=1e-3, betas=(0.9, 0.95), warmup_steps=2)],
    )
