"""GMML: corrupt groups of connected pixels with noise or with another image, and restore the clean image.

Atito, Awais, Kittler, "GMML is All you Need", 2022, arXiv 2205.14986. Predicts the clean pixels from the whole
corrupted image: nothing is left out, and no mask token says where to look. Each image gives two clean crops, which
double the updates and are not compared; their loss is one mean.
Follows the authors' code where the text differs: rectangles of any place and size in pixels, not in tokens; a decoder
of three layers and a transposed convolution on the mean of four blocks. Differs from it in drawing from a seeded
generator, which theirs seeds anew with every call.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from unlabel import Recipe, Ref, Stage, engine, seeds
from unlabel.errors import UsageError
from unlabel.show import drawing
from unlabel.task import Batch, Transform
from unlabel_vision import attention_pictures, views
from unlabel_vision.encoders.patch_encoder import PatchEncoder, require_tokens
from unlabel_vision.image_task import PatchTask
from unlabel_vision.tasks.gmml import block_corruption

__all__ = ["GMML", "PixelHead", "corrupted", "masked_l1", "paper", "quick", "tiny"]


def corrupted(clean: Tensor, mask: Tensor, noise: Tensor | None, partner: Tensor, alien: Tensor) -> Tensor:
    """Fill what is masked with noise, or with another image's pixels of the same place.

    Args:
        clean: float, (N, 3, S, S).
        mask: bool, (N, S, S).
        noise: like `clean`, standard normal; None fills with zeros, the mean colour.
        partner: int64, (N,): which image of the batch lends its (clean) pixels.
        alien: bool, (N,): where it does.

    Returns:
        Like `clean`, equal to it to the bit where `mask` is False.
    """
    own = torch.zeros((), dtype=clean.dtype, device=clean.device) if noise is None else noise
    return torch.where(mask[:, None], torch.where(alien[:, None, None, None], clean[partner], own), clean)


def masked_l1(prediction: Tensor, clean: Tensor, mask: Tensor, denominator: Tensor | None = None) -> Tensor:
    """Mean absolute error of the masked pixels, one mean over batch, channels and pixels, in float32.

    Args:
        prediction, clean: float, (N, C, H, W).
        mask: (N, H, W), 1 where a pixel counts.
        denominator: what to divide by instead of this process's number of values that count.
    """
    error = (prediction.float() - clean.float()).abs().sum(1)  # (N, H, W)
    counted = mask.float()
    total = counted.sum() * clean.shape[1] if denominator is None else denominator
    return (error * counted).sum() / total  # L = mean over the mask of |x^ - x|


class PixelHead(nn.Module):
    """Three linear layers with GELU, then a transposed convolution from each patch to its pixels.

    Args:
        dim: width of the patches.
        patch_size: side of a patch in pixels.
    """

    def __init__(self, dim: int, patch_size: int):
        super().__init__()
        layers = [layer for _ in range(3) for layer in (nn.Linear(dim, dim), nn.GELU())]
        self.mlp = nn.Sequential(*layers)
        self.pixels = nn.ConvTranspose2d(dim, 3, patch_size, stride=patch_size)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(N, L, dim), row-major on a square grid -> (N, 3, S, S)."""
        side = math.isqrt(patches.shape[1])
        grid = self.mlp(patches).transpose(1, 2).unflatten(2, (side, side))
        image: Tensor = self.pixels(grid)
        return image


class GMML(PatchTask):
    """Group masked model learning.

    Args:
        encoder: a ViT.
        blocks: which blocks' outputs are averaged for the reconstruction, from 1 on; the last must be among them.
        ratio: largest share of the pixels to corrupt with noise; the least is half of the image, or `ratio`.
        alien_ratio: share to corrupt with another image.
        alien: probability of corrupting with another image instead of noise.
        lends_itself: let an image be its own alien, as the authors' code does: nothing changes, but it counts.
        fill: noise (standard normal, in units of the normalised pixels), or zeros.
        shape: groups are rectangles; "tokens" corrupts isolated whole patches instead, for comparison.
        align: rectangles start and end at multiples of this many pixels.
        largest: bound of a rectangle's sides, as a share of the image's.
        only_corrupted: let corrupted pixels alone enter the loss, or all.
        jitter: probability of changing a crop's colours slightly; they are part of what is to be restored.
        blur: probability of blurring a crop.
        crop_scale: area of the random crops, as a share of the image.
        final_weight_decay: what a stage's weight decay becomes along half a cosine, unless the stage names a schedule
            itself; None leaves it.

    Raises:
        UsageError: blocks that do not exist, or without the last; ratios outside (0, 1].
    """

    obsolete: ClassVar[tuple[str, ...]] = ("updates",)  # a copy of the loop's counter

    # Aliens are drawn from the batch of each process, noise from its generator, as are the branches left out.
    gathers: ClassVar[bool] = False

    def __init__(
        self,
        encoder: PatchEncoder,
        *,
        blocks: tuple[int, ...] = (6, 8, 10, 12),
        ratio: float = 0.75,
        alien_ratio: float = 0.3,
        alien: float = 0.5,
        lends_itself: bool = True,
        fill: Literal["noise", "zeros"] = "noise",
        shape: Literal["groups", "tokens"] = "groups",
        align: int = 1,
        largest: float = 0.3,
        only_corrupted: bool = True,
        jitter: float = 0.3,
        blur: float = 0.1,
        crop_scale: tuple[float, float] = (0.05, 1.0),
        final_weight_decay: float | None = 0.4,
    ):
        super().__init__(require_tokens(encoder, "vision/gmml", class_token=None), crop_scale)
        if not blocks or set(blocks) - set(range(1, self.layers + 1)) or max(blocks) != self.layers:
            raise UsageError(
                f"blocks={list(blocks)} of an encoder of {self.layers}: give some of 1..{self.layers} and the last, as "
                "later blocks would learn nothing"
            )
        for name, value in (("ratio", ratio), ("alien_ratio", alien_ratio)):
            if not 0.0 < value <= 1.0:
                raise UsageError(f"{name} {value} is outside (0, 1]; the paper's are 0.75 (noise) and 0.3 (aliens)")
        size = (self.image_size, self.image_size)
        if align < 1 or (align > 1 and self.image_size % align):
            raise UsageError(f"align={align} does not divide images of {self.image_size} pixels")
        block_corruption.drawn(torch.zeros(4), size, align, largest)  # refuse images without room, before any work
        self.blocks, self.fill, self.shape, self.align, self.largest = blocks, fill, shape, align, largest
        self.ratio, self.alien_ratio, self.alien, self.lends_itself = ratio, alien_ratio, alien, lends_itself
        self.only_corrupted, self.final_weight_decay = only_corrupted, final_weight_decay
        self.photometric = views.Photometric(0.1, 0.1, 0.1, 0.01, jitter_p=jitter, blur_p=blur)

        if encoder.class_tokens:
            nn.init.trunc_normal_(encoder.model.cls_token, std=0.02)
        self.head = PixelHead(encoder.dim, encoder.patch_size)

    def transform(self) -> Transform:
        crop = views.RandomResizedCrop(self.image_size, scale=self.crop_scale)
        return views.TwoViews(crop, crop)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss", "corrupted", "alien"}``: absolute error of the corrupted pixels of both crops, and their share."""
        clean, given, mask, alien = self._corrupted(batch)
        terms = self.loss_of(clean, given, mask)
        return {**terms, "corrupted": mask.float().mean(), "alien": alien.float().mean()}

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # nothing to gain, and the compiler cannot bound the hashed numbers
    def _corrupted(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Both crops of each image, one below the other: clean, corrupted, where, and whether by an alien."""
        crops = self.photometric.pair(batch)
        masks, inputs, aliens = zip(
            *(self.corrupt(clean, batch["key"], view) for view, clean in enumerate(crops)), strict=True
        )
        return torch.cat(crops), torch.cat(inputs), torch.cat(masks), torch.cat(aliens)

    def corrupt(self, clean: Tensor, key: Tensor, view: int) -> tuple[Tensor, Tensor, Tensor]:
        """Corrupt a batch of crops.

        Args:
            clean: float, (N, 3, S, S), normalised.
            key: int64, (N,): decides where, how much, and whether by an alien, and by which of the batch.
            view: another number for another crop of the same images.

        Returns:
            bool (N, S, S): what is corrupted; the corrupted crops; bool (N,): which got an alien.
        """
        count, size = len(clean), (self.image_size, self.image_size)
        u = seeds.uniform(key, (3,), stream=10 + view)
        alien = u[:, 0] < self.alien
        least = min(0.5, self.ratio)  # their code: n ~ U(min(0.5, rho), rho) H W for noise, rho H W for aliens
        share = torch.where(alien, self.alien_ratio, least + (self.ratio - least) * u[:, 1])
        wanted = share * size[0] * size[1]

        if self.shape == "tokens":
            order = seeds.uniform(key, (self.length,), stream=20 + view)
            mask = block_corruption.scattered(order, wanted, self.encoder.patch_size)
        else:
            draws = seeds.uniform(key, (block_corruption.BLOCKS, 4), stream=20 + view)
            draws = block_corruption.drawn(draws, size, self.align, self.largest)
            mask = block_corruption.cover(block_corruption.aligned(draws, size, self.align), wanted, size)

        if self.lends_itself or count == 1:
            partner = (u[:, 2] * count).long()
        else:
            partner = (torch.arange(count, device=key.device) + 1 + (u[:, 2] * (count - 1)).long()) % count
        # From the step's generator: hashing keys for every pixel would cost as much as the crop itself.
        noise = torch.randn_like(clean) if self.fill == "noise" else None
        return mask, corrupted(clean, mask, noise, partner, alien), alien

    def loss_of(self, clean: Tensor, given: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The loss for given corruption.

        Args:
            clean, given: float, (N, 3, S, S): what is to be predicted, and from what.
            mask: bool, (N, S, S): where they may differ.
        """
        counted = mask if self.only_corrupted else torch.ones_like(mask)
        total = engine.gather(counted.sum()[None]).float().mean() * clean.shape[1]  # each process corrupts as it likes
        return {"loss": masked_l1(self.reconstruct(given), clean, counted, total)}

    def reconstruct(self, given: Tensor) -> Tensor:
        """Predict the clean image from the corrupted one: (N, 3, S, S) -> the same."""
        encoder = self.encoder
        outputs = encoder.outputs(encoder.with_class(encoder.embed(given) + encoder.positions))
        mean = torch.stack([outputs[number - 1] for number in self.blocks]).mean(0)  # blocks 6, 8, 10, 12: their code
        features = encoder.normalise(mean)[:, encoder.class_tokens :]
        image: Tensor = self.head(features)
        return image

    def configure_stage(self, stage: Stage) -> Stage:
        """A weight decay that is a number rises to `final_weight_decay`; a schedule that a recipe names stays."""
        decay = stage.weight_decay
        if self.final_weight_decay is None or isinstance(decay, Ref) or decay == 0:
            return stage
        rising = Ref("cosine", start=decay, end=self.final_weight_decay)
        return stage.model_copy(update={"weight_decay": rising})

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight images: clean crop, what is shown instead, reconstruction; attention; tokens by their colours."""
        clean, _ = self.photometric.pair({name: batch[name][:8] for name in ("view1", "view2", "key")})
        _, given, _ = self.corrupt(clean, batch["key"][:8], 0)
        triples = torch.stack([clean, given, self.reconstruct(given).to(clean.dtype)], dim=1).flatten(0, 1)
        shown = drawing.contact_sheet(views.to_pixels(triples), columns=3)
        return {"reconstruction": shown, **attention_pictures.pictures(self.encoder, clean)}


def paper() -> Recipe:
    """ViT-S/16, 800 epochs on the data set itself, for fine-tuning on it afterwards; no figure claimed, not run by us.

    The authors train with 64 images a GPU and say not on how many: 8 are assumed. 27 GMAC an image and update with
    the backward pass, two to three times MAE's at the same encoder.
    ``unlabel train vision/gmml --recipe paper --data IMAGES``
    """
    return Recipe(
        task=Ref("vision/gmml"),
        encoder=Ref("vision/vit", dim=384, heads=6, drop_path=0.1, pool="avg"),
        dataset=Ref("vision/folder"),
        stages=[
            Stage(
                epochs=800,
                batch_size=512,
                lr=5e-4,
                lr_batch_size=256,
                min_lr=1e-6,
                weight_decay=0.04,
                warmup_epochs=10,
                warmup_inclusive=True,
                clip_tensor_norm=3.0,
            )
        ],
    )


def quick() -> Recipe:
    """A small ViT on 32-pixel images, minutes on two CPU cores.

    ``unlabel train vision/gmml --recipe quick``
    """
    return Recipe(
        task=Ref("vision/gmml", blocks=[2, 3, 4], crop_scale=(0.2, 1.0)),
        encoder=Ref("vision/vit", image_size=32, patch_size=4, dim=128, depth=4, heads=4, pool="avg"),
        dataset=Ref("vision/photos", crop=32),
        stages=[Stage(epochs=5, batch_size=128, lr=1e-3, weight_decay=0.04, warmup_epochs=0.5, clip_tensor_norm=3.0)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/gmml --recipe tiny``"""
    return Recipe(
        task=Ref("vision/gmml", blocks=[1, 2, 4]),
        encoder=Ref("vision/vit", image_size=32, patch_size=4, dim=32, depth=4, heads=4, pool="avg"),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=20, batch_size=16, lr=1e-3, weight_decay=0.04, warmup_steps=2, clip_tensor_norm=3.0)],
    )
