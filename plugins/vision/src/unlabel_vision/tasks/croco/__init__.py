"""CroCo: complete one view of a scene, most of it hidden, from another view of it.

Weinzaepfel, Leroy, Lucas, Bregier, Cabon, Arora, Antsfeld, Chidlovskii, Csurka, Revaud, "CroCo: Self-Supervised
Pre-training for 3D Vision Tasks by Cross-View Completion", 2022, arXiv 2210.10716; version 2 with rotary positions,
arXiv 2211.10408. Predicts the normalised pixels of the first view's hidden patches (90 %) from its visible ones and
from the whole second view, encoded by the same network: what is ambiguous in one view is geometry in two.
Differs from the authors' code in where randomness comes from (each sample's key), in colours that are limited once and
not after each change, and in logging by how much another pair's second view, or none, does worse.
"""

from __future__ import annotations

from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unlabel import Recipe, Ref, Stage, seeds
from unlabel.errors import UsageError
from unlabel.nn import losses, masking, patches
from unlabel.nn.masking import Mask
from unlabel.show import drawing
from unlabel.task import Batch, Transform
from unlabel_vision import masked_autoencoder, views
from unlabel_vision.encoders.patch_encoder import PatchEncoder, require_tokens
from unlabel_vision.encoders.rope_vit import RotaryViT
from unlabel_vision.image_task import PatchTask
from unlabel_vision.tasks.croco import pair_views
from unlabel_vision.tasks.croco.binocular import BinocularDecoder, hooks

__all__ = ["CroCo", "masked_mse", "paper", "paper_v2", "quick", "random_mask", "tiny"]

_WATCHED = 8


def random_mask(noise: Tensor, ratio: float) -> Tensor:
    """Which patches are hidden: ``int(ratio * L)`` of each sample, chosen by the ranks of noise.

    A patch is hidden if the index of the noise of its rank is below that number (the authors use the sorting
    permutation as a random one; it is not inverted). 0.9 hides 176 of 196 patches, where MAE's rule hides 177.

    Args:
        noise: float, (N, L).
        ratio: share to hide, in [0, 1).

    Returns:
        bool, (N, L), True where hidden.
    """
    return noise.argsort(dim=1, stable=True) < int(ratio * noise.shape[1])  # 176 of 196


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor | None, norm_pix: bool = True) -> Tensor:
    """Mean squared error of the hidden patches, one ratio over the batch, in float32.

    Args:
        prediction: (N, L, D).
        target: (N, L, D), pixels.
        mask: (N, L), true where hidden; None counts every patch.
        norm_pix: compare with each patch normalised by its own mean and unbiased variance.

    Returns:
        Scalar; (D - 1) / D for predicted zeros with `norm_pix`.
    """
    target = target.float()
    if norm_pix:
        target = patches.normalize_patches(target).values
    error = (prediction.float() - target).square().mean(-1)
    if mask is None:
        return error.mean()
    return losses.masked_mean(error, mask)  # sum(m e) / sum(m) over the batch, MAE's


class Encoded(NamedTuple):
    """Both views through the encoder.

    Attributes:
        first: (N, K, dim): visible patches of the first view, in order. second: (N, L, dim), or None without one.
        restore: int64, (N, L), see `unlabel.nn.masking.Mask`; None if all of the first view is visible.
    """

    first: Tensor
    restore: Tensor | None
    second: Tensor | None


class CroCo(PatchTask):
    """Cross-view completion.

    Args:
        encoder: a ViT without a class token; with rotary positions (vision/rope_vit), the decoder has them too.
        mask_ratio: share of the first view's patches to hide, in (0, 1).
        norm_pix: predict pixels normalised patch by patch instead of raw ones.
        decoder_dim: width of the decoder.
        decoder_depth: blocks of the decoder.
        decoder_heads: attention heads of the decoder.
        norm_memory: normalise the second view's tokens in each block of the decoder.
        second_view: what the decoder looks at: the second view, as published; for comparison the second view of
            another pair, or nothing (a masked autoencoder).
        jitter: strength of the random brightness, contrast and saturation of each view by itself.
        window: side of the place that both crops come from, as a share of the images' shorter side, at least and at
            most; below 1 for few large photographs.
        position_order: half of the position table that comes first.
    """

    evaluations: ClassVar[tuple[str, ...]] = ("vision/flow", "vision/depth", "vision/pose")

    def __init__(
        self,
        encoder: PatchEncoder,
        *,
        mask_ratio: float = 0.9,
        norm_pix: bool = True,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        norm_memory: bool = True,
        second_view: Literal["true", "other", "none"] = "true",
        jitter: float = 0.4,
        window: tuple[float, float] = (1.0, 1.0),
        position_order: Literal["xy", "yx"] = "xy",
    ):
        super().__init__(require_tokens(encoder, "vision/croco", class_token=False), (1.0, 1.0))
        hidden = int(mask_ratio * self.length)
        if not 0 < hidden < self.length:
            raise UsageError(
                f"mask_ratio {mask_ratio} hides {hidden} of {self.length} patches: some must be hidden and some seen; "
                "0.9 is the paper's"
            )
        if not 0.0 < window[0] <= window[1] <= 1.0:
            raise UsageError(f"window {list(window)}: expected two shares of the image, 0 < smallest <= largest <= 1")
        if not 0.0 <= jitter <= 1.0:
            raise UsageError(f"jitter {jitter} is outside [0, 1]; 0.4 is the paper's")
        self.mask_ratio, self.visible, self.norm_pix = mask_ratio, self.length - hidden, norm_pix
        self.second_view, self.window = second_view, (window[0], window[1])
        self.colors = views.Photometric(jitter, jitter, jitter, jitter_p=float(jitter > 0))

        self.encoder.fix_positions(position_order)
        base = encoder.base if isinstance(encoder, RotaryViT) else None
        values = 3 * encoder.patch_size**2
        self.decoder = BinocularDecoder(
            encoder.dim,
            encoder.grid,
            values,
            decoder_dim,
            decoder_depth,
            decoder_heads,
            norm_memory,
            base,
            position_order,
        )
        masked_autoencoder.initialise(self.encoder, self.decoder)

    def transform(self) -> Transform:
        return pair_views.PairCrop(self.image_size, window=self.window)

    def eval_transform(self) -> Transform:
        return pair_views.CentralPair(self.image_size)

    def mask(self, noise: Tensor) -> Mask:
        """The hidden patches as a `Mask`, whose visible patches are in their original order."""
        # equal values keep their order: patches that stay come first, as they lie
        return masking.split(random_mask(noise, self.mask_ratio).float(), self.visible)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss", "error_other", "error_none"}``: `masked_mse`; the errors are those of eight pairs of the batch,
        by the same network, with the second view of the pair before, and with none. Nothing is learnt from them."""
        first, second = self.colors.pair(batch)
        noise = seeds.uniform(batch["key"], (self.length,))
        return self.loss_of(first, second, noise)

    def loss_of(self, first: Tensor, second: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The loss for given noise.

        Args:
            first, second: float, (N, 3, S, S), normalised.
            noise: float, (N, L), see `random_mask`.
        """
        mask = self.mask(noise)
        target = patches.patchify(first.float(), self.encoder.patch_size)

        encoded = self.encode_views(first, second, mask)
        prediction = self.predict(encoded)  # (N, L, 3 p^2)

        terms = {"loss": masked_mse(prediction, target, mask.mask, self.norm_pix)}
        if self.second_view == "true":
            terms |= self._watched(encoded, target, mask)
        return terms

    def encode_views(self, first: Tensor, second: Tensor | None, mask: Mask | None = None) -> Encoded:
        """Both views through the same encoder, the first without what is hidden.

        Args:
            first, second: float, (N, 3, S, S), normalised; no second view if None.
            mask: what is hidden of the first; None shows all of it.
        """
        seen = self.encoder.tokens(first, None if mask is None else mask.keep)
        restore = None if mask is None else mask.restore
        if second is None or self.second_view == "none":
            return Encoded(seen, restore, None)
        memory = self.encoder.tokens(second)
        return Encoded(seen, restore, memory.roll(1, 0) if self.second_view == "other" else memory)

    def predict(self, encoded: Encoded) -> Tensor:
        """Pixels of every patch of the first view: (N, L, 3 p^2), of each patch's spread with `norm_pix`."""
        prediction: Tensor = self.decoder(encoded.first, encoded.restore, encoded.second)
        return prediction

    @torch.no_grad()
    def _watched(self, encoded: Encoded, target: Tensor, mask: Mask) -> dict[str, Tensor]:
        """The error of a few pairs with the second view of another one, and without; by the decoder alone."""
        few = slice(_WATCHED)
        first, restore, second = encoded.first[few], mask.restore[few], encoded.second
        assert second is not None
        memories = {"error_other": second[few].roll(1, 0), "error_none": None}
        return {
            name: masked_mse(self.decoder(first, restore, memory), target[few], mask.mask[few], self.norm_pix)
            for name, memory in memories.items()
        }

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of the tokens of each layer that `layers_of` gives."""
        return (self.encoder.dim, *[self.decoder.dim] * len(hooks(len(self.decoder.blocks))))

    def layers_of(self, first: Tensor, second: Tensor) -> list[Tensor]:
        """What a dense head reads of two whole views: the encoder's tokens of the first, and three decoder blocks'.

        Args:
            first, second: float, (N, 3, S, S), normalised.

        Returns:
            (N, L, dim), then (N, L, decoder_dim) for each of at most three blocks, the last among them.
        """
        encoded = self.encode_views(first, second)
        found = self.decoder.outputs(*encoded)
        return [encoded.first, *(found[number] for number in hooks(len(found)))]

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight pairs: first view, second, what is seen of the first, its completion; and where patches look.

        ``attention``: for a hidden patch of each first view, framed, what the last block looks at in the second.
        """
        few = {name: batch[name][:8] for name in ("view1", "view2", "key")}
        first, second = self.colors.pair(few)
        mask = self.mask(seeds.uniform(few["key"], (self.length,)))
        encoded = self.encode_views(first, second, mask)
        shown = masked_autoencoder.pictures(
            first, self.predict(encoded), mask.mask, self.encoder.patch_size, self.norm_pix, seen=second
        )
        if encoded.second is None:
            return shown
        looks = self.decoder.attention(encoded.first, encoded.restore, encoded.second)[-1]
        return {**shown, "attention": self._looks(first, second, looks, mask)}

    def _looks(self, first: Tensor, second: Tensor, looks: Tensor, mask: Mask) -> np.ndarray:
        """First views with one hidden patch framed, and second views lit where it looks."""
        grid, size = self.encoder.grid, self.encoder.patch_size
        middle = grid // 2 * grid + grid // 2
        place = torch.arange(self.length, device=mask.mask.device)
        far = ((place // grid - middle // grid).square() + (place % grid - middle % grid).square()).float()
        chosen = (far + 1e6 * (1 - mask.mask)).argmin(1)  # the hidden patch that is nearest to the middle
        light = looks[torch.arange(len(looks), device=looks.device), chosen].view(-1, 1, grid, grid)
        light = (light / light.amax((2, 3), keepdim=True)).repeat_interleave(size, 2).repeat_interleave(size, 3)
        lit = (views.to_pixels(second) * (0.2 + 0.8 * light.cpu().permute(0, 2, 3, 1).numpy())).astype(np.uint8)
        framed = views.to_pixels(first)
        for picture, number in zip(framed, chosen.tolist(), strict=True):
            top, left = number // grid * size, number % grid * size
            inside = picture[top + 1 : top + size - 1, left + 1 : left + size - 1].copy()
            picture[top : top + size, left : left + size] = (255, 0, 0)
            picture[top + 1 : top + size - 1, left + 1 : left + size - 1] = inside
        return drawing.contact_sheet(np.stack([framed, lit], axis=1).reshape(-1, *framed.shape[1:]), columns=2)


def _stage(**changes: object) -> Stage:
    whole = {
        "epochs": 400,
        "horizon_epochs": 800,
        "batch_size": 256,
        "lr": 1.5e-4,
        "lr_batch_size": 256,
        "betas": (0.9, 0.95),
        "weight_decay": 0.05,
        "warmup_epochs": 40,
    }
    return Stage.model_validate({**whole, **changes})


def paper() -> Recipe:
    """ViT-B/16 on 1.8 million rendered pairs, stopped at epoch 400 of a schedule for 800.

    The authors report about 10 days on 4 A100, and monocular depth, flow and stereo above those of other pretraining.
    Their pairs came from a simulator that is not part of this; give pairs of your own. Not run by us.
    ``unlabel train vision/croco --recipe paper --data PAIRS``
    """
    return Recipe(
        task=Ref("vision/croco"),
        encoder=Ref("vision/vit", class_token=False, pool="avg"),
        dataset=Ref("vision/pairs"),
        stages=[_stage()],
    )


def paper_v2() -> Recipe:
    """Version 2: ViT-L/16 with rotary positions and a larger decoder, on real pairs too; 125 epochs of 250.

    The peak learning rate follows version 1's rule. Not run by us.
    ``unlabel train vision/croco --recipe paper_v2 --data PAIRS``
    """
    return Recipe(
        task=Ref("vision/croco", decoder_dim=768, decoder_depth=12, decoder_heads=12),
        encoder=Ref("vision/rope_vit", dim=1024, depth=24, heads=16),
        dataset=Ref("vision/pairs"),
        stages=[_stage(epochs=125, horizon_epochs=250, batch_size=512, warmup_epochs=12)],
    )


def quick() -> Recipe:
    """A small ViT with version 2's rotary positions on two views of ray-cast rooms, minutes on two CPU cores.

    It learns to look at the second view, which with a position table takes many times as long; figures in
    ``benchmarks/results/vision_croco.md``.
    ``unlabel train vision/croco --recipe quick``
    """
    return Recipe(
        task=Ref("vision/croco", decoder_dim=96, decoder_depth=2, decoder_heads=4),
        encoder=Ref("vision/rope_vit", image_size=48, patch_size=8, dim=96, depth=2, heads=4),
        dataset=Ref("vision/rooms", size=55, count=900, noise=0.5, baseline=[0.05, 0.5]),
        stages=[Stage(steps=400, batch_size=32, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=50)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/croco --recipe tiny``"""
    return Recipe(
        task=Ref("vision/croco", decoder_dim=16, decoder_depth=2, decoder_heads=2),
        encoder=Ref("vision/vit", image_size=32, patch_size=8, dim=32, depth=2, heads=4, class_token=False, pool="avg"),
        dataset=Ref("vision/rooms", size=37, count=256),
        stages=[Stage(steps=20, batch_size=32, lr=1e-3, betas=(0.9, 0.95), warmup_steps=2)],
        evaluations=[Ref(f"vision/{name}", pairs=32, epochs=2, batch_size=16) for name in ("flow", "depth", "pose")],
    )
