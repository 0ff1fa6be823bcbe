"""Rotation: which way up is the image?

Gidaris, Singh, Komodakis, "Unsupervised Representation Learning by Predicting Image Rotations", 2018, arXiv 1803.07728.
Every image enters four times, turned counter-clockwise by 0, 90, 180 and 270 degrees; the turn is to be told from
the pixels. Chance is 25 %.
Differs from the authors' networks, which classify from feature maps of an AlexNet or NIN, in that one linear layer
reads the encoder's pooled features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import Recipe, Ref, Stage
from unlabel.nn import batchnorm
from unlabel.show import drawing
from unlabel.task import Batch, Transform
from unlabel_vision import views
from unlabel_vision.image_task import ImageTask

__all__ = ["Rotation", "paper", "quick", "rotated", "tiny"]


def rotated(images: Tensor) -> tuple[Tensor, Tensor]:
    """Every image at its four orientations.

    Args:
        images: (N, S, S, C), any dtype.

    Returns:
        (4N, S, S, C): all images unturned, then all turned counter-clockwise by 90, by 180, by 270 degrees; and
        int64, (4N,): the number of quarter turns.
    """
    turns = torch.arange(4, device=images.device).repeat_interleave(len(images))
    return torch.cat([torch.rot90(images, turn, dims=(1, 2)) for turn in range(4)]), turns


class Rotation(ImageTask):
    """Prediction of the rotation.

    Args:
        encoder: any image encoder.
        crop_scale: area of the random crop, as a share of the image.
    """

    expected: ClassVar[Mapping[str, tuple[float, float]]] = {"accuracy": (0.3, 1.0)}  # chance is 0.25

    def __init__(self, encoder: nn.Module, *, crop_scale: tuple[float, float] = (0.08, 1.0)):
        super().__init__(encoder)
        self.crop_scale = crop_scale
        width: Any = encoder.dim
        self.head = nn.Linear(width, 4)
        batchnorm.convert(self)

    def transform(self) -> Transform:
        return views.RandomResizedCrop(self.image_size, scale=self.crop_scale)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss", "accuracy"}``: cross-entropy over the four turns, mean over 4N images; ln 4 by chance."""
        images, turns = rotated(batch["image"])

        logits = self.head(self.encoder(views.to_float(images)))  # (4N, 4): F^y of eq. 1, before the softmax

        accuracy = (logits.detach().argmax(dim=1) == turns).float().mean()
        # eq. 2-3: -log F^y(g(X | y)), mean over K = 4 turns and N images, all turns of an image in one batch
        return {"loss": functional.cross_entropy(logits.float(), turns), "accuracy": accuracy}

    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight images at their four orientations, one orientation a row."""
        images = batch["image"][:8]
        return {"rotations": drawing.contact_sheet(rotated(images)[0].cpu().numpy(), columns=len(images))}


def paper() -> Recipe:
    """The paper's schedule for 32-pixel images, with a ResNet-18 instead of its NIN; no figure claimed, not run by us.

    ``unlabel train vision/rotation --recipe paper --data CIFAR10``
    """
    return Recipe(
        task=Ref("vision/rotation"),
        encoder=Ref("vision/resnet", depth=18, stem="small", image_size=32),
        dataset=Ref("vision/folder"),
        stages=[
            Stage(
                epochs=100,
                batch_size=128,
                optimizer="sgd",
                lr=0.1,
                nesterov=True,
                weight_decay=5e-4,
                decay_vectors=True,
                schedule="step",
                milestones=(0.3, 0.6, 0.8),
                gamma=0.2,
            )
        ],
    )


def quick() -> Recipe:
    """A small ResNet on 32-pixel crops of photographs, minutes on two CPU cores.

    Images need an upright: in vision/shapes nothing has one, and accuracy stays at chance.

    ``unlabel train vision/rotation --recipe quick``
    """
    return Recipe(
        task=Ref("vision/rotation", crop_scale=(0.5, 1.0)),
        encoder=Ref("vision/resnet", depth=10, width=16, stem="small", image_size=32),
        dataset=Ref("vision/photos"),
        stages=[Stage(epochs=20, batch_size=128, lr=1e-3, weight_decay=1e-4, warmup_epochs=1)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/rotation --recipe tiny``"""
    return Recipe(
        task=Ref("vision/rotation", crop_scale=(0.5, 1.0)),
        encoder=Ref("vision/resnet", depth=10, width=8, stem="small", image_size=32),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=4, batch_size=16, lr=1e-3, weight_decay=1e-4)],
    )
