"""EVA: hide blocks of an image and predict, where it is hidden, what a frozen teacher sees in the whole image.

Fang, Wang, Xie, Sun, Wu, Wang, Huang, Wang, Cao, "EVA: Exploring the Limits of Masked Visual Representation Learning at
Scale", 2022, arXiv 2211.07636. Predicts the projected features of CLIP's image tower at masked patches, by their
cosine, from the patches that are left; no tokeniser, and no decoder. The variant after MAE, which the authors call
EVA-L, sees the patches that are left alone, and has a decoder: `decoder_depth`.
Follows the authors' code. The result depends on the teacher: its name and hash stand in the run's recipe and beside its
results, so call it "EVA, teacher X". Where no teacher is at hand, ``hog`` (gradients and colours) needs none trained.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import Recipe, Ref, Stage, engine, monitors, seeds
from unlabel.data import Draw
from unlabel.errors import UsageError
from unlabel.frozen import features
from unlabel.frozen.teacher import LazyTeacher
from unlabel.nn import losses, masking
from unlabel.recipe import Group
from unlabel.show import drawing
from unlabel.task import Batch, Sample, Transform
from unlabel_vision import masked_autoencoder, views
from unlabel_vision.encoders.eva import Eva
from unlabel_vision.encoders.patch_encoder import Part, PatchEncoder, require_tokens
from unlabel_vision.image_task import PatchTask
from unlabel_vision.tasks.eva import teacher
from unlabel_vision.tasks.eva.teacher import Teacher

__all__ = [
    "EVA",
    "PairedCrop",
    "PairedView",
    "alternate",
    "block_mask",
    "initialise",
    "negative_cosine",
    "paper",
    "paper_base",
    "paper_large",
    "quick",
    "tiny",
]

_ATTEMPTS = 10


def block_mask(
    rows: int, columns: int, count: int, draw: random.Random, *, min_block: int = 16, min_aspect: float = 0.3
) -> np.ndarray:
    """Hide rectangles until about `count` patches are hidden (Bao et al., arXiv 2106.08254, algorithm 1).

    Args:
        rows, columns: of the grid.
        count: patches to hide at most; fewer where ten rectangles in a row add none or too many.
        draw: source of randomness, called as the authors' code calls Python's.
        min_block: least area of a rectangle. Where fewer are left to hide, areas are drawn between both nevertheless.
        min_aspect: smallest aspect ratio; the largest is its inverse, and its logarithm is uniform.

    Returns:
        bool, (rows, columns), True where hidden.
    """
    mask = np.zeros((rows, columns), dtype=bool)
    hidden = 0
    while hidden < count:
        found = _rectangle(mask, count - hidden, draw, min_block, (math.log(min_aspect), math.log(1 / min_aspect)))
        if found is None:
            break
        mask[found] = True
        hidden = int(mask.sum())
    return mask


def _rectangle(
    mask: np.ndarray, left: int, draw: random.Random, min_block: int, log_aspect: tuple[float, float]
) -> tuple[slice, slice] | None:
    """A rectangle that hides at least one more patch and at most `left`, or None after ten tries."""
    rows, columns = mask.shape
    for _ in range(_ATTEMPTS):
        area = draw.uniform(min_block, left)  # of at least 16 patches; reversed bounds where fewer are left
        aspect = math.exp(draw.uniform(*log_aspect))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= rows or width >= columns:
            continue
        top, first = draw.randint(0, rows - height), draw.randint(0, columns - width)
        place = slice(top, top + height), slice(first, first + width)
        if 0 < (~mask[place]).sum() <= left:
            return place
    return None


def alternate(length: int) -> Tensor:
    """The mask of the authors' validation, every second patch from the first on: bool, (length,)."""
    return torch.arange(length) % 2 == 0


def negative_cosine(prediction: Tensor, target: Tensor, mask: Tensor, denominator: Tensor | None = None) -> Tensor:
    """Minus the mean cosine of the masked tokens: over all tokens of the batch, not over images; in float32 at least.

    Args:
        prediction, target: float, (..., D).
        mask: (...), 1 where a token counts.
        denominator: what to divide by instead of the number of tokens that count; see `losses.masked_mean`.

    Returns:
        Scalar in [-1, 1]; 0 if no token counts.
    """
    kind = torch.promote_types(prediction.dtype, torch.float32)
    cosine = functional.cosine_similarity(prediction.to(kind), target.to(kind), dim=-1, eps=1e-8)
    total = mask.sum() if denominator is None else denominator
    return losses.masked_mean(-cosine, mask, total.clamp(min=1))  # L = -mean over masked tokens of cos


@torch.no_grad()
def initialise(encoder: PatchEncoder, *others: nn.Module | nn.Parameter, std: float = 0.015) -> None:
    """The authors' first weights: normal ones cut at *one* deviation, so that theirs is 0.54 `std`; biases zero.

    Then the last matrices of both branches of block i, counted from 1, are divided by sqrt(2 i).

    Args:
        encoder: its class token and positions are drawn as its matrices are, unless they are fixed.
        others: heads and tokens.
        std: of the normal distribution that is cut.
    """
    for part in (encoder, *others):
        modules = part.modules() if isinstance(part, nn.Module) else ()
        for layer in modules:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=std, a=-std, b=std)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    tokens = [part for part in others if isinstance(part, nn.Parameter)]
    for token in (encoder.model.cls_token, encoder.model.pos_embed, *tokens):
        if token.requires_grad:
            nn.init.trunc_normal_(token, std=std, a=-std, b=std)
    for number, block in enumerate(encoder.model.blocks, start=1):
        for name, parameter in block.named_parameters():
            if name in ("attn.proj.weight", "mlp.fc2.weight"):
                parameter.div_(math.sqrt(2.0 * number))


# --- what a sample becomes, in the loader's worker


@dataclass(frozen=True)
class PairedCrop:
    """A random crop for the student, the same one for the teacher, and a mask.

    ``"image"`` is the student's, ``"mask"`` bool (L,); ``"teacher_image"`` is there if the sizes differ; ``"digest"``
    of the teacher's pixels, uint8 (16,), where crops come again.

    Attributes:
        size, teacher_size: sides in pixels.
        scale: area of the crop, as a share of the image.
        grid: patches per side of the student; 0 makes no mask.
        count, min_block: of `block_mask`.
        crops: how many different crops there are of an image, by its content; 0: new ones each time.
    """

    size: int
    teacher_size: int
    scale: tuple[float, float]
    grid: int
    count: int
    min_block: int
    crops: int = 0

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        image, found, rng = sample["image"], dict(sample), draw.rng
        if self.grid:
            blocks = random.Random(int(rng.integers(2**63)))
            found["mask"] = block_mask(self.grid, self.grid, self.count, blocks, min_block=self.min_block).reshape(-1)
        if self.crops:
            content = int.from_bytes(features.digest(image)[:8].tobytes(), "little")
            rng = seeds.generator(content, int(rng.integers(self.crops)))

        box = views.random_box(image.shape[0], image.shape[1], rng, self.scale, (3 / 4, 4 / 3))
        flip = bool(rng.random() < 0.5)
        found["image"] = views.resize(image, box, (self.size, self.size), flip=flip)
        seen = found["image"]
        if self.teacher_size != self.size:
            seen = found["teacher_image"] = views.resize(image, box, (self.teacher_size, self.teacher_size), flip=flip)
        if self.crops:
            found["digest"] = features.digest(seen)
        return found


@dataclass(frozen=True)
class PairedView:
    """The middle of an image for the student, and the same part for the teacher, without randomness.

    Of an image that has the student's size all is shown, of others what `views.ResizeCenterCrop` shows, but for a
    fraction of a pixel: one box is cut for both.

    Attributes:
        size, teacher_size: sides in pixels.
    """

    size: int
    teacher_size: int

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        height, width = sample["image"].shape[:2]
        whole = (height, width) == (self.size, self.size)
        side = self.size if whole else round(min(height, width) * 224 / 256)
        box = (height - side) // 2, (width - side) // 2, side, side
        found = {**sample, "image": views.resize(sample["image"], box, (self.size, self.size))}
        if self.teacher_size != self.size:
            found["teacher_image"] = views.resize(sample["image"], box, (self.teacher_size, self.teacher_size))
        return found


class EVA(PatchTask):
    """Masked prediction of a frozen teacher's features.

    Args:
        encoder: a ViT with a class token.
        teacher: ``timm:NAME`` or ``open_clip:NAME/TAG`` (published weights, downloaded once if they are not there), the
            folder of a run or of an export, or ``hog`` for gradients and colours, which need no training.
        teacher_weights: a file with weights for the network that `teacher` names, instead of published ones.
        teacher_size: side of the teacher's images in pixels instead of its own, for timm's transformers.
        teacher_hash: what the teacher's hash must be; recorded by a run, so that it goes on with the same teacher.
        teacher_dim: width of the teacher's features; recorded by a run, so that the student needs no teacher later.
        interpolate: let the grids of student and teacher differ: the teacher's features are resampled bilinearly.
        mask_ratio: share of the patches to hide: at most so many with blocks, exactly with a decoder. 0.41 of 256 is
            the authors' 105, "40 %".
        min_block: least area of a block, in patches.
        decoder_depth: blocks of a decoder. 0 is EVA: mask tokens go through the encoder, and masks are blocks. Above 0
            the encoder sees what is left alone, and masks are uniform, as for EVA-L and in MAE.
        decoder_dim: width of the decoder.
        decoder_heads: attention heads of the decoder.
        crops: so many crops of each image come again and again, and the teacher's features of each are kept on disk;
            0 draws new ones, each of which the teacher must see.
        cache: folder for these features; default: in the user's cache.
        init_std: deviation of the first weights, before they are cut.
        crop_scale: area of the random crop, as a share of the image.

    Raises:
        UsageError: a teacher that cannot be had, that is not the recorded one, or whose grid is another; a share that
            hides nothing or everything.
        RunError: published weights cannot be had.
    """

    evaluations: ClassVar[tuple[str, ...]] = ("linear_probe", "knn", "vision/teacher_cosine")

    # A teacher that sees much the same everywhere teaches its mean.
    expected: ClassVar[Mapping[str, tuple[float, float]]] = {**PatchTask.expected, "target_std": (0.1, 2.0)}

    def __init__(
        self,
        encoder: PatchEncoder,
        *,
        teacher: str = "timm:vit_large_patch14_clip_quickgelu_224.openai",
        teacher_weights: str | None = None,
        teacher_size: int | None = None,
        teacher_hash: str | None = None,
        teacher_dim: int | None = None,
        interpolate: bool = False,
        mask_ratio: float = 0.41,
        min_block: int = 16,
        decoder_depth: int = 0,
        decoder_dim: int = 512,
        decoder_heads: int = 16,
        crops: int = 0,
        cache: str | None = None,
        init_std: float = 0.015,
        crop_scale: tuple[float, float] = (0.2, 1.0),
    ):
        super().__init__(require_tokens(encoder, "vision/eva"), crop_scale)
        self.count = round(mask_ratio * self.length)
        if not 0 < self.count < self.length:
            raise UsageError(
                f"mask_ratio {mask_ratio} hides {self.count} of {self.length} patches; 0.41 is the authors', 0.75 that "
                "of their variant with a decoder"
            )
        if not 1 <= min_block <= self.length or crops < 0 or init_std <= 0:
            raise UsageError(
                f"min_block={min_block}, crops={crops}, init_std={init_std}: expected 1 to {self.length}, 0 or more, "
                "and above 0; the authors' are 16, 0 and 0.015"
            )
        self.mask_ratio, self.min_block, self.crops = mask_ratio, min_block, crops
        self.source: dict[str, Any] = {"spec": teacher, "weights": teacher_weights, "image_size": teacher_size}
        self.recorded, self.interpolate = teacher_hash, interpolate
        self.cache_folder = None if cache is None else Path(cache).expanduser()
        self.frozen = LazyTeacher(self._load_teacher)
        width = self.teacher.dim if teacher_dim is None else teacher_dim

        self.decoder: nn.Module | None
        if decoder_depth:
            self.encoder.fix_positions()
            self.decoder = masked_autoencoder.decoder(
                encoder, dim=decoder_dim, depth=decoder_depth, heads=decoder_heads, values=width
            )
            masked_autoencoder.initialise(self.encoder, self.decoder)
        else:
            self.decoder = None
            self.head = nn.Linear(encoder.dim, width)
            self.mask_token = nn.Parameter(torch.empty(1, 1, encoder.dim))
            initialise(self.encoder, self.head, self.mask_token, std=init_std)

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation that the student's pixels are normalised with."""
        return teacher.statistics(self.encoder)

    @property
    def teacher(self) -> Teacher:
        """The teacher, loaded when it is first asked for: a finished student needs none.

        Raises:
            UsageError: see the class.
        """
        return self.frozen.teacher

    def _load_teacher(self) -> Teacher:
        model = teacher.find(**self.source, student=self.encoder)
        if model.grid != self.encoder.grid and not self.interpolate:
            size = self.encoder.grid * model.image_size // model.grid
            raise UsageError(
                f"teacher {model.name} has {model.grid} x {model.grid} patches, the student {self.encoder.grid} x "
                f"{self.encoder.grid}: choose encoder.image_size and encoder.patch_size that give as many, a "
                f"transformer of timm's at task.teacher_size={size}, or task.interpolate=true"
            )
        if self.recorded is not None and model.hash != self.recorded:
            raise UsageError(
                f"teacher {model.name} is not the one of this recipe: its hash is {model.hash[:12]}..., not "
                f"{self.recorded[:12]}...; for another teacher add --set task.teacher_hash=null "
                "--set task.teacher_dim=null"
            )
        return model

    def provenance(self) -> dict[str, Any]:
        """The teacher's name (a folder's or a file's whole path), hash and width."""
        found, weights = self.teacher, self.source["weights"]
        file = {} if weights is None else {"teacher_weights": str(Path(weights).expanduser().absolute())}
        return {"teacher": found.name, **file, "teacher_hash": found.hash, "teacher_dim": found.dim}

    def transform(self) -> Transform:
        grid = 0 if self.decoder else self.encoder.grid
        sizes = self.image_size, self.teacher.image_size
        return PairedCrop(*sizes, self.crop_scale, grid, self.count, self.min_block, self.crops)

    def paired_view(self) -> Transform:
        """What an evaluation that asks the teacher reads."""
        return PairedView(self.image_size, self.teacher.image_size)

    def encode(self, batch: Batch) -> Tensor:
        features: Tensor = self.encoder(views.to_float(batch["image"], *self.statistics))
        return features

    def targets(self, batch: Batch) -> Tensor:
        """The teacher's features of the whole images, for the student's grid: (N, L, D); no gradient."""
        same = self.teacher.image_size == self.image_size
        images = batch["image" if same else "teacher_image"]
        if "digest" in batch:
            tokens = teacher.cached(self.teacher, self.cache_folder).features(images, batch["digest"])
        else:
            tokens = self.teacher.tokens(images)
        return teacher.resampled(tokens, self.encoder.grid)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``, minus the mean cosine of prediction and teacher over all masked patches, and what explains it.

        ``cosine`` is its negative; ``constant`` the cosine that the best single vector would have with the teacher's
        features, above which something has been learnt; ``target_std`` the features' spread, 0 if they are all alike;
        ``hidden`` the share of patches that are masked.
        """
        target = self.targets(batch)
        mask = self.masks(batch)
        loss = self.loss_of(views.to_float(batch["image"], *self.statistics), mask, target)
        with torch.no_grad():
            flat = target.float().flatten(0, 1)
            constant = functional.normalize(flat, dim=-1).mean(0).norm()
            spread = monitors.feature_std(flat)
        share = mask.float().mean()
        return {"loss": loss, "cosine": -loss.detach(), "constant": constant, "target_std": spread, "hidden": share}

    def masks(self, batch: Batch) -> Tensor:
        """Which patches are hidden: bool, (N, L); from the loader, or from each sample's key if there is a decoder."""
        if self.decoder is None:
            mask: Tensor = batch["mask"]
            return mask
        noise = seeds.uniform(batch["key"], (self.length,))
        return masking.split(noise, self.length - self.count).mask.bool()

    def loss_of(self, images: Tensor, mask: Tensor, target: Tensor) -> Tensor:
        """The loss for given masks and teacher's features.

        Args:
            images: float, (N, 3, S, S), normalised.
            mask: bool, (N, L), True where hidden; as many in each row if there is a decoder.
            target: (N, L, D).
        """
        count = mask.float().sum()
        total = engine.gather(count[None]).mean()  # of all processes: theirs hide other numbers of patches
        return negative_cosine(self.predict(images, mask), target, mask, total)

    def predict(self, images: Tensor, mask: Tensor) -> Tensor:
        """The teacher's features of each patch, as the student sees them: (N, 3, S, S), (N, L) -> (N, L, D)."""
        if self.decoder is None:
            whole: Tensor = self.head(self.tokens(images, mask)[:, 1:])
            return whole
        split = masking.split(mask.float(), int((~mask[0]).sum()))
        prediction: Tensor = self.decoder(self.encoder.tokens(images, split.keep), split.restore)
        return prediction

    def tokens(self, images: Tensor, mask: Tensor) -> Tensor:
        """Tokens after the final norm with the mask token where patches are hidden, class token first: (N, 1 + L, dim).

        Hidden patches have their positions.
        """
        return self.encoder.run(self.encoder.with_class(self._masked(images, mask)))

    def _masked(self, images: Tensor, mask: Tensor) -> Tensor:
        embedded = self.encoder.embed(images)
        hidden = self.mask_token.to(embedded.dtype)
        # x (1 - m) + t m, and positions for all, the masked ones too
        return torch.where(mask[..., None], hidden, embedded) + self.encoder.positions

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight images: input, what is visible, the teacher's features, the student's, their cosine, attention.

        Features are shown by their three main directions in the teacher's, as red, green and blue, alike for both; the
        cosine from black (0 or below) to white (1), of every patch, hidden or not. Attention, of an EVA encoder, is
        that of the class token in the last block in the whole image, mean over heads, from its least to its largest.
        """
        few = {name: value[:8] for name, value in batch.items() if isinstance(value, Tensor)}
        images = views.to_float(few["image"], *self.statistics)
        mask, target = self.masks(few), self.targets(few).float()
        prediction = self.predict(images, mask).float()

        size = self.encoder.patch_size
        pixels = torch.from_numpy(views.to_pixels(images, *self.statistics)).permute(0, 3, 1, 2)
        grey = torch.full_like(pixels, 128)
        visible = torch.where(_planes(mask[..., None], size), grey.to(mask.device), pixels.to(mask.device))
        cosine = functional.cosine_similarity(prediction, target, dim=-1)[..., None].clamp(min=0)
        shown = [*_colours(target, prediction), cosine.expand(-1, -1, 3)]
        if isinstance(self.encoder, Eva):
            shown.append(self._attention(images))
        planes = [_planes((255 * values).round().to(torch.uint8), size).cpu() for values in shown]
        rows = torch.stack([pixels.cpu(), visible.cpu(), *planes], dim=1).flatten(0, 1)
        return {"features": drawing.contact_sheet(rows.permute(0, 2, 3, 1).numpy(), columns=2 + len(planes))}

    def _attention(self, images: Tensor) -> Tensor:
        """Where the class token looks in the last block, from least to most: (N, L, 3) in [0, 1]."""
        encoder: Part = self.encoder
        tokens = encoder.with_class(encoder.embed(images) + encoder.positions)
        before = encoder.outputs(tokens)[-2] if self.layers > 1 else tokens
        attention: Tensor = encoder.attention(encoder.model.blocks[-1], before)
        weights = attention[:, :, 0, 1:].float().mean(1)
        least, most = weights.amin(1, keepdim=True), weights.amax(1, keepdim=True)
        result: Tensor = ((weights - least) / (most - least).clamp(min=1e-9))[..., None].expand(-1, -1, 3)
        return result


def _planes(values: Tensor, size: int) -> Tensor:
    """A value of each patch as an image of its patches: (N, L, C) -> (N, C, S, S)."""
    side = math.isqrt(values.shape[1])
    planes: Tensor = values.transpose(1, 2).unflatten(2, (side, side))
    return planes.repeat_interleave(size, 2).repeat_interleave(size, 3)


def _colours(target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Both by the main directions of the first's unit vectors: (N, L, D) twice -> (N, L, 3) twice, in [0, 1]."""
    unit, predicted = functional.normalize(target, dim=-1), functional.normalize(prediction, dim=-1)
    mean = unit.mean((0, 1))
    rows = (unit - mean).flatten(0, 1)
    directions = torch.linalg.svd(rows, full_matrices=False).Vh[:3].T  # (D, at most 3)
    directions = functional.pad(directions, (0, 3 - directions.shape[1]))
    spread = (2 * (rows @ directions).std(0)).clamp(min=1e-6)
    first, second = ((values - mean) @ directions / spread / 2 + 0.5 for values in (unit, predicted))
    return first.clamp(0, 1), second.clamp(0, 1)


def paper() -> Recipe:
    """EVA-g/14 (1.01 billion parameters), 150 epochs, teacher CLIP ViT-L/14: the authors report 89.7 % on ImageNet-1K.

    After fine-tuning on ImageNet-21K first, on 29.6 million images without labels. Downloads OpenAI's weights once;
    ``--set task.teacher_weights=FILE`` reads them from a file. The authors train in fp16. Not
    run by us. Fine-tuning: ``unlabel evaluate RUN finetune --set finetune.layer_decay=0.85``.
    ``unlabel train vision/eva --recipe paper --data IMAGES``
    """
    return Recipe(
        task=Ref("vision/eva", teacher="timm:vit_large_patch14_clip_quickgelu_224.openai"),
        encoder=Ref("vision/eva_vit", drop_path=0.1, statistics="clip"),
        dataset=Ref("vision/folder"),
        stages=[_stage(epochs=150, batch_size=4096, lr=1e-3, betas=(0.9, 0.98))],
    )


def paper_large() -> Recipe:
    """EVA-L: ViT-L/14 sees a quarter of the patches, 150 epochs, teacher EVA-CLIP: 88.0 % at 196 px on ImageNet-1K.

    The authors' figures are after fine-tuning on ImageNet-21K first. Downloads EVA-CLIP's weights (4 GB) once. What the
    authors do not say of this variant is as in `paper`. Not run by us.
    ``unlabel train vision/eva --recipe paper_large --data IMAGES``
    """
    return Recipe(
        task=Ref(
            "vision/eva",
            teacher="timm:eva_giant_patch14_clip_224.laion400m",
            mask_ratio=0.75,
            decoder_depth=4,
        ),
        encoder=Ref("vision/vit", patch_size=14, dim=1024, depth=24, heads=16),
        dataset=Ref("vision/folder"),
        stages=[_stage(epochs=150, batch_size=4096, lr=2.4e-3, betas=(0.9, 0.95))],
    )


def paper_base() -> Recipe:
    """OpenMMLab's version for ViT-B/16, after MAE, 400 epochs, teacher CLIP ViT-B/16: 83.7 % fine-tuned, 69.0 % linear.

    Their figures, on ImageNet-1K; optimizer and schedule are MAE's. Their loss is 2 - 2 cos, twice the gradient, which
    does not change Adam's steps. Downloads OpenAI's weights once. Not run by us.
    ``unlabel train vision/eva --recipe paper_base --data IMAGENET``
    """
    return Recipe(
        task=Ref(
            "vision/eva",
            teacher="timm:vit_base_patch16_clip_quickgelu_224.openai",
            mask_ratio=0.75,
            decoder_depth=8,
        ),
        encoder=Ref("vision/vit"),
        dataset=Ref("vision/folder"),
        stages=[masked_autoencoder.stage(epochs=400)],
    )


def _stage(**options: Any) -> Stage:
    """The authors' optimizer and schedule; of what has two axes, positions and class token are not decayed."""
    common: dict[str, Any] = {"eps": 1e-6, "weight_decay": 0.05, "min_lr": 1e-5, "clip_norm": 3.0}
    common |= {"warmup_epochs": 2, "warmup_inclusive": True}
    spared = [Group(pattern=f"encoder.model.{name}", weight_decay=0.0) for name in ("pos_embed", "cls_token")]
    return Stage(**common, **options, groups=spared)


def quick() -> Recipe:
    """A small ViT on 32-pixel images, teacher gradients and colours: minutes on two CPU cores, nothing downloaded.

    A teacher of your own: ``unlabel train vision/simclr --out runs/teacher``, then
    ``--set task.teacher=runs/teacher --set task.interpolate=true``.
    ``unlabel train vision/eva --recipe quick``
    """
    return Recipe(
        task=Ref("vision/eva", teacher="hog", min_block=4),
        encoder=Ref(
            "vision/eva_vit", image_size=32, patch_size=4, dim=128, depth=4, heads=4, mlp_ratio=4.0, pool="avg"
        ),
        dataset=Ref("vision/photos", crop=32),
        stages=[Stage(epochs=6, batch_size=64, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05, warmup_epochs=0.5)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/eva --recipe tiny``"""
    return Recipe(
        task=Ref("vision/eva", teacher="hog", min_block=1),
        encoder=Ref("vision/eva_vit", image_size=32, patch_size=8, dim=32, depth=2, heads=4, mlp_ratio=4.0),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=20, batch_size=32, lr=1e-3, betas=(0.9, 0.98), warmup_steps=2)],
    )
