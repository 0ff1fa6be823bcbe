"""Frozen teachers: networks whose features of each patch a student is to predict.

What a teacher is to a run is said in `unlabel.frozen`. Of one that sees images the hash is of its weights and of what
it does to pixels. Where images have a few fixed crops, `cached` computes each crop's features once.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import export
from unlabel.errors import RunError, UsageError, nearest
from unlabel.frozen import teacher as frozen
from unlabel.frozen.features import Cache
from unlabel_vision import views
from unlabel_vision.encoders.eva import Eva
from unlabel_vision.encoders.patch_encoder import Part, PatchEncoder
from unlabel_vision.encoders.timm import TimmEncoder

__all__ = [
    "GradientsAndColors",
    "Teacher",
    "cached",
    "find",
    "histograms",
    "resampled",
    "spatial",
    "statistics",
]

_ORIENTATIONS = 9


class Teacher(frozen.Teacher):
    """A frozen network that gives features for each patch of a square grid.

    Args:
        name: what the user calls it.
        architecture: what its weights alone do not say; part of its hash.
        network: module (N, 3, S, S) -> (N, L, dim), or with (N, dim, side, side) or (N, side, side, dim).
        image_size: side S of its images in pixels.
        mean, std: per channel, that its pixels are normalised with, of values in [0, 1].

    Attributes:
        name, image_size, mean, std: as given. network: in evaluation mode, nothing in it trainable.
        dim: width of the features. grid: patches per side.
        hash: sha256 of the weights, the architecture and the preprocessing, hexadecimal.

    Raises:
        UsageError: its features are on no square grid.
    """

    def __init__(
        self,
        name: str,
        architecture: str,
        network: Part,
        image_size: int,
        mean: tuple[float, ...] = views.IMAGENET_MEAN,
        std: tuple[float, ...] = views.IMAGENET_STD,
    ):
        self.image_size = image_size
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        blank = torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8)
        with torch.no_grad():
            _, length, self.dim = network.eval()(views.to_float(blank, self.mean, self.std)).shape
        self.grid = math.isqrt(length)
        if self.grid**2 != length:
            raise UsageError(f"teacher {name} gives {length} patches of an image, which are no square grid")
        facts = [architecture, image_size, self.mean, self.std, self.dim, self.grid]
        super().__init__(name, network, facts)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def tokens(self, images: Tensor) -> Tensor:
        """Features of whole images, in the precision of the autocast around it.

        Args:
            images: uint8, (N, S, S, 3).

        Returns:
            (N, L, dim), row-major; no gradient.
        """
        features: Tensor = self(views.to_float(images, self.mean, self.std))
        return features


def cached(teacher: Teacher, folder: Path | None = None) -> Cache:
    """A teacher's features of crops that come again, (L, dim) each: 0.8 MB for 256 patches of width 768."""
    return Cache(teacher, teacher.tokens, (teacher.grid**2, teacher.dim), folder=folder)


def resampled(tokens: Tensor, grid: int) -> Tensor:
    """Features for a grid of another size, bilinearly: (N, L, dim) -> (N, grid^2, dim); as they are if it is theirs."""
    side = math.isqrt(tokens.shape[1])
    if side == grid:
        return tokens
    planes = tokens.transpose(1, 2).unflatten(2, (side, side)).float()
    planes = functional.interpolate(planes, size=(grid, grid), mode="bilinear", align_corners=False)
    return planes.flatten(2).transpose(1, 2)


# --- which teachers there are


def find(spec: str, weights: str | None = None, image_size: int | None = None, *, student: PatchEncoder) -> Teacher:
    """The teacher a user means.

    Args:
        spec: ``timm:NAME``, ``open_clip:NAME/TAG``, a run's or an export's folder, or ``hog``. The first two load
            published weights, and download them if they are not there.
        weights: a file with weights for the network that `spec` names, instead of published ones.
        image_size: side of its images in pixels, instead of its own; timm's transformers alone.
        student: whose patches hand-made features are of.

    Raises:
        UsageError: unknown, or it gives no features for patches; says what there is. RunError: weights cannot be had.
    """
    if spec == "hog":
        network = GradientsAndColors(student.patch_size)
        return Teacher("hog", network.architecture, network, student.image_size, (0.0,) * 3, (1.0,) * 3)
    scheme, colon, name = spec.partition(":")
    if colon and scheme == "timm":
        return _timm(spec, name, weights, image_size)
    if colon and scheme == "open_clip":
        return _open_clip(spec, name, weights)
    path = Path(spec).expanduser()
    if path.name == "encoder.safetensors":
        path = path.parent
    if path.is_dir():
        return _trained(spec, path)
    raise UsageError(
        f"teacher {spec!r} is none: expected timm:NAME (timm:vit_base_patch16_clip_quickgelu_224.openai), "
        "open_clip:NAME/TAG (open_clip:ViT-B-16-quickgelu/openai), the folder of a run or of an export, or hog"
    )


def _timm(spec: str, name: str, weights: str | None, image_size: int | None) -> Teacher:
    """A model of timm; of a CLIP the projection that is meant for its class token is applied to every patch."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UsageError(f"teacher {spec}: timm has no such model{nearest(architecture, timm.list_models())}")
    options: dict[str, Any] = {"img_size": image_size} if image_size else {}
    if weights is not None:
        if not Path(weights).expanduser().is_file():
            raise UsageError(f"teacher_weights={weights}: there is no such file")
        options["pretrained_cfg_overlay"] = {"file": str(Path(weights).expanduser())}
    try:
        model: Part = timm.create_model(name, pretrained=True, **options)
    except TypeError as error:
        if not image_size:
            raise
        raise UsageError(f"teacher_size={image_size}: {name} takes images of any size or of its own only") from error
    except Exception as error:  # the hub's client and the file's reader raise many kinds
        raise RunError(f"teacher {spec}: its weights cannot be had ({type(error).__name__}: {error})") from error
    config = model.pretrained_cfg
    projected = "clip" in architecture and "_ft_" not in tag  # after fine-tuning the head is a classifier
    network = _Timm(model, model.get_classifier() if projected else nn.Identity())
    side = image_size or int(config["input_size"][-1])
    return Teacher(spec, f"timm:{architecture}", network, side, config["mean"], config["std"])


class _Timm(nn.Module):
    """A timm model's last features of each patch, and what is applied to each of them."""

    def __init__(self, model: Part, projection: nn.Module):
        super().__init__()
        self.model = model
        self.projection = projection if isinstance(projection, nn.Linear) else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.projection(spatial(self.model, images))
        return result


def spatial(model: Part, images: Tensor) -> Tensor:
    """The last features of a timm model for each patch or place: (N, 3, S, S) -> (N, L, D)."""
    features: Tensor = model.forward_features(images)
    if features.ndim == 3:
        return features[:, getattr(model, "num_prefix_tokens", 0) :]  # models of patches alone do not say that they are
    width = model.num_features
    if features.ndim == 4 and features.shape[1] == width:
        return features.flatten(2).transpose(1, 2)
    if features.ndim == 4 and features.shape[3] == width:  # transformers with windows have channels last
        return features.flatten(1, 2)
    raise UsageError(f"{type(model).__name__} gives features of shape {tuple(features.shape)}, none for each patch")


def _open_clip(spec: str, name: str, weights: str | None) -> Teacher:
    """The image tower of a model of open_clip; its projection is applied to every patch."""
    try:
        import open_clip
    except ImportError as error:
        raise UsageError(f"teacher {spec} needs open_clip: `pip install open-clip-torch`") from error
    architecture, _, tag = name.partition("/")
    if open_clip.get_model_config(architecture) is None:
        known = open_clip.list_models()
        raise UsageError(f"teacher {spec}: open_clip has no model {architecture!r}{nearest(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if weights is None and tag not in tags:
        raise UsageError(
            f"teacher {spec}: open_clip has weights {', '.join(tags) or 'of no tag'} for {architecture}"
            f"{nearest(tag, tags)}; write open_clip:{architecture}/TAG, or give a file with teacher_weights"
        )
    if weights is not None and not Path(weights).expanduser().is_file():
        raise UsageError(f"teacher_weights={weights}: there is no such file")
    source = tag if weights is None else str(Path(weights).expanduser())
    try:
        visual = open_clip.create_model(architecture, pretrained=source, weights_only=True).visual
    except Exception as error:  # the hub's client and the file's reader raise many kinds
        raise RunError(f"teacher {spec}: its weights cannot be had ({type(error).__name__}: {error})") from error
    size = visual.image_size[0] if isinstance(visual.image_size, tuple | list) else int(visual.image_size)
    config = visual.preprocess_cfg
    return Teacher(spec, f"open_clip:{architecture}", _OpenClip(visual, spec), size, config["mean"], config["std"])


class _OpenClip(nn.Module):
    """An image tower of open_clip: normalised and projected patches of its last block, without the class token."""

    def __init__(self, visual: nn.Module, spec: str):
        super().__init__()
        from open_clip.transformer import VisionTransformer

        if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.proj is None:
            raise UsageError(
                f"teacher {spec}: its image tower ({type(visual).__name__}) has no projection that fits patches; take "
                "a ViT of open_clip that reads its class token, or the model of timm's of the same weights"
            )
        self.visual = visual

    def forward(self, images: Tensor) -> Tensor:
        outputs = self.visual.forward_intermediates(
            images, indices=1, normalize_intermediates=True, intermediates_only=True, output_fmt="NLC"
        )
        return outputs["image_intermediates"][-1] @ self.visual.proj  # type: ignore[no-any-return]


def _trained(spec: str, path: Path) -> Teacher:
    """An encoder that was trained here."""
    encoder = export.load_encoder(path)
    side = views.input_size(encoder)
    if not isinstance(encoder, PatchEncoder | TimmEncoder):
        raise UsageError(f"teacher {spec}: its encoder {type(encoder).__name__} gives no features for patches")
    mean, std = statistics(encoder)
    how = encoder.loading_code("")  # says what weights of the same shapes do not: the number of heads, for one
    return Teacher(str(path.absolute()), how, _Trained(encoder), side, mean, std)


def statistics(encoder: Part) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation, per channel, that the images of an encoder are normalised with."""
    return (encoder.mean, encoder.std) if isinstance(encoder, Eva) else (views.IMAGENET_MEAN, views.IMAGENET_STD)


class _Trained(nn.Module):
    """The patches of an encoder of this plugin, after its final norm."""

    def __init__(self, encoder: PatchEncoder | TimmEncoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        if isinstance(self.encoder, PatchEncoder):
            return self.encoder.tokens(images)[:, self.encoder.class_tokens :]
        return spatial(self.encoder.model, images)


class GradientsAndColors(nn.Module):
    """Histograms of oriented gradients and mean colours of the cells of each patch: a teacher nobody has to train.

    Each patch has two by two cells (one, if its side is odd). A cell's numbers are a histogram of nine unsigned
    orientations, in which every pixel counts with the length of its gradient, of the colour where that is longest
    (Dalal and Triggs, CVPR 2005), divided by the number of pixels, and of each the square root, so that faint edges
    count beside strong ones (Arandjelovic and Zisserman, CVPR 2012); and half of its mean colour minus one half. Cells
    are not normalised, which would make noise of what is flat: a cosine normalises whole patches.

    Args:
        patch_size: side of a patch in pixels.
    """

    def __init__(self, patch_size: int):
        super().__init__()
        self.patch_size = patch_size
        self.cell = patch_size // 2 if patch_size % 2 == 0 else patch_size

    @property
    def architecture(self) -> str:
        """What it computes; it has no weights."""
        return f"hog, {_ORIENTATIONS} orientations, cells of {self.cell} pixels, mean colours, version 2"

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, S, S) in [0, 1] -> float32, (N, L, 12 * cells)."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            colours = functional.avg_pool2d(images, self.cell) - 0.5
            cells = torch.cat([histograms(images, self.cell).sqrt(), colours / 2], dim=1)
            each = self.patch_size // self.cell
            return functional.unfold(cells, each, stride=each).transpose(1, 2)


def histograms(images: Tensor, cell: int) -> Tensor:
    """Mean length of the gradients of each orientation in each cell: (N, 3, H, W) -> (N, 9, H / cell, W / cell)."""
    rows, columns = torch.zeros_like(images), torch.zeros_like(images)
    rows[:, :, 1:-1] = images[:, :, 2:] - images[:, :, :-2]
    columns[:, :, :, 1:-1] = images[:, :, :, 2:] - images[:, :, :, :-2]
    length, strongest = torch.hypot(rows, columns).max(1, keepdim=True)  # (N, 1, H, W)
    rows, columns = rows.gather(1, strongest), columns.gather(1, strongest)
    turn = torch.atan2(rows, columns).remainder(math.pi) / math.pi * _ORIENTATIONS  # the direction does not matter
    place = turn.floor().long().clamp(max=_ORIENTATIONS - 1)
    spread = length.new_zeros(len(images), _ORIENTATIONS, *images.shape[2:]).scatter_(1, place, length)
    return functional.avg_pool2d(spread, cell)
