"""Vision transformer: timm's model in its parts, so that masked methods can put other things between them.

Dosovitskiy et al. 2020, arXiv 2010.11929. The network is timm's, so its weights are timm's weights.
`ViT.tokens` runs it on a subset of the patches. A method that needs more composes `ViT.embed` (patches),
`ViT.positions`, `ViT.with_class` (class token) and `ViT.run` (blocks and final norm), the last with an
attention of its own in any block: see `Attend`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import timm
import torch
from timm.layers import Attention, PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from unlabel.errors import UsageError
from unlabel.nn import masking, positions
from unlabel_vision.encoders.timm import Snippet, describe_input, example_images, published

__all__ = ["Attend", "ViT", "merged", "project", "require_tokens", "vit"]

Attend = Callable[[Attention, Tensor], Tensor]
"""What a method puts in the place of a block's self-attention: from the block's attention module, whose weights
it uses, and its normalised tokens (N, T, dim) to what is added to them, (N, T, dim). See `project` and `merged`."""


def project(attention: Attention, tokens: Tensor, keys: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of all tokens, and keys and values of the first ones.

    Args:
        attention: of a block.
        tokens: (N, T, dim), normalised.
        keys: how many tokens at the beginning may be attended to; None is all.

    Returns:
        (N, heads, T, width), and twice (N, heads, keys, width).
    """
    heads, width = attention.num_heads, attention.attn_dim
    if keys is None or keys == tokens.shape[1]:
        query, key, value = attention.qkv(tokens).chunk(3, dim=-1)
    else:
        weight, bias = attention.qkv.weight, attention.qkv.bias
        rest = None if bias is None else bias[width:]
        query = functional.linear(tokens, weight[:width], None if bias is None else bias[:width])
        key, value = functional.linear(tokens[:, :keys], weight[width:], rest).chunk(2, dim=-1)
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key, value))
    return attention.q_norm(query), attention.k_norm(key), value


def merged(attention: Attention, mixed: Tensor) -> Tensor:
    """The heads' values together through the block's output projection: (N, heads, T, width) -> (N, T, dim)."""
    output: Tensor = attention.proj_drop(attention.proj(attention.norm(mixed.transpose(1, 2).flatten(2))))
    return output


class ViT(nn.Module):
    """A timm vision transformer that can leave patches out.

    Args:
        model: timm's VisionTransformer with a class token or without, and no head (``num_classes=0``).
        name: timm name the model was created by; with `options`, how to create it again.
        options: keywords given to ``timm.create_model``.
        pool: representation, after the final norm: the class token, or the mean over the patches.

    Attributes:
        dim: width. image_size, patch_size: pixels. grid: patches per side. layers: number of blocks.
        class_tokens: 1, or 0 without one.
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
        self.class_tokens: int = model.num_prefix_tokens

    def forward(self, images: Tensor) -> Tensor:
        """Encode whole images.

        Args:
            images: float, (N, 3, S, S), normalised, S = `image_size`.

        Returns:
            (N, dim).
        """
        tokens = self.tokens(images)
        return tokens[:, 0] if self.pool == "token" else tokens[:, self.class_tokens :].mean(1)

    def tokens(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens after the final norm, of all patches or of those kept.

        Positions are added before patches are left out, and the class token joins after (He et al.,
        arXiv 2111.06377), so that a token knows where it came from.

        Args:
            images: float, (N, 3, S, S), normalised.
            keep: int64, (N, K): patches to keep, row-major indices; None keeps all L.

        Returns:
            (N, 1 + K, dim): class token if there is one, then the patches in the order of `keep`.
        """
        patches = self.embed(images) + self.positions  # (N, L, dim)
        if keep is not None:
            patches = masking.take(patches, keep)
        return self.run(self.with_class(patches))

    def embed(self, images: Tensor) -> Tensor:
        """Patch embeddings without positions: (N, 3, S, S) -> (N, L, dim), row-major."""
        patches: Tensor = self.model.patch_embed(images)
        return patches

    @property
    def positions(self) -> Tensor:
        """The position rows of the patches: (L, dim)."""
        return self.model.pos_embed[0, self.class_tokens :]

    def with_class(self, patches: Tensor) -> Tensor:
        """Put the class token, with its own position, before the patches: (N, K, dim) -> (N, 1 + K, dim)."""
        if not self.class_tokens:
            return patches
        first = (self.model.cls_token + self.model.pos_embed[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([first.to(patches.dtype), patches], dim=1)

    def run(self, tokens: Tensor, attend: Sequence[Attend | None] | None = None) -> Tensor:
        """The blocks and the final norm: (N, T, dim) -> (N, T, dim).

        Args:
            tokens: from `embed` and what the method makes of it.
            attend: for each block what replaces its self-attention, or None; None for all.
        """
        tokens = self.model.norm_pre(tokens)
        for block, own in zip(self.model.blocks, attend or [None] * self.layers, strict=True):
            tokens = block(tokens) if own is None else _attending(block, tokens, own)
        normalised: Tensor = self.model.norm(tokens)
        return normalised

    def outputs(self, tokens: Tensor) -> list[Tensor]:
        """What each block gives, before the final norm: (N, T, dim) each."""
        tokens, found = self.model.norm_pre(tokens), []
        for block in self.model.blocks:
            tokens = block(tokens)
            found.append(tokens)
        return found

    def fix_positions(self, order: Literal["xy", "yx"] = "xy") -> None:
        """Replace the learned position table by the fixed 2-D sine-cosine one, never trained."""
        table = positions.sincos(self.dim, (self.grid, self.grid), order=order, class_row=bool(self.class_tokens))
        with torch.no_grad():
            self.model.pos_embed.copy_(table)
        self.model.pos_embed.requires_grad_(False)

    def blind_to_positions(self) -> None:
        """Set the position table to zero, not trained: tokens become a set."""
        with torch.no_grad():
            self.model.pos_embed.zero_()
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
        """The position table interpolated to this grid; a row for the class token is dropped or added (zeros)."""
        weights = dict(weights)
        table = weights.get("pos_embed")
        if table is not None:
            side = math.isqrt(table.shape[1])
            first = table.shape[1] - side**2  # rows before the patches'
            fitted = positions.interpolate(table[0], (side, side), (self.grid, self.grid), prefix_tokens=first)
            absent = fitted.new_zeros(max(0, self.class_tokens - first), fitted.shape[1])
            weights["pos_embed"] = torch.cat([absent, fitted[max(0, first - self.class_tokens) :]])[None]
        return weights

    def layer_of(self, name: str) -> int:
        """Layer of a parameter for layer-wise learning rates: 0 embedding, i + 1 block i, layers + 1 the rest."""
        parts = name.split(".")
        if "blocks" in parts:
            return int(parts[parts.index("blocks") + 1]) + 1
        embedding = ("patch_embed", "cls_token", "pos_embed", "norm_pre")
        return 0 if any(part in embedding for part in parts) else self.layers + 1


def _attending(block: nn.Module, tokens: Tensor, attend: Attend) -> Tensor:
    """One of timm's blocks with another attention."""
    tokens = tokens + block.drop_path1(block.ls1(attend(block.attn, block.norm1(tokens))))
    return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))


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
    sizes = {"image_size": image_size, "patch_size": patch_size, "dim": dim, "depth": depth, "heads": heads}
    for name, value in sizes.items():
        if value < 1:
            raise UsageError(f"encoder.{name}={value} is too small: expected at least 1")
    if image_size % patch_size:
        nearest = max(1, round(image_size / patch_size)) * patch_size
        raise UsageError(f"encoder.image_size={image_size} is not a multiple of patch_size={patch_size}; {nearest} is")
    if dim % heads or dim % 4:
        raise UsageError(f"encoder.dim={dim} must be a multiple of 4 and of heads={heads}")
    if pool == "token" and not class_token:
        raise UsageError(
            "encoder.pool='token' is the class token, and encoder.class_token=false: use encoder.pool='avg'"
        )
    if not 0.0 <= drop_path < 1.0:
        raise UsageError(f"encoder.drop_path={drop_path} is outside [0, 1); 0.1 is usual")
    options: dict[str, Any] = {"img_size": image_size, "patch_size": patch_size}
    options |= {"embed_dim": dim, "depth": depth, "num_heads": heads, "num_classes": 0}
    if not class_token:
        options |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    if drop_path:
        options["drop_path_rate"] = drop_path
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


def require_tokens(encoder: nn.Module, task: str, class_token: bool | None = True) -> ViT:
    """The encoder, if it can leave patches out; UsageError saying what fits otherwise.

    Args:
        encoder: the user's.
        task: who asks.
        class_token: whether it must have a class token, or must not; None: either will do.
    """
    if not isinstance(encoder, ViT):
        raise UsageError(
            f"{task} shows the encoder only some of the patches, which {type(encoder).__name__} cannot do; what fits: "
            "--encoder vision/vit, or a timm ViT with one class token, e.g. "
            "--encoder vision/timm:vit_small_patch16_224 "
            "(vision/simclr, vision/moco and vision/rotation take any encoder)"
        )
    if class_token is not None and class_token != bool(encoder.class_tokens):
        needs = "needs a class token" if class_token else "works without a class token"
        fits = "" if class_token else " --set encoder.pool=avg"
        raise UsageError(
            f"{task} {needs}: --encoder vision/vit --set encoder.class_token={str(class_token).lower()}{fits}"
        )
    return encoder
