"""What tasks on images have in common apart from their loss: evaluation crops, features, layers.

A task that trains an encoder of whole images derives from `ImageTask`, one that handles a vision transformer's
patches from `PatchTask`, and writes its `loss`. Everything here may be replaced by a task that differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from unlabel import Task
from unlabel.task import Batch, Transform
from unlabel_vision import views
from unlabel_vision.encoders.patch_encoder import PatchEncoder

__all__ = ["ImageTask", "PatchTask"]


class ImageTask(Task):
    """A task whose encoder sees whole images downstream.

    Args:
        encoder: any image encoder.

    Raises:
        UsageError: the encoder does not say its width and image size.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.image_size = views.input_size(encoder)
        self.encoder = encoder

    def eval_transform(self) -> Transform:
        return views.ResizeCenterCrop(self.image_size)

    def finetune_transform(self) -> Transform:
        """Random crops of 8 to 100 % of the area, mirrored half of the time.

        What the published fine-tuning of vision transformers begins with (He et al. 2021, arXiv 2111.06377, appendix
        A.1); RandAugment, erasing, mixup and cutmix are not there.
        """
        return views.RandomResizedCrop(self.image_size)

    def encode(self, batch: Batch) -> Tensor:
        """The encoder's features of the whole image, without any head: (N, dim)."""
        features: Tensor = self.encoder(views.to_float(batch["image"]))
        return features


class PatchTask(ImageTask):
    """A task on the patches of one random crop of each image.

    Its features are the encoder's of the whole image, nothing hidden: class token, or mean over patches.

    Args:
        encoder: one in parts, see `unlabel_vision.encoders.patch_encoder.require_tokens`.
        crop_scale: area of the random crop, as a share of the image.

    Attributes:
        layers: number of blocks, for layer-wise learning rates.
        length: number of patches.
    """

    encoder: PatchEncoder

    evaluations: ClassVar[tuple[str, ...]] = ("linear_probe", "knn")

    # Class tokens of masked models share a large mean: a spread that elsewhere means collapse is ordinary here.
    expected: ClassVar[Mapping[str, tuple[float, float]]] = {"feature_std": (0.05, 2.0)}

    def __init__(self, encoder: PatchEncoder, crop_scale: tuple[float, float]) -> None:
        super().__init__(encoder)
        self.crop_scale = crop_scale
        self.layers = encoder.layers
        self.length = encoder.grid**2

    def layer_of(self, name: str) -> int:
        """Layer of a parameter; whatever is not the encoder comes after it."""
        return self.encoder.layer_of(name) if name.startswith("encoder.") else self.layers + 1

    def transform(self) -> Transform:
        return views.RandomResizedCrop(self.image_size, scale=self.crop_scale)
