"""Partitions of a graph into parts with few edges between them, and the parts' centres.

Karypis and Kumar, "A fast and high quality multilevel scheme for partitioning irregular graphs", 1998 (METIS), through
``pymetis`` if it is installed; otherwise a partition that came with the data.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import propagation

__all__ = ["centres", "metis", "of"]


def metis(edge_index: Tensor, nodes: int, parts: int) -> Tensor:
    """METIS's partition with its default options: int64 (N,), in [0, parts).

    Raises:
        UsageError: ``pymetis`` is not installed, or there are fewer nodes than parts.
    """
    if not 1 <= parts <= nodes:
        raise UsageError(f"a graph of {nodes} nodes cannot be cut into {parts} parts")
    try:
        import pymetis
    except ImportError as error:
        raise UsageError(
            f"cutting the graph into {parts} parts needs `pip install 'unlabel-graph[metis]'`, or a file "
            f"partitions.npz beside the data with an integer array k{parts}, one entry a node"
        ) from error
    edges = propagation.in_order(propagation.without_self_loops(edge_index.cpu()), nodes)
    matrix = propagation.ones(edges, nodes)
    adjacency = pymetis.CSRAdjacency(matrix.indptr.tolist(), matrix.columns.tolist())
    membership = pymetis.part_graph(parts, adjacency).vertex_part
    return torch.tensor(membership, dtype=torch.int64, device=edge_index.device)


def of(batch: Batch, parts: int) -> Tensor:
    """The partition of a batch's graph: the one that came with the data, or METIS's: int64 (N,)."""
    given = batch.get(f"partition_{parts}")
    return metis(batch["edge_index"], len(batch["train_label"]), parts) if given is None else given


def centres(edge_index: Tensor, partition: Tensor) -> Tensor:
    """The node of each part with most neighbours within it, the first of several.

    Args:
        edge_index: int64 (2, E), undirected; self-loops do not count.
        partition: int64 (N,), in [0, parts).

    Returns:
        int64 (parts,): numbers of nodes in the whole graph. A part without nodes is left out.
    """
    edges = propagation.without_self_loops(edge_index)
    inside = edges[:, partition[edges[0]] == partition[edges[1]]]
    degree = torch.bincount(inside[1], minlength=len(partition))
    order = torch.argsort(degree, descending=True, stable=True)
    order = order[torch.argsort(partition[order], stable=True)]  # by part, then by degree, then by number
    first = torch.ones(len(order), dtype=torch.bool, device=order.device)
    first[1:] = partition[order][1:] != partition[order][:-1]
    return order[first]
