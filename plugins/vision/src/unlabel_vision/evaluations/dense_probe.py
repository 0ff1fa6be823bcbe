"""Dense probe: a linear classifier of the features of each patch, scored on every pixel.

Learning and scoring are those of `unlabel.evaluate.dense_probe`; here are images. The short side is resampled to the
encoder's input size, and square windows cover the image, a third overlapping, as in the sliding-window tests of
ADE20K (stride 341 of 512). The encoder is frozen. Data: anything with masks, e.g. ``--data FOLDER`` with ``images/``
and ``masks/``, see vision/segmentation, or ``--data vision/shapes``.
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from unlabel.errors import UsageError
from unlabel.evaluate import dense_probe as dense
from unlabel.evaluate.features import Frozen, Inputs, evaluating
from unlabel_vision.evaluations import feature_maps

__all__ = ["dense_probe"]


def dense_probe(
    frozen: Frozen,
    *,
    layers: int = 1,
    stride: float = 2 / 3,
    grid: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0),
    places: int = 50_000,
    resampling: Literal["linear", "nearest"] = "linear",
    inputs: Inputs = "features",
) -> dict[str, float]:
    """Mean intersection over union of a linear classifier of each patch's features, on the held-out images' pixels.

    Args:
        frozen: what to judge.
        layers: feature maps of so many of the last layers, side by side; all must have one resolution.
        stride: distance of the windows that cover an image, in windows, in (0, 1].
        grid: strengths C of the classifier to choose from, on a fifth of the training images.
        places: use at most so many patches of all training images to learn from.
        resampling: of the scores, from patches to pixels.
        inputs: ``"features"``, or ``"raw"`` for the control: the pixels of each patch.

    Returns:
        ``mean_iou``, ``accuracy`` of the pixels, ``class_accuracy``, ``iou_NAME`` of each class, and the ``C`` chosen.

    Raises:
        UsageError: no masks, no held-out part, a mask that cannot be used, an encoder without feature maps, or a
            keyword out of range.
    """
    if not 0 < stride <= 1:
        raise UsageError(f"stride={stride:g} is outside (0, 1]: windows must cover the image; 0.667 is usual")
    who = "vision/dense_probe"
    count = feature_maps.depth(frozen.task.encoder)
    if not 1 <= layers <= count:
        raise UsageError(f"layers={layers}: the encoder has {count}")
    dense.label_maps(frozen, "test", who)  # first: if it is missing, the user learns at once
    classes = dense.label_maps(frozen, "train", who).map_classes
    cover = partial(
        feature_maps.covered,
        frozen,
        who=who,
        layers=range(count - layers, count),
        stride=stride,
        raw=inputs == "raw",
    )
    with evaluating(frozen.task):
        return dense.probe(
            lambda: cover("train"),
            lambda: cover("test"),
            classes,
            items=len(frozen.indices("train")),
            grid=grid,
            places=places,
            seed=frozen.seed,
            resampling=resampling,
            device=frozen.engine.device,
        )
