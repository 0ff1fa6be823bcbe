"""Feature maps of any image encoder, and images under windows of its input size: what dense evaluations share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unlabel.errors import UsageError
from unlabel.evaluate import dense_probe
from unlabel.evaluate.dense_probe import Covered
from unlabel.evaluate.features import Frozen, Split
from unlabel.nn import patches
from unlabel_vision import views
from unlabel_vision.encoders.patch_encoder import Part, PatchEncoder
from unlabel_vision.encoders.timm import TimmEncoder

__all__ = ["covered", "depth", "enlarged", "four_depths", "maps", "read", "windows"]


def depth(encoder: Part) -> int:
    """How many feature maps an encoder has: one a block, or one a stage of a convolutional network.

    Raises:
        UsageError: an encoder without feature maps; says which have some.
    """
    if isinstance(encoder, PatchEncoder):
        return encoder.layers
    if isinstance(encoder, TimmEncoder) and hasattr(encoder.model, "forward_intermediates"):
        network: Part = encoder.model
        return len(network.feature_info)
    raise UsageError(
        f"a dense evaluation needs feature maps, and {type(encoder).__name__} has none that we know of; what fits: "
        "vision/vit, vision/resnet, vision/timm, or another encoder of patches"
    )


def four_depths(count: int) -> tuple[int, int, int, int]:
    """The maps that segmentation heads take: 3, 5, 7, 11 of 12 blocks, 7, 11, 15, 23 of 24, and alike for others."""
    first, second, third = (max(0, round(count * part / 12) - 1) for part in (4, 6, 8))
    return first, second, third, count - 1


def maps(encoder: Part, images: Tensor, layers: Sequence[int], normalise: bool = True) -> list[Tensor]:
    """Feature maps after some of an encoder's layers.

    Args:
        encoder: see `depth`.
        images: float, (N, 3, S, S), normalised, S the encoder's image size.
        layers: which, in [0, depth).
        normalise: put an encoder of patches' final norm behind each.

    Returns:
        float, (N, D, grid, grid) of each layer, in the order of `layers`; class tokens are left out.
    """
    if isinstance(encoder, PatchEncoder):
        outputs = encoder.outputs(encoder.with_class(encoder.embed(images) + encoder.positions))
        layers_tokens = [encoder.normalise(outputs[layer]) if normalise else outputs[layer] for layer in layers]
        return [
            tokens[:, encoder.class_tokens :].transpose(1, 2).unflatten(2, (encoder.grid, encoder.grid))
            for tokens in layers_tokens
        ]
    depth(encoder)  # refuses what has none
    stages: list[Tensor] = encoder.model.forward_intermediates(
        images, indices=sorted(set(layers)), norm=normalise, intermediates_only=True
    )
    by_layer = dict(zip(sorted(set(layers)), stages, strict=True))
    return [by_layer[layer] for layer in layers]


def enlarged(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of an image whose short side is resampled to `size`; proportions kept to half a pixel."""
    short = min(height, width)
    return max(size, round(height * size / short)), max(size, round(width * size / short))


def windows(image: np.ndarray, size: int, stride: float) -> tuple[Tensor, list[tuple[int, ...]], tuple[int, int]]:
    """Resample an image's short side to `size`, and cover it with square windows of that side.

    Args:
        image: uint8, (H, W, 3).
        size: side of the windows in pixels.
        stride: distance of windows, in windows: 2/3 overlaps by a third.

    Returns:
        uint8, (W, size, size, 3): the windows; where each begins; and the size of the resampled image.
    """
    whole = (image.shape[0], image.shape[1])
    resampled = enlarged(*whole, size)
    pixels = views.resize(image, (0, 0, *whole), resampled)
    places = dense_probe.corners(resampled, (size, size), (math.ceil(stride * size),) * 2)
    cut = [pixels[top : top + size, left : left + size] for top, left in places]
    return torch.from_numpy(np.stack(cut)), places, resampled


def read(frozen: Frozen, split: Split, who: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and label maps of the samples of a split that can be read, in ascending order.

    Args:
        frozen: what is judged; unreadable images are in its ``bad``.
        split: which samples.
        who: name of the evaluation, for messages.

    Yields:
        uint8, (H, W, 3), and int64, (H, W).

    Raises:
        UsageError: no label maps, or one that cannot be used: it is named.
    """
    part = dense_probe.label_maps(frozen, split, who)
    for index, sample in frozen.samples(split):
        yield sample["image"], part.label_map(index).astype(np.int64)


def covered(
    frozen: Frozen, split: Split, who: str, *, layers: Sequence[int] | None, stride: float, raw: bool = False
) -> Iterator[Covered]:
    """The samples of a split under windows, with the feature maps of a frozen encoder.

    Args:
        frozen: what is judged.
        split: which samples.
        who: name of the evaluation, for messages.
        layers: maps of these layers, one on another; None: the last.
        stride: see `windows`.
        raw: in place of features, the pixels of each cell: (W, 3 p^2, grid, grid).

    Raises:
        UsageError: as `read`, or an encoder without feature maps.
    """
    encoder: Part = frozen.task.encoder
    size, wanted = views.input_size(encoder), [depth(encoder) - 1] if layers is None else list(layers)
    for image, labels in read(frozen, split, who):
        cut, places, resampled = windows(image, size, stride)
        pixels = views.to_float(frozen.engine.to_device({"image": cut})["image"])
        with torch.inference_mode(), frozen.engine.autocast():
            planes = maps(encoder, pixels, wanted)
            grid = planes[-1].shape[2]
            if raw:
                side = max(1, size // grid)
                planes = [patches.patchify(pixels, side).transpose(1, 2).unflatten(2, (size // side,) * 2)]
            features = torch.cat(planes, dim=1).float()
        yield Covered(features, places, (size, size), resampled, torch.from_numpy(labels))
