"""Pairs of nodes: drawing distinct ones, and what a head sees of them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["difference", "distinct", "non_edges", "unkeyed"]


def difference(hidden: Tensor, pairs: Tensor) -> Tensor:
    """``|e_i - e_j|``: float (P, D), from float (N, D) and int64 (2, P)."""
    return (hidden[pairs[0]] - hidden[pairs[1]]).abs()


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
