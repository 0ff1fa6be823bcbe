"""Any image model of timm as an encoder, by its timm name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unlabel.errors import RunError, UsageError, nearest
from unlabel_vision import views

__all__ = ["Snippet", "TimmEncoder", "timm_encoder"]


@dataclass(frozen=True)
class Snippet:
    """How to create a model again with timm alone: what an export's README says, and its test runs.

    Attributes:
        name: timm model name. options: keywords of ``timm.create_model``.
        changes: lines of Python applied to ``model`` after creation, before weights are loaded.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()

    def code(self, file: str) -> str:
        """Python that leaves ``model`` with the weights of `file` loaded."""
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        if not self.changes:
            return (
                f"import timm\n\nmodel = timm.create_model({self.name!r}{options}, checkpoint_path={file!r}).eval()\n"
            )
        lines = ["import timm", "import torch", "from safetensors.torch import load_file", ""]
        lines += [f"model = timm.create_model({self.name!r}{options})", *self.changes]
        return "\n".join([*lines, f"model.load_state_dict(load_file({file!r}))", "model.eval()", ""])


class TimmEncoder(nn.Module):
    """A timm model whose output is its pooled features.

    Args:
        model: created with ``num_classes=0``.
        snippet: how to create it again.
        image_size: side of the input in pixels.

    Attributes:
        dim: width of the features. image_size: pixels.
    """

    def __init__(self, model: nn.Module, snippet: Snippet, image_size: int):
        super().__init__()
        self.model = model
        self.snippet = snippet
        self.image_size = image_size
        self.dim = int(model.num_features)  # type: ignore[arg-type]  # timm's models all have it

    def forward(self, images: Tensor) -> Tensor:
        """Encode: float, (N, 3, S, S), normalised -> (N, dim)."""
        features: Tensor = self.model(images)
        return features

    def exported(self) -> dict[str, Tensor]:
        """Weights in timm's naming."""
        return dict(self.model.state_dict())

    def loading_code(self, file: str) -> str:
        return self.snippet.code(file)

    def example(self, count: int) -> Tensor:
        return example_images(count, self.image_size)

    def usage(self) -> str:
        return describe_input(self.image_size, self.dim)

    def preprocessing(self) -> dict[str, Any]:
        return preprocessing(self.image_size)

    def preprocessing_code(self, file: str) -> str:
        return preprocessing_code(file)

    def published(self, scheme: str, name: str) -> dict[str, Tensor]:
        return published(scheme, name)

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(weights)


def example_images(count: int, size: int) -> Tensor:
    """Noise in the range of normalised images: float32, (count, 3, size, size), always the same."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def describe_input(size: int, dim: int) -> str:
    """Shapes and normalisation, for an export's README."""
    return (
        f"Input: float32, (N, 3, {size}, {size}), RGB in [0, 1], then minus {views.IMAGENET_MEAN} and divided by "
        f"{views.IMAGENET_STD} per channel. Output: features, (N, {dim})."
    )


def preprocessing(
    size: int, mean: tuple[float, ...] = views.IMAGENET_MEAN, std: tuple[float, ...] = views.IMAGENET_STD
) -> dict[str, Any]:
    """Size and normalisation as timm's configurations of data say them; cropping is the task's."""
    return {"input_size": [3, size, size], "mean": list(mean), "std": list(std)}


def preprocessing_code(file: str) -> str:
    """Python that leaves ``transform``, from an image of PIL to the encoder's input.

    timm resizes an image of exactly the input's size, too; our evaluations leave such a one alone.
    """
    return (
        "import json\nfrom pathlib import Path\n\nfrom timm.data import create_transform\n\n"
        f"transform = create_transform(**json.loads(Path({file!r}).read_text()))\n"
    )


def published(scheme: str, name: str) -> dict[str, Tensor]:
    """Weights that timm publishes under a name; downloads them if they are not cached.

    Raises:
        UsageError: another library than timm, or an unknown name. RunError: they cannot be had.
    """
    if scheme != "timm":
        raise UsageError(f"--init {scheme}:{name}: published weights are known as timm:NAME")
    if not timm.is_model(name.partition(".")[0]):
        raise UsageError(
            f"--init timm:{name}: timm has no such model{nearest(name, timm.list_models(pretrained=True))}"
        )
    try:
        return dict(timm.create_model(name, pretrained=True).state_dict())
    except Exception as error:  # the hub's client raises many kinds: no network, no such file, no weights
        raise RunError(f"--init timm:{name}: the weights cannot be had ({type(error).__name__}: {error})") from error


def timm_encoder(*, name: str, image_size: int | None = None) -> nn.Module:
    """Any timm model by name, freshly initialised (``--init timm:NAME`` loads published weights).

    Args:
        name: timm model name, e.g. ``resnet50``, ``convnext_tiny``, ``vit_small_patch16_224``.
        image_size: side of the input in pixels; default: the model's own.

    Raises:
        UsageError: unknown name (with the nearest), or a size the model cannot take.
    """
    from unlabel_vision.encoders.vit import ViT, maskable

    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    options: dict[str, Any] = {"num_classes": 0}
    published: Any = timm.get_pretrained_cfg(name)
    size = image_size or int(published.input_size[-1])
    sized: dict[str, Any] = {"img_size": image_size} if image_size else {}
    try:
        model: Any = timm.create_model(name, **options, **sized)
        options |= sized
    except TypeError:  # convolutional models take any size and have no such keyword
        model = timm.create_model(name, **options)
    except AssertionError as error:
        raise UsageError(f"timm model {name!r} cannot take images of {image_size} pixels: {error}") from error
    patch = model.patch_embed.patch_size[0] if isinstance(model, VisionTransformer) else 1
    if size % patch:
        near = max(1, round(size / patch)) * patch
        raise UsageError(f"encoder.image_size={size}: {name} cuts patches of {patch} pixels; {near} is a multiple")
    if maskable(model) and model.global_pool == "token":
        return ViT(model, name, options)
    return TimmEncoder(model, Snippet(name, options), size)
