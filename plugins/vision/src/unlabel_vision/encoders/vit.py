"""Vision transformer: timm's model, with the one thing masked methods need besides: leaving patches out.

Dosovitskiy et al. 2020, arXiv 2010.11929. The network is timm's, so its weights are timm's weights;
`ViT.tokens` runs it on a subset of the patches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import timm
import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unlabel.errors import UsageError
from unlabel.nn import masking, positions
from unlabel_vision.encoders.timm import Snippet, describe_input, example_images, published

__all__ = ["ViT", "require_tokens", "vit"]


class ViT(nn.Module):
    """A timm vision transformer that can leave patches out.

    Args:
        model: timm's VisionTransformer with one class token and no head (``num_classes=0``).
        name: timm name the model was created by; with `options`, how to create it again.
        options: keywords given to ``timm.create_model``.
        pool: representation, after the final norm: the class token, or the mean over the patches.

    Attributes:
        dim: width. image_size, patch_size: pixels. grid: patches per side. layers: number of blocks.
    """

    def __init__(
        self, model: VisionTransformer, name: str, options: dict[str, Any], pool: Literal["token", "avg"] = "token"
    ):
        super().__init__()
        self.model = model
        # timm's own mean-pooling model would drop the final norm and put another one behind the mean.
        mean = {"global_pool": "avg", "fc_norm": False} if pool == "avg" else {}
        self.snippet = Snippet(name, {**options, **mean})
        self.pool = pool
        self.dim: int = model.embed_dim
        self.image_size: int = model.patch_embed.img_size[0]
        self.patch_size: int = model.patch_embed.patch_size[0]
        self.grid: int = model.patch_embed.grid_size[0]
        self.layers: int = len(model.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Encode whole images.

        Args:
            images: float, (N, 3, S, S), normalised, S = `image_size`.

        Returns:
            (N, dim).
        """
        tokens = self.tokens(images)
        return tokens[:, 0] if self.pool == "token" else tokens[:, 1:].mean(1)

    def tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens after the final norm, of all patches or of those kept.

        Positions are added before patches are left out, and the class token joins after (He et al.,
        arXiv 2111.06377), so that a token knows where it came from.

        Args:
            images: float, (N, 3, S, S), normalised.
            keep: int64, (N, K): patches to keep, row-major indices; None keeps all L.

        Returns:
            (N, 1 + K, dim): class token, then the patches in the order of `keep`.
        """
        model = self.model
        tokens = model.patch_embed(images) + model.pos_embed[:, 1:]  # (N, L, dim)
        if keep is not None:
            tokens = masking.take(tokens, keep)
        first = (model.cls_token + model.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        tokens = model.norm_pre(torch.cat([first.to(tokens.dtype), tokens], dim=1))
        for block in model.blocks:
            tokens = block(tokens)
        normalised: Tensor = model.norm(tokens)
        return normalised

    def fix_positions(self, order: Literal["xy", "yx"] = "xy") -> None:
        """Replace the learned position table by the fixed 2-D sine-cosine one, never trained."""
        table = positions.sincos(self.dim, (self.grid, self.grid), order=order, class_row=True)
        with torch.no_grad():
            self.model.pos_embed.copy_(table)
        self.model.pos_embed.requires_grad_(False)

    def exported(self) -> dict[str, Tensor]:
        """Weights in timm's naming."""
        return dict(self.model.state_dict())

    def loading_code(self, file: str) -> str:
        return self.snippet.code(file)

    def example(self, count: int) -> Tensor:
        return example_images(count, self.image_size)

    def usage(self) -> str:
        return describe_input(self.image_size, self.dim)

    def published(self, scheme: str, name: str) -> dict[str, Tensor]:
        return published(scheme, name)

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The position table interpolated to this grid, if it is of another one."""
        weights = dict(weights)
        table = weights.get("pos_embed")
        if table is not None and table.shape[1] != self.grid**2 + 1:
            side = math.isqrt(table.shape[1] - 1)
            fitted = positions.interpolate(table[0], (side, side), (self.grid, self.grid), prefix_tokens=1)
            weights["pos_embed"] = fitted[None]
        return weights

    def layer_of(self, name: str) -> int:
        """Layer of a parameter for layer-wise learning rates: 0 embedding, i + 1 block i, layers + 1 the rest."""
        parts = name.split(".")
        if "blocks" in parts:
            return int(parts[parts.index("blocks") + 1]) + 1
        embedding = ("patch_embed", "cls_token", "pos_embed", "norm_pre")
        return 0 if any(part in embedding for part in parts) else self.layers + 1


def vit(
    *,
    image_size: int = 224,
    patch_size: int = 16,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    pool: Literal["token", "avg"] = "token",
) -> ViT:
    """A vision transformer, ViT-B/16 by default (Dosovitskiy et al. 2020, arXiv 2010.11929).

    Args:
        image_size: side of the input in pixels; a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        dim: width of the tokens; a multiple of 4 and of `heads`.
        depth: number of blocks.
        heads: attention heads.
        pool: representation: class token, or mean over patches.

    Raises:
        UsageError: the sizes do not fit each other.
    """
    sizes = {"image_size": image_size, "patch_size": patch_size, "dim": dim, "depth": depth, "heads": heads}
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"encoder.{name}={value} is too small: expected at least 1")
    if image_size % patch_size:
        nearest = max(1, round(image_size / patch_size)) * patch_size
        raise UsageError(f"encoder.image_size={image_size} is not a multiple of patch_size={patch_size}; {nearest} is")
    if dim % heads or dim % 4:
        raise UsageError(f"encoder.dim={dim} must be a multiple of 4 and of heads={heads}")
    options = {"img_size": image_size, "patch_size": patch_size, "embed_dim": dim, "depth": depth, "num_heads": heads}
    options["num_classes"] = 0
    return ViT(timm.create_model("vit_base_patch16_224", **options), "vit_base_patch16_224", options, pool)


def maskable(model: nn.Module) -> bool:
    """Whether a timm model is one that `ViT` can run on a subset of its patches.

    A convolutional stem in place of the patch projection is not: its tokens see pixels of other patches.
    """
    return (
        isinstance(model, VisionTransformer)
        and type(model.patch_embed) is PatchEmbed
        and model.patch_embed.grid_size[0] == model.patch_embed.grid_size[1]
        and not model.dynamic_img_size  # its patches come as a grid, not as a sequence
        and model.cls_token is not None
        and model.num_prefix_tokens == 1
        and model.pos_embed is not None
        and model.pos_embed.shape[1] == model.patch_embed.num_patches + 1
    )


def require_tokens(encoder: nn.Module, task: str) -> ViT:
    """The encoder, if it can leave patches out; UsageError saying what fits otherwise."""
    if isinstance(encoder, ViT):
        return encoder
    raise UsageError(
        f"{task} shows the encoder only some of the patches, which {type(encoder).__name__} cannot do; what fits: "
        "--encoder vision/vit, or a timm ViT with one class token, e.g. --encoder vision/timm:vit_small_patch16_224 "
        "(vision/simclr, vision/moco and vision/rotation take any encoder)"
    )
