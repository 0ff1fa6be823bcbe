"""Edges held out for link prediction, in both directions, before anything else sees the graph."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel_graph import pairs

__all__ = ["LinkSplit", "hold_out"]


class LinkSplit(NamedTuple):
    """What is left of a graph, and what is to be predicted.

    Attributes:
        edge_index: int64 (2, E): the edges that are left, in their order; self-loops stay.
        train, validation, test: int64 (2, P) each: the undirected edges of each part, every one once.
        validation_negative, test_negative: int64 (2, P) each: as many pairs that no edge of the graph joins.
    """

    edge_index: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    validation_negative: np.ndarray
    test_negative: np.ndarray


def hold_out(edge_index: np.ndarray, nodes: int, seed: int, *, validation: float = 0.1, test: float = 0.2) -> LinkSplit:
    """Hold out a random share of the edges, always the same for the same seed.

    Args:
        edge_index: int64 (2, E): both directions of every edge.
        nodes: N.
        seed: another number gives another split.
        validation, test: shares of the undirected edges.

    Raises:
        UsageError: so few edges that a part would be empty.
    """
    forward = edge_index[:, edge_index[0] < edge_index[1]]
    count = forward.shape[1]
    tests, validations = int(test * count), int(validation * count)
    if not tests or not validations or count == tests + validations:
        raise UsageError(
            f"holdout_edges: the graph has {count} edges, too few to hold out {validation:.0%} for validation and "
            f"{test:.0%} for the test"
        )
    order = seeds.permutation(count, seed, 0x11E5)
    parts = np.split(forward[:, order], [tests, tests + validations], axis=1)

    hidden = np.concatenate([parts[0], parts[1]], axis=1)
    keys = np.concatenate([hidden[0] * nodes + hidden[1], hidden[1] * nodes + hidden[0]])
    remaining = edge_index[:, ~np.isin(edge_index[0] * nodes + edge_index[1], keys)]

    draw = torch.Generator().manual_seed(seeds.mix(seed, 0x11E6))
    negative = pairs.non_edges(tests + validations, torch.from_numpy(edge_index), nodes, draw).numpy()
    if negative.shape[1] < tests + validations:
        raise UsageError("holdout_edges: nearly all pairs of nodes are joined, so there is nothing to tell edges from")
    return LinkSplit(remaining, parts[2], parts[1], parts[0], negative[:, tests:], negative[:, :tests])
