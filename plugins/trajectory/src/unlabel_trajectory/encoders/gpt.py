"""A small GPT-like transformer over the positions of one track.

Pre-norm blocks (eps 1e-5), exact GELU, biases everywhere, a learned table of positions whose row t belongs to step
t, counted from 1; as in Lin et al., arXiv 2407.11588, and the language models it is taken from. Attention is torch's
fused one; which positions see which is passed with every call, so that one network can look back only, or around.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel.errors import UsageError
from unlabel_trajectory.dropout import dropout

__all__ = ["TrackGPT", "require_gpt"]


class Attention(nn.Module):
    """Multi-head self-attention with one linear map for queries, keys and values, stacked in this order."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, causal: bool, wanted: slice | None) -> Tensor:
        """Attend.

        Args:
            tokens: (N, L, D).
            causal: whether a position sees those up to itself only.
            wanted: which positions are queries; None: all. With `causal` it must end with the last position.

        Returns:
            (N, number of queries, D).
        """
        count, length, dim = tokens.shape
        if wanted is None:
            query, key, value = self.qkv(tokens).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            query = functional.linear(tokens[:, wanted], weight[:dim], bias[:dim])
            query = query.view(count, -1, self.heads, dim // self.heads).transpose(1, 2)
            rest = functional.linear(tokens, weight[dim:], bias[dim:])
            key, value = rest.view(count, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries = query.shape[2]
        mask = None
        if causal and queries not in (1, length):  # the queries are the last ones of the sequence
            mask = _lower(query, length)
        whole = causal and queries == length
        if self.training and self.dropout and tokens.device.type == "cpu":  # no fused kernel there has dropout
            mixed = _spelt_out(query, key, value, _lower(query, length) if whole else mask, self.dropout)
        else:
            mixed = functional.scaled_dot_product_attention(
                query, key, value, mask, self.dropout if self.training else 0.0, is_causal=whole
            )
        return self.proj(mixed.transpose(1, 2).reshape(count, queries, dim))  # type: ignore[no-any-return]


def _lower(query: Tensor, length: int) -> Tensor:
    """Which of `length` positions each query, (..., Q, D), may see if the queries are the last: bool, (Q, length)."""
    queries = query.shape[2]
    return query.new_ones(queries, length, dtype=torch.bool).tril(length - queries)


def _spelt_out(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, probability: float) -> Tensor:
    """Attention with dropout of its weights, as the fused function computes it where it has no kernel, but faster."""
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)
    if mask is not None:  # added, which has no work to do in the backward pass
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, -math.inf)
    weights = scores.softmax(-1)
    return dropout(weights, probability, True) @ value


class Block(nn.Module):
    """One pre-norm block: attention, then a two-layer perceptron."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, dropout)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = dropout

    def forward(self, tokens: Tensor, causal: bool, wanted: slice | None) -> Tensor:
        """Transform (N, L, D); with `wanted`, only those positions come out, see `Attention`."""
        own = tokens if wanted is None else tokens[:, wanted]
        own = own + dropout(self.attn(self.norm1(tokens), causal, wanted), self.dropout, self.training)
        mlp = self.fc2(functional.gelu(self.fc1(self.norm2(own))))
        return own + dropout(mlp, self.dropout, self.training)


class TrackGPT(nn.Module):
    """Encoder of tracks: one token a position, a transformer, one feature a position.

    Args:
        dim: width of the tokens; a multiple of `heads`.
        depth: number of blocks.
        heads: attention heads; 4 as in the authors' runs (their text says 8).
        hidden: width of the perceptrons; None: four times `dim`.
        rows: rows of the table of positions; steps are counted from 1, so one less can be told apart.
        dropout: of the tokens, the attention weights, and what each layer adds.

    Attributes:
        dim: width of the features.

    Raises:
        UsageError: sizes that do not fit each other.
    """

    def __init__(
        self,
        *,
        dim: int = 128,
        depth: int = 3,
        heads: int = 4,
        hidden: int | None = None,
        rows: int = 128,
        dropout: float = 0.1,
    ):
        super().__init__()
        for name, value in {"dim": dim, "depth": depth, "heads": heads, "rows": rows}.items():
            if value < 1:
                raise UsageError(f"encoder.{name}={value} is too small: expected at least 1")
        if dim % heads:
            raise UsageError(f"encoder.dim={dim} must be a multiple of heads={heads}")
        if not 0 <= dropout < 1:
            raise UsageError(f"encoder.dropout={dropout} is outside [0, 1); 0.1 is the paper's")
        self.dim, self.dropout = dim, dropout
        self.input = nn.Linear(2, dim)
        self.positions = nn.Parameter(torch.empty(rows, dim))
        self.blocks = nn.ModuleList(
            Block(dim, heads, 4 * dim if hidden is None else hidden, dropout) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self._initialise(depth)

    def _initialise(self, depth: int) -> None:
        """Normal weights of 0.02, the maps back into the residual stream of 0.02 / sqrt(2 depth), zero biases; the
        input map keeps torch's own initialisation."""
        nn.init.normal_(self.positions, std=0.02)
        for name, module in self.blocks.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02 / (math.sqrt(2 * depth) if name.endswith("attn.proj") else 1))
                nn.init.zeros_(module.bias)

    def forward(self, track: Tensor) -> Tensor:
        """The feature of a track's last position, which has seen all of it.

        Args:
            track: float, (N, T, 2), relative to its last position.

        Returns:
            (N, dim).
        """
        return self.transform(self.tokens(track), range(1, track.shape[1] + 1), causal=True, wanted=slice(-1, None))[
            :, 0
        ]

    def tokens(self, track: Tensor) -> Tensor:
        """One token a position, before its place is added: (N, T, 2) -> (N, T, dim).

        In float32 whatever the precision: eight bits of a position are no position.
        """
        with torch.autocast(track.device.type, enabled=False):
            return self.input(track.float())  # type: ignore[no-any-return]

    def transform(
        self, tokens: Tensor, steps: range | list[int], *, causal: bool, wanted: slice | None = None
    ) -> Tensor:
        """Features of tokens.

        Args:
            tokens: (N, L, dim).
            steps: the L steps they stand for, counted from 1: rows of the table.
            causal: whether a token sees those before it (and itself) only, or all.
            wanted: of which tokens the features are needed; None: of all. With `causal`, up to the last one.

        Returns:
            (N, number wanted, dim), after the final norm.
        """
        places = (
            self.positions[steps.start : steps.stop]
            if isinstance(steps, range)
            else torch.cat([self.positions[step : step + 1] for step in steps])
        )
        tokens = dropout(tokens + places, self.dropout, self.training)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):  # all but the last need every token
            tokens = block(tokens, causal, wanted if number == last else None)
        return self.norm(tokens)  # type: ignore[no-any-return]


def require_gpt(encoder: nn.Module, task: str) -> TrackGPT:
    """The encoder, if it is one that takes tokens; UsageError saying what fits otherwise."""
    if isinstance(encoder, TrackGPT):
        return encoder
    raise UsageError(
        f"{task} gives the encoder tokens of its own, which {type(encoder).__name__} cannot take; what fits: "
        "--encoder trajectory/gpt"
    )
