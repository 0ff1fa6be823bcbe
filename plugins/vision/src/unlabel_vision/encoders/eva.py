"""EVA's vision transformer: queries and values have biases, keys none; otherwise a plain pre-norm ViT.

Fang et al. 2022, arXiv 2211.07636. The network is timm's, so its weights are timm's weights: timm's EVA, or, with
relative positions that all blocks share, timm's BEiT (Bao et al., arXiv 2106.08254).

The authors compute scores and softmax of the attention in float32 under mixed precision; the fused kernels used here
do so too, from queries and keys in the precision of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import timm
from timm.models.beit import Beit
from torch import Tensor, nn
from torch.nn import functional

from unlabel.errors import UsageError
from unlabel_vision import views
from unlabel_vision.encoders.patch_encoder import Attend, Part, PatchEncoder, check_sizes
from unlabel_vision.encoders.timm import Snippet, preprocessing, preprocessing_code, published

__all__ = ["Eva", "eva_vit"]


class _Parts:
    """The attention of a timm EVA or BEiT block in the parts that `project` and `merged` ask for."""

    def __init__(self, attention: Part):
        self.attention = attention

    def project(self, tokens: Tensor, keys: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """As `unlabel_vision.encoders.patch_encoder.project`."""
        own, heads, width = self.attention, self.attention.num_heads, len(self.attention.q_bias)
        first = tokens if keys is None else tokens[:, :keys]
        query = functional.linear(tokens, own.qkv.weight[:width], own.q_bias)
        key = functional.linear(first, own.qkv.weight[width : 2 * width])
        value = functional.linear(first, own.qkv.weight[2 * width :], own.v_bias)
        query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
        return query, key, value

    def merged(self, mixed: Tensor) -> Tensor:
        """As `unlabel_vision.encoders.patch_encoder.merged`."""
        output: Tensor = self.attention.proj_drop(self.attention.proj(mixed.transpose(1, 2).flatten(2)))
        return output


class Eva(PatchEncoder):
    """A timm EVA, or BEiT with shared relative positions, in its parts.

    Args:
        model: without a head (``num_classes=0``), with a class token, without layer scale.
        snippet: how to create it again.
        heads: attention heads.
        pool: representation, after the final norm: the class token, or the mean over the patches.
        mean, std: per channel, of the images it is meant for, of values in [0, 1].

    Attributes:
        mean, std: as given.
    """

    def __init__(
        self,
        model: Part,
        snippet: Snippet,
        heads: int,
        pool: Literal["token", "avg"],
        mean: tuple[float, ...] = views.IMAGENET_MEAN,
        std: tuple[float, ...] = views.IMAGENET_STD,
    ):
        super().__init__(model, model.embed_dim, heads, pool)
        self.snippet, self.mean, self.std = snippet, mean, std
        self.relative = isinstance(model, Beit)

    def step(self, block: Part, tokens: Tensor, attend: Attend | None = None) -> Tensor:
        """One of the blocks, with its own attention or another: (N, T, dim) -> (N, T, dim).

        Raises:
            UsageError: with relative positions, if patches are left out or the attention is another.
        """
        if self.relative:
            if attend is not None or tokens.shape[1] != self.grid**2 + 1:
                raise UsageError(
                    "encoder.relative_positions=true needs all patches and its own attention, which this task "
                    "changes: leave it out"
                )
            after: Tensor = block(tokens, shared_rel_pos_bias=self.model.rel_pos_bias().to(tokens.dtype))
            return after
        if attend is None:
            plain: Tensor = block(tokens)
            return plain
        tokens = tokens + block.drop_path1(attend(_Parts(block.attn), block.norm1(tokens)))
        result: Tensor = tokens + block.drop_path2(block.mlp(block.norm2(tokens)))
        return result

    def attention(self, block: Part, tokens: Tensor) -> Tensor:
        """How much each token attends to each in a block, given what enters it: (N, T, dim) -> (N, heads, T, T)."""
        query, key, _ = _Parts(block.attn).project(block.norm1(tokens))
        scores: Tensor = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        if self.relative:
            scores = scores + self.model.rel_pos_bias()
        return scores.softmax(-1)

    def loading_code(self, file: str) -> str:
        return self.snippet.code(file)

    def usage(self) -> str:
        return (
            f"Input: float32, (N, 3, {self.image_size}, {self.image_size}), RGB in [0, 1], then minus {self.mean} and "
            f"divided by {self.std} per channel. Output: features, (N, {self.dim})."
        )

    def preprocessing(self) -> dict[str, Any]:
        return preprocessing(self.image_size, self.mean, self.std)

    def preprocessing_code(self, file: str) -> str:
        return preprocessing_code(file)

    def published(self, scheme: str, name: str) -> dict[str, Tensor]:
        return published(scheme, name)

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The position table interpolated to this grid; the norm behind a mean over patches is the final norm."""
        fitted = {name.removeprefix("fc_") if name.startswith("fc_norm.") else name: w for name, w in weights.items()}
        if "pos_embed" in fitted:
            fitted["pos_embed"] = self.fitted(fitted["pos_embed"])
        return fitted


def eva_vit(
    *,
    image_size: int = 224,
    patch_size: int = 14,
    dim: int = 1408,
    depth: int = 40,
    heads: int = 16,
    mlp_ratio: float = 6144 / 1408,
    pool: Literal["token", "avg"] = "token",
    drop_path: float = 0.0,
    relative_positions: bool = False,
    statistics: Literal["imagenet", "clip"] = "imagenet",
) -> Eva:
    """EVA's vision transformer, EVA-g/14 by default: 1.01 billion parameters (Fang et al. 2022, arXiv 2211.07636).

    Args:
        image_size: side of the input in pixels; a multiple of `patch_size`.
        patch_size: side of a patch in pixels.
        dim: width of the tokens; a multiple of 4 and of `heads`.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: width of the blocks' hidden layers, in units of `dim`.
        pool: representation: class token, or mean over patches.
        drop_path: probability of leaving the last block's branches out for a sample in training, from 0 at the first
            block on; 0.1 in the authors' pretraining.
        relative_positions: also learn a bias for each distance of two patches, one table for all blocks.
        statistics: mean and deviation that pixels are normalised with: ImageNet's, or CLIP's, as the authors' are.
            Of the tasks here, vision/eva reads it; the others take ImageNet's.

    Raises:
        UsageError: the sizes do not fit each other.
    """
    check_sizes(image_size, patch_size, dim, depth, heads, pool, True)
    if not 0.0 <= drop_path < 1.0:
        raise UsageError(f"encoder.drop_path={drop_path} is outside [0, 1); 0.1 is the authors'")
    if mlp_ratio <= 0 or int(dim * mlp_ratio) < 1:
        raise UsageError(f"encoder.mlp_ratio={mlp_ratio} leaves no hidden layer; 6144 / 1408 is the paper's")
    options: dict[str, Any] = {"img_size": image_size, "patch_size": patch_size, "embed_dim": dim, "depth": depth}
    options |= {"num_heads": heads, "mlp_ratio": mlp_ratio, "num_classes": 0, "global_pool": pool, "use_fc_norm": False}
    if drop_path:
        options["drop_path_rate"] = drop_path
    if relative_positions:
        name = "beit_base_patch16_224"
        options |= {"use_abs_pos_emb": True, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}
        options["init_values"] = 0.0  # timm drops None, and takes its own 0.1 then
    else:
        name = "eva_giant_patch14_224"
    mean, std = (views.CLIP_MEAN, views.CLIP_STD) if statistics == "clip" else (views.IMAGENET_MEAN, views.IMAGENET_STD)
    model = timm.create_model(name, **options)
    if relative_positions:
        model.norm_pre = nn.Identity()  # which timm's BEiT does without
    return Eva(model, Snippet(name, options), heads, pool, mean, std)
