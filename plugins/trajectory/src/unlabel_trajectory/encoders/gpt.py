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
            query, key, value = self._by_head(tokens)
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

    def of_many_ends(self, shared: Tensor, ends: Tensor) -> Tensor:
        """Attend in M sequences at once that differ in their last token only, each token seeing every other.

        What the shared tokens say to each other is computed once: over the keys of a sequence, the mean that attention
        takes is one over the shared keys and one over the last, weighted by their shares of the softmax's sum.

        Args:
            shared: (N, S, D).
            ends: (N, M, D): the last tokens.

        Returns:
            (N, M, S + 1, D). No dropout.
        """
        query, key, value = self._by_head(shared)  # (N, H, S, E) each
        asked, offered, given = self._by_head(ends)  # (N, H, M, E) each
        scale = 1 / math.sqrt(query.shape[-1])

        # softmax over S + 1 keys = share * softmax over the S shared + (1 - share) * the last one's value,
        # share = Z / (Z + exp(s_last)) = sigmoid(log Z - s_last), Z the shared keys' sum of exponentials
        among = (query * scale) @ key.transpose(-2, -1)  # (N, H, S, S)
        mean = (among.softmax(-1) @ value).permute(0, 2, 1, 3)[:, None]  # (N, 1, S, H, E)
        to_end = (query * scale) @ offered.transpose(-2, -1)  # (N, H, S, M)
        share = (among.logsumexp(-1, keepdim=True) - to_end).sigmoid().permute(0, 3, 2, 1)[..., None]
        last = given.transpose(1, 2)  # (N, M, H, E)
        of_shared = torch.lerp(last[:, :, None], mean, share.to(last.dtype))  # (N, M, S, H, E)

        back = (asked * scale) @ key.transpose(-2, -1)  # (N, H, M, S)
        share = (back.logsumexp(-1, keepdim=True) - (asked * scale * offered).sum(-1, keepdim=True)).sigmoid()
        of_end = torch.lerp(given, back.softmax(-1) @ value, share.to(given.dtype)).transpose(1, 2)  # (N, M, H, E)
        return self.proj(torch.cat([of_shared, of_end[:, :, None]], dim=2).flatten(3))  # type: ignore[no-any-return]

    def _by_head(self, tokens: Tensor) -> Tensor:
        """Queries, keys and values: (N, L, D) -> (3, N, H, L, E)."""
        count, length, _ = tokens.shape
        return self.qkv(tokens).view(count, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # type: ignore[no-any-return]


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
        return own + dropout(self._mlp(own), self.dropout, self.training)

    def of_many_ends(self, shared: Tensor, ends: Tensor) -> Tensor:
        """Transform M sequences that differ in their last token only: (N, S, D), (N, M, D) -> (N M, S + 1, D)."""
        own = self.attn.of_many_ends(self.norm1(shared), self.norm1(ends))
        own[:, :, :-1] += shared[:, None]
        own[:, :, -1] += ends
        own = own.flatten(0, 1)
        return own + self._mlp(own)

    def _mlp(self, tokens: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(self.norm2(tokens))))  # type: ignore[no-any-return]


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
        return self._through(dropout(tokens + places, self.dropout, self.training), 0, causal, wanted)

    def of_many_ends(self, shared: Tensor, ends: Tensor, *, wanted: slice) -> Tensor:
        """Features of M sequences that differ in their last token only, every token seeing every other.

        As `transform` gives for each, to rounding, without dropout; the first block, in which the shared tokens are
        the same for all, costs little more than for one.

        Args:
            shared: (N, S, dim): tokens of steps 1 to S.
            ends: (N, M, dim): of step S + 1.
            wanted: of which tokens the features are needed.

        Returns:
            (N * M, number wanted, dim), after the final norm.
        """
        length = shared.shape[1]
        shared, ends = shared + self.positions[1 : length + 1], ends + self.positions[length + 1]
        if len(self.blocks) == 1:
            whole = torch.cat([shared[:, None].expand(-1, ends.shape[1], -1, -1), ends[:, :, None]], dim=2)
            return self._through(whole.flatten(0, 1), 0, False, wanted)
        return self._through(self.blocks[0].of_many_ends(shared, ends), 1, False, wanted)  # type: ignore[operator]

    def _through(self, tokens: Tensor, first: int, causal: bool, wanted: slice | None) -> Tensor:
        """Tokens through the blocks from number `first` on, and the final norm."""
        last = len(self.blocks) - 1
        for number in range(first, last + 1):  # all but the last need every token
            tokens = self.blocks[number](tokens, causal, wanted if number == last else None)
        return self.norm(tokens)  # type: ignore[no-any-return]


def require_gpt(encoder: nn.Module, task: str) -> TrackGPT:
    """The encoder, if it is one that takes tokens; UsageError saying what fits otherwise."""
    if isinstance(encoder, TrackGPT):
        return encoder
    raise UsageError(
        f"{task} gives the encoder tokens of its own, which {type(encoder).__name__} cannot take; what fits: "
        "--encoder trajectory/gpt"
    )
