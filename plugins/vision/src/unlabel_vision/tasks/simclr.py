"""SimCLR: of all views in a batch, recognise the one that shows the same image.

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual Representations", 2020,
arXiv 2002.05709. Two random crops of each image, with random colours and blur, are encoded and projected; each
projection is to be closer to its partner than to the other 2N - 2 of the batch.
Differs from the authors' code in the colour space of the hue jitter (see `unlabel_vision.views`). As there, batch
normalisation and negatives come from the batches of all processes, so their number does not change the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlabel import Recipe, Ref, Stage, engine
from unlabel.nn import batchnorm, gradcache, heads, losses
from unlabel.task import Batch, Transform
from unlabel_vision import views
from unlabel_vision.image_task import ImageTask

__all__ = ["SimCLR", "paper", "quick", "tiny"]


class SimCLR(ImageTask):
    """Contrast of two views.

    Args:
        encoder: any image encoder.
        temperature: divides the cosines; 0.1 is for ImageNet and large batches, 0.5 for 32-pixel images.
        hidden: width of the projector's hidden layer.
        out: width of the projections that are compared.
        strength: of the colour jitter; 1 is for ImageNet, 0.5 for 32-pixel images.
        blur: probability of blurring a view; 0 for 32-pixel images.
        crop_scale: area of the random crops, as a share of the image.
        chunk: views that are encoded at a time, so that a large batch fits into memory, for the time of one more
            forward pass; its encoder must do without batch normalisation. None encodes all at once.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        temperature: float = 0.1,
        hidden: int = 2048,
        out: int = 128,
        strength: float = 1.0,
        blur: float = 0.5,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        chunk: int | None = None,
    ):
        super().__init__(encoder)
        if chunk is not None:
            gradcache.refuse_batchnorm(encoder)
        self.temperature, self.crop_scale, self.chunk = temperature, crop_scale, chunk
        self.photometric = views.Photometric.simclr(strength, blur)
        width: Any = encoder.dim
        self.projector = heads.mlp(width, hidden, out)
        batchnorm.convert(self)  # section 2.3: per-process statistics would tell the partner from the others

    def transform(self) -> Transform:
        crop = views.RandomResizedCrop(self.image_size, scale=self.crop_scale)
        return views.TwoViews(crop, crop)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: `losses.nt_xent` (eq. 1), from ln(2N - 1) for equal embeddings down to 0."""
        first, second = self.photometric.pair(batch)
        return {"loss": self.loss_of(first, second, batch["index"])}

    def loss_of(self, first: Tensor, second: Tensor, index: Tensor | None = None) -> Tensor:
        """The loss of given views.

        Args:
            first, second: float, (N, 3, S, S), normalised.
            index: int64, (N,): which image each is of, so that an image that is there twice is no negative of itself.
        """
        images = torch.cat([first, second])  # in one forward pass
        features = self.encoder(images) if self.chunk is None else gradcache.encode(self.encoder, images, self.chunk)
        z1, z2 = self.projector(features).chunk(2)  # (N, out) each

        # eq. 1, the mean over 2N: L of alg. 1
        return losses.nt_xent(z1, z2, self.temperature, engine.gather, engine.rank(), index)

    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to eight pairs of views, one below the other."""
        return self.photometric.pictures(batch)


def paper() -> Recipe:
    """ResNet-50, 100 epochs: 63.2 % linear probe and 44.8 % k-NN on ImageNet-1K as lightly reports it.

    The batch of 4096 needs several GPUs (or ``--set stages.0.accumulate=N``, with negatives from each
    micro-batch alone). Not run by us.
    ``unlabel train vision/simclr --recipe paper --data IMAGENET``
    """
    return Recipe(
        task=Ref("vision/simclr"),
        encoder=Ref("vision/resnet"),
        dataset=Ref("vision/folder"),
        stages=[
            Stage(
                epochs=100,
                batch_size=4096,
                optimizer="lars",
                lr=0.3,
                lr_batch_size=256,
                weight_decay=1e-6,
                warmup_epochs=10,
            )
        ],
    )


def quick() -> Recipe:
    """A small ResNet on 32-pixel images, minutes on two CPU cores.

    ``unlabel train vision/simclr --recipe quick``
    """
    return Recipe(
        task=Ref("vision/simclr", temperature=0.5, hidden=256, out=64, strength=0.5, blur=0.0, crop_scale=(0.2, 1.0)),
        encoder=Ref("vision/resnet", depth=10, width=16, stem="small", image_size=32),
        dataset=Ref("vision/shapes"),
        stages=[Stage(epochs=20, batch_size=128, lr=1e-3, weight_decay=1e-4, warmup_epochs=1)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/simclr --recipe tiny``"""
    return Recipe(
        task=Ref("vision/simclr", temperature=0.5, hidden=32, out=16, strength=0.5, blur=0.0),
        encoder=Ref("vision/resnet", depth=10, width=8, stem="small", image_size=32),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=4, batch_size=16, optimizer="lars", lr=0.3, lr_batch_size=256, weight_decay=1e-6)],
    )
