"""How nodes hear from their neighbours: the normalisations that graph convolutions differ in, as sparse matrices.

``edge_index`` is (2, E): row 0 sends, row 1 receives. In every matrix, row i collects what node i receives.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel_graph.sparse import Sparse

__all__ = ["directed", "in_order", "mean", "ones", "symmetric", "with_self_loops", "without_self_loops"]


def in_order(edge_index: Tensor, nodes: int) -> Tensor:
    """The edges sorted by receiver, then sender; as they are if they already are."""
    key = edge_index[1] * nodes + edge_index[0]
    if len(key) < 2 or bool((key[1:] >= key[:-1]).all()):
        return edge_index
    return edge_index[:, torch.argsort(key)]


def without_self_loops(edge_index: Tensor) -> Tensor:
    """The edges that join two nodes."""
    return edge_index[:, edge_index[0] != edge_index[1]]


def with_self_loops(edge_index: Tensor, nodes: int) -> Tensor:
    """The edges that join two nodes and exactly one self-loop a node, in order."""
    loops = torch.arange(nodes, device=edge_index.device).expand(2, -1)
    return in_order(torch.cat([without_self_loops(edge_index), loops], dim=1), nodes)


def ones(edge_index: Tensor, nodes: int) -> Sparse:
    """The adjacency matrix of binary edges: each node gets the sum of its neighbours."""
    edges = in_order(edge_index, nodes)
    return Sparse.of(edges[1], edges[0], torch.ones(edges.shape[1], device=edges.device), (nodes, nodes))


def mean(edge_index: Tensor, nodes: int) -> Sparse:
    """Each node gets the mean of its neighbours; 0 if it has none. In float64; `Sparse.to` rounds it."""
    matrix = ones(edge_index, nodes).to(torch.float64)
    return matrix.scaled(1 / matrix.indptr.diff().clamp_min(1).double())


def symmetric(edge_index: Tensor, nodes: int) -> Sparse:
    """``(D + I)^-1/2 (A + I) (D + I)^-1/2`` of an undirected graph, D the row sums of A (Kipf and Welling, 1609.02907).

    A self-loop of the graph itself counts 1 in D and makes the diagonal 2 before normalising.

    Args:
        edge_index: int64, (2, E): both directions of every edge, none twice.
        nodes: N.

    Returns:
        (N, N), its own transpose.
    """
    loops = torch.arange(nodes, device=edge_index.device)
    edges = in_order(torch.cat([without_self_loops(edge_index), loops.expand(2, -1)], dim=1), nodes)
    degree = torch.bincount(edge_index[1], minlength=nodes) + 1.0
    own = torch.ones(nodes, device=edges.device)
    own[edge_index[0][edge_index[0] == edge_index[1]]] += 1
    scale = degree.rsqrt()  # D~^-1/2 of eq. 2, (N,)
    values = torch.where(edges[0] == edges[1], own[edges[1]], 1.0) * scale[edges[0]] * scale[edges[1]]
    return Sparse.of(edges[1], edges[0], values, (nodes, nodes), symmetric=True)  # A^, (N, N)


def directed(edge_index: Tensor, nodes: int) -> Sparse:
    """``1 / sqrt(outdegree(sender) * indegree(receiver))`` on exactly the edges given, degrees at least 1.

    No self-loop is added, degrees are those of these edges, and they need not come in both directions: the "both"
    normalisation of DGL.

    Args:
        edge_index: int64, (2, E).
        nodes: N.

    Returns:
        (N, N); the row of a node that receives nothing is empty.
    """
    edges = in_order(edge_index, nodes)
    out = torch.bincount(edges[0], minlength=nodes).clamp_min(1).float().rsqrt()
    into = torch.bincount(edges[1], minlength=nodes).clamp_min(1).float().rsqrt()
    return Sparse.of(edges[1], edges[0], out[edges[0]] * into[edges[1]], (nodes, nodes))
