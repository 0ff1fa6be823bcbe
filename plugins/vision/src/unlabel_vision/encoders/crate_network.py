"""CRATE: a transformer whose layers are steps of an optimisation, and can be read as such.

Yu et al. 2023, arXiv 2306.01129; in this form Pai et al. 2024, arXiv 2404.02446. A layer takes tokens Z one step down
the rate of coding them in K learned subspaces, R^c(Z; U) (multi-head subspace self-attention, MSSA), and then one step
of ISTA towards a non-negative sparse code in a learned dictionary D, which keeps the rate R(Z) of coding them at all.

torch and timm are all this file needs: an exported encoder's README holds it whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["CrateBlock", "CrateNetwork", "Ista", "Layer", "Mssa", "ista"]


def ista(tokens: Tensor, dictionary: Tensor, eta: float, threshold: float, fused: bool = True) -> Tensor:
    """One step of proximal gradient descent on the non-negative LASSO, from `tokens` as the code and as the signal.

    In columns, z = ReLU(v + eta D^T (v - D v) - eta lambda): the gradient of ||v - D z||^2 / 2 at z = v, and the
    proximal map of lambda ||z||_1 with z >= 0.

    Args:
        tokens: v, (..., d), one a row.
        dictionary: D, (d, d).
        eta: length of the step.
        threshold: lambda.
        fused: two products with D instead of three; the same but for rounding.

    Returns:
        (..., d), no entry below zero.
    """
    if fused:
        ascent = functional.linear(tokens - functional.linear(tokens, dictionary), dictionary.T)  # D^T (v - D v)
    else:
        ascent = functional.linear(tokens, dictionary.T)
        ascent = ascent - functional.linear(functional.linear(tokens, dictionary), dictionary.T)
    return functional.relu(tokens + eta * ascent - eta * threshold)


class Ista(nn.Module):
    """`ista` with a learned dictionary.

    Args:
        dim: width of the tokens.
        eta, threshold, fused: see `ista`.
    """

    def __init__(self, dim: int, eta: float = 0.1, threshold: float = 0.5, fused: bool = True):
        super().__init__()
        self.eta, self.threshold, self.fused = eta, threshold, fused
        self.dictionary = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(dim, dim)))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., dim) -> the same, no entry below zero."""
        return ista(tokens, self.dictionary, self.eta, self.threshold, self.fused)


class Mssa(nn.Module):
    """Multi-head subspace self-attention: tokens move towards those like them within each of K subspaces.

    One linear map gives queries, keys and values at once: a token's coordinates in the subspaces. In theory the way
    back is the transposed map; the authors' networks learn one of its own.

    Args:
        dim: width of the tokens.
        heads: subspaces, of dim / heads dimensions each.
        tied_output: go back by the transposed map, without a bias.

    Attributes:
        fused_attn: attend by torch's fused kernel; otherwise by two products and a softmax, the same numbers.
    """

    def __init__(self, dim: int, heads: int, tied_output: bool = False):
        super().__init__()
        self.heads, self.fused_attn = heads, True
        self.subspaces = nn.Linear(dim, dim, bias=False)
        self.out = None if tied_output else nn.Linear(dim, dim)

    def coordinates(self, tokens: Tensor) -> Tensor:
        """Coordinates in each subspace: (N, T, dim) -> (N, heads, T, dim / heads)."""
        result: Tensor = self.subspaces(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return result

    def merged(self, mixed: Tensor) -> Tensor:
        """Back from the subspaces: (N, heads, T, dim / heads) -> (N, T, dim)."""
        joined = mixed.transpose(1, 2).flatten(2)
        if self.out is None:
            return functional.linear(joined, self.subspaces.weight.T)
        output: Tensor = self.out(joined)
        return output

    def project(self, tokens: Tensor, keys: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The coordinates as queries, and those of the first tokens as keys and values.

        (N, T, dim) -> (N, heads, T, width), and twice (N, heads, keys, width).
        """
        shared = self.coordinates(tokens)
        first = shared if keys is None else shared[:, :, :keys]
        return shared, first, first

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T, dim), normalised -> what is added to them: (N, T, dim)."""
        return self.mix(self.coordinates(tokens))

    def mix(self, coordinates: Tensor) -> Tensor:
        """The same from their `coordinates`."""
        if not self.fused_attn:
            scores = coordinates * coordinates.shape[-1] ** -0.5 @ coordinates.transpose(-2, -1)
            return self.merged(scores.softmax(-1) @ coordinates)
        return self.merged(functional.scaled_dot_product_attention(coordinates, coordinates, coordinates))


class Layer(NamedTuple):
    """What a layer makes of its tokens Z^l.

    Attributes:
        coordinates: of the normalised Z^l in the layer's subspaces, (N, heads, T, dim / heads).
        compressed: Z^(l + 1/2), (N, T, dim), after attention.
        code: Z^(l + 1), (N, T, dim), after ISTA; no entry below zero.
    """

    coordinates: Tensor
    compressed: Tensor
    code: Tensor


class CrateBlock(nn.Module):
    """One layer: compress (MSSA, with a residual), then sparsify (ISTA, without one).

    Args:
        dim, heads, tied_output: see `Mssa`.
        eta, threshold, fused: see `ista`.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        eta: float = 0.1,
        threshold: float = 0.5,
        fused: bool = True,
        tied_output: bool = False,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.attn = Mssa(dim, heads, tied_output)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.ista = Ista(dim, eta, threshold, fused)

    def forward(self, tokens: Tensor, attend: Callable[[nn.Module, Tensor], Tensor] | None = None) -> Layer:
        """(N, T, dim) -> see `Layer`; `attend` takes the place of `Mssa`, given it and the normalised tokens."""
        normalised = self.norm1(tokens)
        coordinates = self.attn.coordinates(normalised)
        moved = self.attn.mix(coordinates) if attend is None else attend(self.attn, normalised)
        compressed = tokens + moved  # Z^(l+1/2) = Z + MSSA(Z | U)
        return Layer(coordinates, compressed, self.ista(self.norm2(compressed)))  # Z^(l+1) = ISTA(Z^(l+1/2) | D)


class CrateNetwork(nn.Module):
    """Patches, class token, positions, layers, norm, pooling.

    Args:
        image_size, patch_size: pixels.
        dim, depth, heads: width, layers, subspaces of each.
        eta, threshold, fused: see `ista`.
        tied_output: see `Mssa`.
        class_token: whether there is one.
        pool: "token" or "avg", the mean over the patches.
    """

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        dim: int,
        depth: int,
        heads: int,
        eta: float = 0.1,
        threshold: float = 0.5,
        fused: bool = True,
        tied_output: bool = False,
        class_token: bool = True,
        pool: str = "token",
    ):
        super().__init__()
        self.pool = pool
        self.patch_embed = PatchEmbed(image_size, patch_size, 3, dim)
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, dim)) if class_token else None
        rows = self.patch_embed.num_patches + int(class_token)
        self.pos_embed = nn.Parameter(torch.zeros(1, rows, dim), requires_grad=False)
        self.norm_pre = nn.Identity()
        self.blocks = nn.ModuleList(CrateBlock(dim, heads, eta, threshold, fused, tied_output) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        """Float, (N, 3, S, S), normalised -> features (N, dim)."""
        tokens = self.patch_embed(images)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = self.norm_pre(tokens + self.pos_embed)
        for block in self.blocks:
            tokens = block(tokens).code
        tokens = self.norm(tokens)
        assert isinstance(tokens, Tensor)
        if self.pool == "token":
            return tokens[:, 0]
        return tokens[:, int(self.cls_token is not None) :].mean(1)
