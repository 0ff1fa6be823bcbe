"""A plain pre-norm transformer, for decoders and small encoders.

Blocks as in Dosovitskiy et al., arXiv 2010.11929: ``x += Attention(LN(x)); x += MLP(LN(x))``, biases
everywhere, exact GELU. Parameters are called ``blocks.N.{norm1, attn.qkv, attn.proj, norm2, mlp.fc1,
mlp.fc2}``; the rows of ``qkv`` are all queries, all keys, all values, each head by head. This is the
naming of the wide-spread transformer libraries, so that weights pass between them.

Sequences of unequal length, or with tokens that nobody may look at, come with a key mask: `visible`,
bool, (N, L), True for the tokens that all others attend to. Every sequence needs one. Where a token is
not visible it still attends to those that are, and gets an output.

Where only some tokens' outputs are used, the last block need not make the others: `wanted`, int64, (N, K), their
indices. Whatever is wanted comes out as it would among all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel.errors import UsageError
from unlabel.nn import masking, positions

__all__ = ["Attention", "Block", "Mlp", "Transformer", "attend", "fused", "xavier_init"]

_PRODUCTS = 512
"""Tokens up to which attention may hold all of its weights at once."""


def fused(query: Tensor, keys: int) -> bool:
    """Whether the fused kernel is the way to attend to this many tokens, as it nearly always is.

    Its backward pass on a CPU is slow in bfloat16: for 197 tokens it takes twice as long, for 50 four times as long,
    as two products and a softmax. Those are limited to 512 tokens, for they hold a weight for each pair.

    Args:
        query: or what it will be made of; under autocast its precision is autocast's.
        keys: number of tokens attended to.
    """
    if query.device.type != "cpu" or not (torch.is_grad_enabled() and query.requires_grad) or keys > _PRODUCTS:
        return True
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    return dtype != torch.bfloat16 or torch.compiler.is_compiling()


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention by whichever way is faster, see `fused`.

    Args:
        query: (N, heads, T, width).
        key, value: (N, heads, L, width).
        mask: broadcast to (N, heads, T, L): bool, True where a token may be attended to, or float, added to the scaled
            scores; None: all attend to all.

    Returns:
        (N, heads, T, width).
    """
    if fused(query, key.shape[-2]):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    mixed: Tensor = scores.softmax(-1) @ value
    return mixed


class Attention(nn.Module):
    """Multi-head self-attention with one linear map for queries, keys and values.

    Args:
        dim: width of the tokens.
        heads: number of heads; must divide `dim`.

    Raises:
        UsageError: if `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UsageError(f"{heads} heads cannot share a width of {dim}: the number of heads must divide it")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        tokens: Tensor,
        visible: Tensor | None = None,
        turn: positions.Rotary | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            tokens: float, (N, L, D).
            visible: key mask, or None.
            turn: rotary positions, or None; not together with `wanted`.
            wanted: which tokens come out, or None for all.

        Returns:
            (N, L, D), or (N, K, D) of those that are wanted.
        """
        count, _, dim = tokens.shape
        if wanted is None:
            query, key, value = self.qkv(tokens).chunk(3, dim=-1)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            query = functional.linear(masking.take(tokens, wanted), weight[:dim], bias[:dim])
            key, value = functional.linear(tokens, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        if turn is not None:
            query, key = positions.rotate(query, turn), positions.rotate(key, turn)
        mask = None if visible is None else visible[:, None, None, :]
        mixed = attend(query, key, value, mask)
        return self.proj(mixed.transpose(1, 2).reshape(count, -1, dim))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between them.

    Args:
        dim: width of the tokens.
        hidden: width between the layers.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map each token: float, (..., D) -> (..., D)."""
        return self.fc2(functional.gelu(self.fc1(tokens)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One pre-norm transformer block without dropout.

    Args:
        dim: width of the tokens.
        heads: attention heads.
        mlp_ratio: width of the hidden layer of the MLP, in units of `dim`.
        eps: of the layer norms.
    """

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, tokens: Tensor, visible: Tensor | None = None, wanted: Tensor | None = None) -> Tensor:
        """Transform: float, (N, L, D) -> (N, L, D), or (N, K, D) of those that are `wanted`; with a key mask or not."""
        own = tokens if wanted is None else masking.take(tokens, wanted)
        own = own + self.attn(self.norm1(tokens), visible, wanted=wanted)
        return own + self.mlp(self.norm2(own))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """A stack of pre-norm blocks; no embedding before it, no norm after it.

    Args:
        dim: width of the tokens.
        depth: number of blocks.
        heads: attention heads of each block; must divide `dim`.
        mlp_ratio: width of the hidden layer of each MLP, in units of `dim`.
        eps: of the layer norms.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio, eps) for _ in range(depth)))

    def forward(self, tokens: Tensor, visible: Tensor | None = None, wanted: Tensor | None = None) -> Tensor:
        """Transform: float, (N, L, D) -> (N, L, D), or (N, K, D) of those that are `wanted`; with a key mask or not."""
        for number, block in enumerate(self.blocks, start=1):
            tokens = block(tokens, visible, wanted if number == len(self.blocks) else None)
        return tokens if wanted is None or len(self.blocks) else masking.take(tokens, wanted)


def xavier_init(module: nn.Module) -> None:
    """Initialise every layer inside `module` in place, as He et al., arXiv 2111.06377, do.

    Linear weights Xavier-uniform (the joint query-key-value matrix as one matrix) with zero biases;
    layer norms 1 and 0; convolution weights Xavier-uniform as the linear map from a window to the output
    channels, while convolution biases keep what they have. Other parameters are left alone.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm) and layer.elementwise_affine:
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.xavier_uniform_(layer.weight.flatten(1))
