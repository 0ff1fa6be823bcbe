"""Pairs of nodes: drawing distinct ones, and what a head sees of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["difference", "distinct", "non_edges", "unkeyed"]


class _Difference(torch.autograd.Function):
    """``|e_i - e_j|`` in place where torch's own operations make six copies of the pairs' rows."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, pairs: Tensor) -> Tensor:
        differences = hidden.index_select(0, pairs[0]).sub_(hidden.index_select(0, pairs[1]))
        ctx.save_for_backward(pairs, differences.sign())
        ctx.rows = len(hidden)
        return differences.abs_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        pairs, sign = ctx.saved_tensors
        signed = gradient * sign
        to_hidden = gradient.new_zeros(ctx.rows, gradient.shape[1])
        to_hidden.index_add_(0, pairs[0], signed)
        return to_hidden.index_add_(0, pairs[1], signed.neg_()), None


def difference(hidden: Tensor, pairs: Tensor) -> Tensor:
    """``|e_i - e_j|``: float (P, D), from float (N, D) and int64 (2, P); its gradient where they are equal is 0."""
    differences: Tensor = _Difference.apply(hidden, pairs)  # type: ignore[no-untyped-call]
    return differences


def unkeyed(keys: Tensor, nodes: int) -> Tensor:
    """Pairs int64 (2, P) out of keys ``i * nodes + j``."""
    return torch.stack([keys // nodes, keys % nodes])


def distinct(count: int, total: int, device: torch.device | str = "cpu") -> Tensor:
    """`count` different numbers below `total` (all of them if there are no more), uniformly; in no special order.

    Costs time and memory of `count`, not of `total`, where few are drawn out of many.
    """
    if count >= total:
        return torch.arange(total, device=device)
    if total < 4 * count:
        return torch.randperm(total, device=device)[:count]
    numbers = torch.empty(0, dtype=torch.int64, device=device)
    while len(numbers) < count:
        numbers = torch.cat([numbers, torch.randint(total, (count + count // 8 + 8,), device=device)]).unique()
    return numbers[torch.randperm(len(numbers), device=device)[:count]]


def non_edges(count: int, edge_index: Tensor, nodes: int, generator: torch.Generator | None = None) -> Tensor:
    """Pairs i < j that no edge joins, distinct, uniformly.

    Args:
        count: how many are wanted; fewer come back only if the graph has hardly any.
        edge_index: int64 (2, E), undirected.
        nodes: N.
        generator: what to draw from; by default torch's own.

    Returns:
        int64 (2, at most count).
    """
    taken = (edge_index[0] * nodes + edge_index[1])[edge_index[0] < edge_index[1]]
    keys = torch.empty(0, dtype=torch.int64)
    for _ in range(100):
        drawn = torch.randint(nodes, (2, count + count // 4 + 16), generator=generator)
        low, high = drawn.min(dim=0).values, drawn.max(dim=0).values
        fresh = (low * nodes + high)[low < high].to(edge_index.device)
        fresh = fresh[~torch.isin(fresh, taken)].cpu()
        keys = torch.cat([keys, fresh]).unique()
        if len(keys) >= count:
            break
    keys = keys[torch.randperm(len(keys), generator=generator)[:count]]
    return unkeyed(keys, nodes).to(edge_index.device)
