"""Hop distances from chosen nodes to all others, and pairs of nodes at a given distance."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from unlabel_graph import propagation

__all__ = ["Target", "from_sources", "pairs_within", "targets", "walks"]

Target = Literal["inverse", "hops"]
"""``"inverse"``: 1 / hops, 0 for the source itself and for what cannot be reached. ``"hops"``: the number of hops;
what cannot be reached counts as two more than the largest number."""


def from_sources(edge_index: Tensor, nodes: int, sources: Tensor) -> Tensor:
    """Breadth-first search from every source at once.

    Args:
        edge_index: int64 (2, E), undirected.
        nodes: N.
        sources: int64 (S,).

    Returns:
        int64 (N, S): hops to each source; 0 for itself, -1 where there is no path. Costs E x S for each hop.
    """
    adjacency = propagation.ones(edge_index, nodes)
    distance = torch.full((nodes, len(sources)), -1, dtype=torch.int64, device=edge_index.device)
    frontier = torch.zeros(nodes, len(sources), device=edge_index.device)
    columns = torch.arange(len(sources), device=edge_index.device)
    distance[sources, columns] = 0
    frontier[sources, columns] = 1
    hop = 0
    while frontier.any():
        hop += 1
        new = (adjacency @ frontier > 0) & (distance < 0)  # (N, S): reached now, for the first time
        distance[new] = hop
        frontier = new.float()
    return distance


def targets(distance: Tensor, kind: Target) -> Tensor:
    """What a head regresses to, from hops with -1 for unreachable: float32, same shape."""
    if kind == "inverse":
        return torch.where(distance > 0, 1 / distance.clamp_min(1), 0.0)  # SelfTask's code
    # SelfTask's text, which does not say what is out of reach; two beyond the furthest is ours
    return torch.where(distance < 0, distance.max() + 2, distance).float()


def pairs_within(edge_index: Tensor, nodes: int, sources: Tensor | None = None) -> list[Tensor]:
    """The pairs at distance exactly 1, 2 and 3, out of sparse products; no N x N matrix is made.

    Args:
        edge_index: int64 (2, E), undirected.
        nodes: N.
        sources: int64 (S,): only pairs with one of these nodes; by default all.

    Returns:
        Three ascending int64 tensors of keys ``i * N + j`` with i < j.
    """
    rows = np.arange(nodes) if sources is None else np.unique(sources.cpu().numpy())
    edges = propagation.without_self_loops(edge_index).cpu().numpy()
    ones = np.ones(edges.shape[1], dtype=np.float32)
    adjacency = sparse.csr_array((ones, (edges[1], edges[0])), shape=(nodes, nodes))

    keys_by_hop: list[list[np.ndarray]] = [[], [], []]
    reach = float(walks(edge_index, nodes)[torch.from_numpy(rows).to(edge_index.device)].sum())
    block = max(1, int(4_000_000 * len(rows) / reach))  # bounds what the products hold at once
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        reached = sparse.csr_array((np.ones(len(part)), (np.arange(len(part)), part)), shape=(len(part), nodes))
        seen = reached.astype(np.float32)
        step = seen
        for hop in range(3):
            step = step @ adjacency
            step.data[:] = 1
            new = step - step.multiply(seen > 0)
            new.eliminate_zeros()
            seen = seen + new
            step = new
            entries = new.tocoo()
            i, j = part[entries.row].astype(np.int64), entries.col.astype(np.int64)
            mirrored = np.isin(j, rows) & (j < i) if sources is not None else j < i  # it comes from the other end too
            low, high = np.minimum(i, j)[~mirrored], np.maximum(i, j)[~mirrored]
            keys_by_hop[hop].append(low * nodes + high)
    return [torch.from_numpy(np.sort(np.concatenate(keys))).to(edge_index.device) for keys in keys_by_hop]


def walks(edge_index: Tensor, nodes: int) -> Tensor:
    """An upper bound of how many nodes each one reaches in three steps: float64 (N,), at most N each."""
    adjacency = propagation.ones(edge_index, nodes).to(torch.float64)
    reach = torch.ones(nodes, 1, dtype=torch.float64, device=edge_index.device)
    for _ in range(3):
        reach = (adjacency.times(reach) + reach).clamp_max(nodes)
    return reach[:, 0]
