"""Vision transformer: timm's model in its parts, so that masked methods can put other things between them.

Dosovitskiy et al. 2020, arXiv 2010.11929. The network is timm's, so its weights are timm's weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import timm
from timm.layers.patch_embed import PatchEmbed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from unlabel.errors import UsageError
from unlabel_vision.encoders.patch_encoder import Attend, Part, PatchEncoder, check_sizes, stepped
from unlabel_vision.encoders.timm import Snippet, preprocessing_code, published

__all__ = ["ViT", "maskable", "vit"]


class _Attending(Block):
    """timm's block, whose attention may be another for a call.

    A call, because sharded parameters are there only while their block is called.
    """

    def forward(  # type: ignore[override]  # timm's calls it by position alone
        self, tokens: Tensor, *more: Any, attend: Attend | None = None, **named: Any
    ) -> Tensor:
        if attend is None:
            after: Tensor = super().forward(tokens, *more, **named)
            return after
        tokens = tokens + self.drop_path1(self.ls1(attend(self.attn, self.norm1(tokens))))
        result: Tensor = tokens + self.drop_path2(self.ls2(self.mlp(self.norm2(tokens))))
        return result


class ViT(PatchEncoder):
    """A timm vision transformer that can leave patches out.

    Args:
        model: timm's VisionTransformer with a class token or without, and no head (``num_classes=0``).
        name: timm name the model was created by; with `options`, how to create it again.
        options: keywords given to ``timm.create_model``.
        pool: representation, after the final norm: the class token, or the mean over the patches.
    """

    def __init__(
        self, model: VisionTransformer, name: str, options: dict[str, Any], pool: Literal["token", "avg"] = "token"
    ):
        blocks: Part = model.blocks
        super().__init__(model, model.embed_dim, blocks[0].attn.num_heads, pool)
        # timm's own mean-pooling model would drop the final norm and put another one behind the mean.
        mean = {"global_pool": "avg", "fc_norm": False} if pool == "avg" else {}
        self.snippet = Snippet(name, {**options, **mean})
        for block in model.blocks:
            if type(block) is Block:
                block.__class__ = _Attending  # the same weights under the same names

    def step(self, block: Part, tokens: Tensor, attend: Attend | None = None) -> Tensor:
        """One of timm's blocks, with its own attention or another: (N, T, dim) -> (N, T, dim)."""
        after: Tensor = stepped(block, tokens) if attend is None else stepped(block, tokens, attend=attend)
        return after

    def loading_code(self, file: str) -> str:
        return self.snippet.code(file)

    def preprocessing_code(self, file: str) -> str:
        return preprocessing_code(file)

    def published(self, scheme: str, name: str) -> dict[str, Tensor]:
        return published(scheme, name)

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The position table interpolated to this grid; a row for the class token is dropped or added (zeros)."""
        weights = dict(weights)
        if "pos_embed" in weights:
            weights["pos_embed"] = self.fitted(weights["pos_embed"])
        return weights


def vit(
    *,
    image_size: int = 224,
    patch_size: int = 16,
    dim: int = 768,
    depth: int = 12,
    heads: int = 12,
    pool: Literal["token", "avg"] = "token",
    class_token: bool = True,
    drop_path: float = 0.0,
) -> ViT:
    """A vision transformer, ViT-B/16 by default (Dosovitskiy et al. 2020, arXiv 2010.11929).

    Args:
        image_size: side of the input in pixels; a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        dim: width of the tokens; a multiple of 4 and of `heads`.
        depth: number of blocks.
        heads: attention heads.
        pool: representation: class token, or mean over patches.
        class_token: whether there is one.
        drop_path: probability of leaving the last block's branches out for a sample in training, from 0 at the first
            block on (Huang et al., arXiv 1603.09382).

    Raises:
        UsageError: the sizes do not fit each other.
    """
    check_sizes(image_size, patch_size, dim, depth, heads, pool, class_token)
    if not 0.0 <= drop_path < 1.0:
        raise UsageError(f"encoder.drop_path={drop_path} is outside [0, 1); 0.1 is usual")
    options: dict[str, Any] = {"img_size": image_size, "patch_size": patch_size}
    options |= {"embed_dim": dim, "depth": depth, "num_heads": heads, "num_classes": 0}
    if not class_token:
        options |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if drop_path:
        options["drop_path_rate"] = drop_path
    model: Part = timm.create_model("vit_base_patch16_224", **options)
    return ViT(model, "vit_base_patch16_224", options, pool)


def maskable(model: Part) -> bool:
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
