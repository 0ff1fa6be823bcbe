"""What tasks on patches need of an encoder: its parts, so that a method can put other things between them.

`PatchEncoder` is the interface, and everything that follows from the parts: `ViT` is timm's vision transformer,
`unlabel_vision.encoders.crate.Crate` a white-box one, and a plugin may add its own in a few lines. A task that needs
more than features composes `PatchEncoder.embed` (patches), `PatchEncoder.positions`, `PatchEncoder.with_class` (class
token) and `PatchEncoder.run` (blocks and final norm), the last with an attention of its own in any block: see `Attend`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch.nn import functional

from unlabel.errors import UsageError
from unlabel.nn import masking, positions, transformer
from unlabel_vision.encoders.timm import describe_input, example_images, preprocessing

__all__ = ["Attend", "Part", "PatchEncoder", "check_sizes", "merged", "project", "require_tokens", "stepped"]

Part = Any
"""A network of timm's, a block or an attention of one: their parts are called by the names that timm gives them."""

Attend = Callable[[Part, Tensor], Tensor]
"""What a method puts in the place of a block's self-attention: from the block's attention module, whose weights
it uses, and its normalised tokens (N, T, dim) to what is added to them, (N, T, dim). See `project` and `merged`."""


def project(attention: Part, tokens: Tensor, keys: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries of all tokens, and keys and values of the first ones.

    Args:
        attention: of a block: timm's, or one with a `project` and a `merged` of its own.
        tokens: (N, T, dim), normalised.
        keys: how many tokens at the beginning may be attended to; None is all.

    Returns:
        (N, heads, T, width), and twice (N, heads, keys, width).
    """
    if not isinstance(attention, Attention):
        own: tuple[Tensor, Tensor, Tensor] = attention.project(tokens, keys)
        return own
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


def merged(attention: Part, mixed: Tensor) -> Tensor:
    """The heads' values together through the block's output projection: (N, heads, T, width) -> (N, T, dim)."""
    if not isinstance(attention, Attention):
        own: Tensor = attention.merged(mixed)
        return own
    output: Tensor = attention.proj_drop(attention.proj(attention.norm(mixed.transpose(1, 2).flatten(2))))
    return output


def stepped(block: Part, tokens: Tensor, *rest: Any, **named: Any) -> Any:
    """``block(tokens, *rest, **named)`` with the faster kernel for its own attention, see `transformer.fused`.

    Args:
        block: with an ``attn`` whose ``fused_attn`` chooses the kernel, as timm's.
        tokens: (N, T, dim).
    """
    usual = block.attn.fused_attn
    if usual and not transformer.fused(tokens, tokens.shape[1]):
        block.attn.fused_attn = False
    after = block(tokens, *rest, **named)
    block.attn.fused_attn = usual
    return after


class PatchEncoder(nn.Module):
    """An encoder of square images cut into a grid of patches, that can leave patches out.

    A subclass gives `step`, `exported`, `loading_code`, `published` and `adapted`.

    Args:
        model: the network in its parts, called as timm calls them: ``patch_embed`` (a timm PatchEmbed), ``cls_token``
            ((1, 1, dim), or None), ``pos_embed`` ((1, [1 +] L, dim), its first row the class token's), ``norm_pre``,
            ``blocks`` and ``norm``.
        dim: width of the tokens.
        heads: attention heads of each block.
        pool: representation, after the final norm: the class token, or the mean over the patches.

    Attributes:
        dim, heads, pool: as given. image_size, patch_size: pixels. grid: patches per side. layers: number of blocks.
        class_tokens: 1, or 0 without one.
    """

    model: Part

    def __init__(self, model: Part, dim: int, heads: int, pool: Literal["token", "avg"]):
        super().__init__()
        self.model, self.dim, self.heads, self.pool = model, dim, heads, pool
        self.image_size: int = model.patch_embed.img_size[0]
        self.patch_size: int = model.patch_embed.patch_size[0]
        self.grid: int = model.patch_embed.grid_size[0]
        self.layers: int = len(model.blocks)
        self.class_tokens: int = 0 if model.cls_token is None else 1

    def step(self, block: Part, tokens: Tensor, attend: Attend | None = None) -> Tensor:
        """One of the blocks, with its own attention or another: (N, T, dim) -> (N, T, dim)."""
        raise NotImplementedError(f"{type(self).__name__} must define step(block, tokens, attend)")

    def forward(self, images: Tensor) -> Tensor:
        """Encode whole images.

        Args:
            images: float, (N, 3, S, S), normalised, S = `image_size`.

        Returns:
            (N, dim).
        """
        return self.pooled(self.tokens(images))

    def pooled(self, tokens: Tensor) -> Tensor:
        """The representation from tokens after the final norm: (N, T, dim) -> (N, dim)."""
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
        result: Tensor = self.model.pos_embed[0, self.class_tokens :]
        return result

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
            tokens = self.step(block, tokens, own)
        return self.normalise(tokens)

    def outputs(self, tokens: Tensor) -> list[Tensor]:
        """What each block gives, before the final norm: (N, T, dim) each."""
        tokens, outputs = self.model.norm_pre(tokens), []
        for block in self.model.blocks:
            tokens = self.step(block, tokens)
            outputs.append(tokens)
        return outputs

    def normalise(self, tokens: Tensor) -> Tensor:
        """The final norm: (N, T, dim) -> (N, T, dim)."""
        normalised: Tensor = self.model.norm(tokens)
        return normalised

    def fix_positions(self, order: Literal["xy", "yx"] = "xy") -> None:
        """Replace the position table by the fixed 2-D sine-cosine one, never trained."""
        table = positions.sincos(self.dim, (self.grid, self.grid), order=order, class_row=bool(self.class_tokens))
        with torch.no_grad():
            self.model.pos_embed.copy_(table)
        self.model.pos_embed.requires_grad_(False)

    def blind_to_positions(self) -> None:
        """Set the position table to zero, not trained: tokens become a set."""
        with torch.no_grad():
            self.model.pos_embed.zero_()
        self.model.pos_embed.requires_grad_(False)

    def example(self, count: int) -> Tensor:
        return example_images(count, self.image_size)

    def usage(self) -> str:
        return describe_input(self.image_size, self.dim)

    def preprocessing(self) -> dict[str, Any]:
        """Size and normalisation of its inputs."""
        return preprocessing(self.image_size)

    def fitted(self, table: Tensor) -> Tensor:
        """Another model's position table for this grid; a row for the class token is dropped or added (zeros).

        Args:
            table: float, (1, rows, dim); the patches' rows, a square number, are the last.

        Returns:
            (1, [1 +] L, dim).
        """
        side = math.isqrt(table.shape[1])
        first = table.shape[1] - side**2  # rows before the patches'
        fitted = positions.interpolate(table[0], (side, side), (self.grid, self.grid), prefix_tokens=first)
        absent = fitted.new_zeros(max(0, self.class_tokens - first), fitted.shape[1])
        return torch.cat([absent, fitted[max(0, first - self.class_tokens) :]])[None]

    def exported(self) -> dict[str, Tensor]:
        """Weights in the naming of the network's own ecosystem."""
        return dict(self.model.state_dict())

    def loading_code(self, file: str) -> str:
        """Python that leaves ``model``, in evaluation mode, with the weights of `file`."""
        raise NotImplementedError(f"{type(self).__name__} must define loading_code(file)")

    def published(self, scheme: str, name: str) -> dict[str, Tensor]:
        """Weights that a library publishes under a name."""
        raise UsageError(f"--init {scheme}:{name}: {type(self).__name__} knows no published weights; give a file")

    def adapted(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same weights fitted to this encoder's sizes."""
        raise NotImplementedError(f"{type(self).__name__} must define adapted(weights)")

    def layer_of(self, name: str) -> int:
        """Layer of a parameter for layer-wise learning rates: 0 embedding, i + 1 block i, layers + 1 the rest."""
        parts = name.split(".")
        if "blocks" in parts:
            return int(parts[parts.index("blocks") + 1]) + 1
        embedding = ("patch_embed", "cls_token", "pos_embed", "norm_pre")
        return 0 if any(part in embedding for part in parts) else self.layers + 1


def check_sizes(
    image_size: int, patch_size: int, dim: int, depth: int, heads: int, pool: str, class_token: bool
) -> None:
    """Refuse sizes of an encoder that do not fit each other.

    Raises:
        UsageError: naming the keyword, and the nearest value that fits.
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


def require_tokens(encoder: nn.Module, task: str, class_token: bool | None = True) -> PatchEncoder:
    """The encoder, if it can leave patches out; UsageError saying what fits otherwise.

    Args:
        encoder: the user's.
        task: who asks.
        class_token: whether it must have a class token, or must not; None: either will do.
    """
    if not isinstance(encoder, PatchEncoder):
        raise UsageError(
            f"{task} shows the encoder only some of the patches, which {type(encoder).__name__} cannot do; what fits: "
            "--encoder vision/vit, --encoder vision/crate, or a timm ViT with one class token, e.g. "
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
