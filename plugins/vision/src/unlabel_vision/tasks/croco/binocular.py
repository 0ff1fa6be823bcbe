"""Two views of a scene through one encoder, and a decoder in which the first looks at the second.

Weinzaepfel et al. 2022, arXiv 2210.10716 (CroCo), and 2211.10408 (CroCo v2: rotary positions). Pretraining hides most
of the first view and asks for its pixels; downstream both views are whole and `DenseHead` reads flow or depth off.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel.errors import UsageError
from unlabel.nn import masking, patches, positions, transformer
from unlabel.nn.constants import constant

__all__ = ["BinocularDecoder", "CrossAttention", "CrossBlock", "DenseHead", "PoseHead", "hooks", "orthogonal"]


class CrossAttention(nn.Module):
    """Attention of one sequence to another, with separate linear maps for queries, keys and values.

    Args:
        dim: width of both.
        heads: must divide `dim`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise UsageError(f"{heads} heads cannot share a width of {dim}: the number of heads must divide it")
        self.heads = heads
        self.projq, self.projk, self.projv = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def _split(self, values: Tensor) -> Tensor:
        result: Tensor = values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return result

    def _queries_keys(self, tokens: Tensor, memory: Tensor, rotation: positions.Rotary | None) -> tuple[Tensor, Tensor]:
        query, key = self._split(self.projq(tokens)), self._split(self.projk(memory))
        if rotation is None:
            return query, key
        return positions.rotate(query, rotation), positions.rotate(key, rotation)

    def forward(self, tokens: Tensor, memory: Tensor, rotation: positions.Rotary | None = None) -> Tensor:
        """Attend: (N, L, D) to (N, M, D) -> (N, L, D); with rotary positions, which both then share, L = M."""
        query, key = self._queries_keys(tokens, memory, rotation)
        mixed = transformer.attend(query, key, self._split(self.projv(memory)))
        attended: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return attended

    def weights(self, tokens: Tensor, memory: Tensor, rotation: positions.Rotary | None = None) -> Tensor:
        """What each token looks at: (N, heads, L, M), rows of sum 1."""
        query, key = self._queries_keys(tokens, memory, rotation)
        return torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, dim=-1)


class CrossBlock(nn.Module):
    """Self-attention, attention to a memory that stays as it is, and an MLP, each after a layer norm of its own.

    Args:
        dim: width of the tokens. heads: attention heads.
        norm_memory: normalise the memory, in each block with weights of its own.
    """

    def __init__(self, dim: int, heads: int, norm_memory: bool = True) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), transformer.Attention(dim, heads)
        self.norm2, self.cross_attn = nn.LayerNorm(dim, eps=1e-6), CrossAttention(dim, heads)
        self.norm_y: nn.Module = nn.LayerNorm(dim, eps=1e-6) if norm_memory else nn.Identity()
        self.norm3, self.mlp = nn.LayerNorm(dim, eps=1e-6), transformer.Mlp(dim, 4 * dim)

    def within(self, tokens: Tensor, rotation: positions.Rotary | None = None) -> Tensor:
        """The part that sees the first view alone: (N, L, D) -> (N, L, D)."""
        attended: Tensor = self.attn(self.norm1(tokens), turn=rotation)
        return tokens + attended

    def across(self, tokens: Tensor, memory: Tensor | None, rotation: positions.Rotary | None = None) -> Tensor:
        """The rest: (N, L, D) and (N, M, D) -> (N, L, D); without a memory nothing is added for it."""
        if memory is not None:
            tokens = tokens + self.cross_attn(self.norm2(tokens), self.norm_y(memory), rotation)
        mixed: Tensor = self.mlp(self.norm3(tokens))
        return tokens + mixed

    def forward(self, tokens: Tensor, memory: Tensor | None, rotation: positions.Rotary | None = None) -> Tensor:
        """Tokens (N, L, D) and memory (N, M, D), or none, -> (N, L, D)."""
        return self.across(self.within(tokens, rotation), memory, rotation)

    def looks(self, tokens: Tensor, memory: Tensor, rotation: positions.Rotary | None = None) -> Tensor:
        """What the tokens, after `within`, look at in the memory, mean over the heads: (N, L, M)."""
        return self.cross_attn.weights(self.norm2(tokens), self.norm_y(memory), rotation).mean(1)


class BinocularDecoder(nn.Module):
    """From the encoded tokens of two views to values for every patch of the first.

    Args:
        encoder_dim: width of the encoded tokens.
        grid: patches per side, of both views.
        values: numbers to predict for each patch.
        dim, depth, heads: of the decoder.
        norm_memory: see `CrossBlock`.
        base: of rotary positions; None adds a fixed sine-cosine table to both views instead.
        order: half of the table that comes first, see `unlabel.nn.positions.sincos`.
    """

    table: Tensor
    cos: Tensor
    sin: Tensor

    def __init__(
        self,
        encoder_dim: int,
        grid: int,
        values: int,
        dim: int,
        depth: int,
        heads: int,
        norm_memory: bool = True,
        base: float | None = None,
        order: positions.Order = "xy",
    ):
        super().__init__()
        self.dim = dim
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.rotary = base is not None
        if base is None:
            self.register_buffer("table", positions.sincos(dim, (grid, grid), order=order), persistent=False)
        else:
            table = positions.rotary(dim // heads, positions.places((grid, grid)), base)
            self.register_buffer("cos", table.cos, persistent=False)
            self.register_buffer("sin", table.sin, persistent=False)
        self.blocks = nn.ModuleList(CrossBlock(dim, heads, norm_memory) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.predict = nn.Linear(dim, values)

    @property
    def rotation(self) -> positions.Rotary | None:
        """Angles of all patches, if positions are rotary."""
        return positions.Rotary(self.cos, self.sin, 2) if self.rotary else None

    def inputs(self, first: Tensor, restore: Tensor | None, second: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The sequence and the memory that the blocks start from.

        Args:
            first: (N, K, encoder_dim): encoded visible patches of the first view.
            restore: int64, (N, L): `unlabel.nn.masking.Mask.restore`; None if all are visible, in order.
            second: (N, L, encoder_dim): encoded patches of the second view, or None without one.

        Returns:
            (N, L, dim), and the same or None.
        """
        sequence = self.embed(first)
        if restore is not None:
            sequence = masking.restore(sequence, self.mask_token, restore)
        memory = None if second is None else self.embed(second)
        if self.rotary:
            return sequence, memory
        return sequence + self.table, None if memory is None else memory + self.table

    def forward(self, first: Tensor, restore: Tensor | None, second: Tensor | None) -> Tensor:
        """Values of every patch of the first view, (N, L, values); arguments as `inputs`."""
        prediction: Tensor = self.predict(self.norm(self.outputs(first, restore, second)[-1]))
        return prediction

    def outputs(self, first: Tensor, restore: Tensor | None, second: Tensor | None) -> list[Tensor]:
        """What each block gives: (N, L, dim) each; arguments as `inputs`."""
        sequence, memory = self.inputs(first, restore, second)
        outputs = []
        for block in self.blocks:
            sequence = block(sequence, memory, self.rotation)
            outputs.append(sequence)
        return outputs

    def attention(self, first: Tensor, restore: Tensor | None, second: Tensor) -> list[Tensor]:
        """Where each patch of the first view looks in the second, block by block: (N, L, L) each, rows of sum 1."""
        sequence, memory = self.inputs(first, restore, second)
        assert memory is not None
        looks = []
        for block in self.blocks:
            assert isinstance(block, CrossBlock)
            sequence = block.within(sequence, self.rotation)
            looks.append(block.looks(sequence, memory, self.rotation))
            sequence = block.across(sequence, memory, self.rotation)
        return looks


def hooks(depth: int, count: int = 3) -> list[int]:
    """Which of `depth` blocks a head reads: `count` equally spaced ones, the last among them; or all of fewer."""
    return sorted({round((number + 1) * depth / count) - 1 for number in range(count)} - {-1})


class DenseHead(nn.Module):
    """A light head from tokens of several layers to a map as large as the image.

    The authors use DPT (Ranftl et al., arXiv 2103.13413), whose maps grow step by step; here each patch's tokens are
    added up, mixed with the neighbours', and give all pixels of the patch at once, at a tenth of the cost.

    Args:
        widths: of the tokens of each layer.
        grid: patches per side.
        patch_size: pixels per side of a patch.
        channels: of the result.
        width: of the tokens inside.
    """

    def __init__(self, widths: Sequence[int], grid: int, patch_size: int, channels: int, width: int = 128) -> None:
        super().__init__()
        self.grid, self.patch_size = grid, patch_size
        self.norms = nn.ModuleList(nn.LayerNorm(each) for each in widths)
        self.projections = nn.ModuleList(nn.Linear(each, width) for each in widths)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.predict = nn.Linear(width, channels * patch_size**2)

    def forward(self, layers: Sequence[Tensor]) -> Tensor:
        """Tokens (N, L, width) of each layer -> (N, channels, S, S)."""
        added = _added(self.norms, self.projections, layers)
        planes = added.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        mixed = functional.gelu(added + self.mix(functional.gelu(planes)).flatten(2).transpose(1, 2))
        side = self.grid * self.patch_size
        return patches.unpatchify(self.predict(mixed), self.patch_size, (side, side))


class PoseHead(nn.Module):
    """A head from tokens of several layers to a rotation and a translation.

    Args:
        widths: of the tokens of each layer.
        length: number of patches.
        width: inside; each patch keeps its place.
    """

    def __init__(self, widths: Sequence[int], length: int, width: int = 128) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(each) for each in widths)
        self.projections = nn.ModuleList(nn.Linear(each, width) for each in widths)
        self.narrow = nn.Linear(width, 16)
        self.mix = nn.Sequential(nn.Linear(16 * length, 2 * width), nn.GELU(), nn.Linear(2 * width, 9))

    def forward(self, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Tokens (N, L, width) of each layer -> rotations (N, 3, 3) and translations (N, 3)."""
        added = functional.gelu(_added(self.norms, self.projections, layers))
        numbers = self.mix(functional.gelu(self.narrow(added)).flatten(1))
        # near no rotation at first: the columns start at the axes
        columns = numbers[:, :6] + constant([1.0, 0.0, 0.0, 0.0, 1.0, 0.0], numbers)
        return orthogonal(columns), numbers[:, 6:]


def _added(norms: nn.ModuleList, projections: nn.ModuleList, layers: Sequence[Tensor]) -> Tensor:
    parts = [project(norm(layer)) for norm, project, layer in zip(norms, projections, layers, strict=True)]
    return torch.stack(parts).sum(0)


def orthogonal(numbers: Tensor) -> Tensor:
    """Rotations from two columns each, made orthogonal one after the other (Zhou et al., arXiv 1812.07035).

    Args:
        numbers: float, (N, 6).

    Returns:
        (N, 3, 3), determinant 1.
    """
    first = functional.normalize(numbers[:, :3], dim=1)
    second = functional.normalize(numbers[:, 3:] - (first * numbers[:, 3:]).sum(1, keepdim=True) * first, dim=1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], dim=2)
