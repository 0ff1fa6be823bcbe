"""CRATE-MAE: masked autoencoding with layers that compress, and a decoder whose layers undo them.

Pai, Buchanan, Wu, Yu, Ma, "Masked Completion via Structured Diffusion with White-Box Transformers", 2024, arXiv
2404.02446. Predicts the pixels of removed patches; a learned token stands where they were, in the encoder already, so
that it sees all places. A decoder layer is a linear map, then attention within subspaces with a minus sign.
Follows the authors' code where the text differs (a free output map in attention, the softmax scale of ordinary
attention); differs from it in leaving out two parts that theirs never uses, a map between encoder and decoder and a
second position table, and in where the masking noise comes from, as in MAE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from unlabel import Recipe, Ref, Stage, seeds
from unlabel.errors import UsageError
from unlabel.nn import masking, transformer
from unlabel.nn.masking import Mask
from unlabel.task import Batch
from unlabel_vision import attention_pictures, masked_autoencoder, views
from unlabel_vision.encoders.crate import Crate
from unlabel_vision.encoders.crate_network import Layer, Mssa
from unlabel_vision.encoders.patch_encoder import require_tokens, stepped
from unlabel_vision.image_task import PatchTask
from unlabel_vision.tasks.crate_mae import coding_rate

__all__ = ["CrateDecoder", "CrateDecoderBlock", "CrateMAE", "monitored", "paper", "quick", "tiny"]


class CrateDecoderBlock(nn.Module):
    """The inverse of a layer, in order and sign: linear map, then minus attention within subspaces.

    Args:
        dim: width of the tokens.
        heads: subspaces.
        tied_output: see `Mssa`.
    """

    def __init__(self, dim: int, heads: int, tied_output: bool = False):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.weight = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(dim, dim)))
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.attn = Mssa(dim, heads, tied_output)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, dim) -> the same; what came in passes through the linear map alone, there is no residual around it."""
        expanded = nn.functional.linear(self.norm1(tokens), self.weight)  # W' = E W
        decompressed: Tensor = expanded - self.attn(self.norm2(expanded))  # W' - MSSA(W' | V): away from the subspaces
        return decompressed


class CrateDecoder(nn.Module):
    """Decoder layers, norm, and a linear map from each token to its pixels.

    Args:
        dim: width of the tokens, the encoder's.
        depth, heads: of the decoder.
        values: numbers to predict for each token.
        tied_output: see `Mssa`.
    """

    def __init__(self, dim: int, depth: int, heads: int, values: int, tied_output: bool = False):
        super().__init__()
        self.blocks = nn.ModuleList(CrateDecoderBlock(dim, heads, tied_output) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.predict = nn.Linear(dim, values)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, 1 + L, dim), class token first -> (N, L, values)."""
        for block in self.blocks:
            tokens = stepped(block, tokens)
        prediction: Tensor = self.predict(self.norm(tokens))
        return prediction[:, 1:]


@torch.no_grad()
def monitored(layers: Sequence[Layer], images: int) -> dict[str, Tensor]:
    """Numbers of each layer, from 1 on, of the first `images` of a batch.

    Returns:
        ``compression_l``: R^c, the rate of coding what comes in within the layer's subspaces; ``rate_l``: R, that of
        coding what comes out; ``sparsity_l``: share of zeros in it. Rates are nats an image, see
        `unlabel_vision.tasks.crate_mae.coding_rate`.
    """
    found = {}
    for number, layer in enumerate(layers, start=1):
        code = layer.code[:images].detach()
        found[f"compression_{number}"] = coding_rate.coding_rate(layer.coordinates[:images].detach()).mean()
        found[f"rate_{number}"] = coding_rate.coding_rate(code[:, None]).mean()
        found[f"sparsity_{number}"] = coding_rate.sparsity(code)
    return found


class CrateMAE(PatchTask):
    """Masked autoencoder of white-box transformers.

    Args:
        encoder: CRATE with a class token.
        mask_ratio: share of the patches to remove, in (0, 1).
        norm_pix: predict pixels normalised patch by patch instead of raw ones; the authors' code has it off unless
            asked, and does not tell what they used.
        decoder_depth: layers of the decoder; None: as many as the encoder's.
        decoder_heads: subspaces of its layers; None: as many as the encoder's.
        decoder_dim: width of the decoder: the encoder's, as nothing lies between them.
        drop_masked: a variant, not the paper's: leave removed patches out of the encoder, as MAE does, and put the
            learned token in front of the decoder; a quarter of the encoder's cost at a ratio of 0.75.
        monitored: images of each update that the numbers of the layers are measured on; 0 for none.
        crop_scale: area of the random crop, as a share of the image.
        position_order: half of the position table that comes first.

    Raises:
        UsageError: another encoder, another width, or a ratio that leaves nothing.
    """

    encoder: Crate

    evaluations: ClassVar[tuple[str, ...]] = ("linear_probe", "knn", "vision/coding_rate")

    def __init__(
        self,
        encoder: Crate,
        *,
        mask_ratio: float = 0.75,
        norm_pix: bool = False,
        decoder_depth: int | None = None,
        decoder_heads: int | None = None,
        decoder_dim: int | None = None,
        drop_masked: bool = False,
        monitored: int = 8,
        crop_scale: tuple[float, float] = (0.2, 1.0),
        position_order: Literal["xy", "yx"] = "xy",
    ):
        super().__init__(require_tokens(encoder, "vision/crate_mae"), crop_scale)
        if not isinstance(encoder, Crate):
            raise UsageError(
                f"vision/crate_mae trains the layers of CRATE, which {type(encoder).__name__} has not: use --encoder "
                "vision/crate (with another encoder, vision/mae does the same task)"
            )
        if decoder_dim not in (None, encoder.dim):
            raise UsageError(
                f"task.decoder_dim={decoder_dim}, but decoder layers take the encoder's tokens as they are: leave it "
                f"out, or give encoder.dim={encoder.dim}"
            )
        depth = self.layers if decoder_depth is None else decoder_depth
        heads = encoder.heads if decoder_heads is None else decoder_heads
        if depth < 1 or heads < 1 or encoder.dim % heads:
            raise UsageError(
                f"task.decoder_depth={depth}, task.decoder_heads={heads}: expected at least 1 of each, and a number of "
                f"heads that divides encoder.dim={encoder.dim}"
            )
        masking.kept_count(self.length, mask_ratio)  # refuse a ratio that leaves nothing, before any work
        self.mask_ratio, self.norm_pix = mask_ratio, norm_pix
        self.drop_masked, self.monitored = drop_masked, monitored

        self.encoder.fix_positions(position_order)
        tied = encoder.options["tied_output"]
        self.decoder = CrateDecoder(encoder.dim, depth, heads, 3 * encoder.patch_size**2, tied)
        self.mask_token = nn.Parameter(nn.init.normal_(torch.empty(1, 1, encoder.dim), std=0.02))
        transformer.xavier_init(self.decoder)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss", ...}``: see `masked_autoencoder.pixel_loss`, and `monitored`; masks from each sample's key."""
        noise = seeds.uniform(batch["key"], (self.length,))
        return self.loss_of(views.to_float(batch["image"]), noise)

    def loss_of(self, images: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The loss for given noise.

        Args:
            images: float, (N, 3, S, S), normalised.
            noise: float, (N, L); the smallest values stay visible.
        """
        mask = masking.from_noise(noise, self.mask_ratio)
        prediction, layers = self.predict(images, mask)
        loss = masked_autoencoder.pixel_loss(images, prediction, mask.mask, self.encoder.patch_size, self.norm_pix)
        return {"loss": loss, **(monitored(layers, self.monitored) if self.monitored else {})}

    def predict(self, images: Tensor, mask: Mask) -> tuple[Tensor, list[Layer]]:
        """Predict all patches from the visible ones: (N, 3, S, S) -> (N, L, 3 p^2), and the encoder's layers."""
        encoder = self.encoder
        patches = encoder.embed(images)  # (N, L, D)
        if self.drop_masked:
            visible = masking.take(patches + encoder.positions, mask.keep)
            layers = encoder.states(encoder.with_class(visible))
            encoded = encoder.normalise(layers[-1].code)
            seen = masking.restore(encoded[:, 1:], self.mask_token, mask.restore) + encoder.positions
            return self.decoder(torch.cat([encoded[:, :1], seen], dim=1)), layers

        # a token in the place of each removed patch, none left out: (N, L, D), their code
        shown = torch.where(mask.mask[..., None] > 0, self.mask_token.to(patches.dtype), patches)
        layers = encoder.states(encoder.with_class(shown + encoder.positions))
        return self.decoder(encoder.normalise(layers[-1].code)), layers

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight images: masked and restored; attention of the last layer's heads; tokens by their colours."""
        images = views.to_float(batch["image"][:8])
        mask = masking.from_noise(seeds.uniform(batch["key"][:8], (self.length,)), self.mask_ratio)
        prediction, _ = self.predict(images, mask)
        return {
            **masked_autoencoder.pictures(images, prediction, mask.mask, self.encoder.patch_size, self.norm_pix),
            **attention_pictures.pictures(self.encoder, images),
        }


def paper() -> Recipe:
    """CRATE-MAE-Base/16 on ImageNet-1K, 800 epochs: as good as an MAE of 143.8 M parameters with 44.6 M, they say.

    That MAE has a decoder 768 wide; with the usual one it has 111.9 M. 11 GMAC forward an image, more than MAE-B's 9.8.
    Schedule and optimizer are MAE's, the learning rate and the number of epochs as remembered. Not run by us.
    ``unlabel train vision/crate_mae --recipe paper --data IMAGENET``
    """
    return Recipe(
        task=Ref("vision/crate_mae"),
        encoder=Ref("vision/crate"),
        dataset=Ref("vision/folder"),
        stages=[masked_autoencoder.stage(epochs=800)],
    )


def quick() -> Recipe:
    """A small CRATE on 32-pixel images (8 x 8 patches), minutes on two CPU cores.

    The encoder sees four times the tokens of MAE's, so there are fewer epochs than in MAE's quick recipe.
    ``unlabel train vision/crate_mae --recipe quick``
    """
    return Recipe(
        task=Ref("vision/crate_mae", norm_pix=True),
        encoder=Ref("vision/crate", image_size=32, patch_size=4, dim=128, depth=4, heads=8),
        dataset=Ref("vision/photos", crop=32),
        stages=[Stage(epochs=6, batch_size=64, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_epochs=1)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/crate_mae --recipe tiny``"""
    return Recipe(
        task=Ref("vision/crate_mae"),
        encoder=Ref("vision/crate", image_size=32, patch_size=8, dim=32, depth=2, heads=4),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=20, batch_size=32, lr=1e-3, betas=(0.9, 0.95), warmup_steps=2)],
    )
