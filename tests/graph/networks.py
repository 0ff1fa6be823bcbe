"""Small graphs for tests, as the loop hands them to a task."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unlabel.task import Batch
from unlabel_graph.datasets.sbm import BlockModel
from unlabel_graph.encoders.gcn import gcn
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.graph import Graph, Nodes, checked

FEATURES, CLASSES = 20, 3


def path(nodes: int) -> Tensor:
    """0 - 1 - 2 - ..., both directions."""
    return both(torch.arange(nodes - 1), torch.arange(1, nodes))


def both(first: Tensor, second: Tensor) -> Tensor:
    """Undirected edges in both directions: int64 (2, 2E)."""
    return torch.cat([torch.stack([first, second]), torch.stack([second, first])], dim=1)


def blocks(**options: object) -> BlockModel:
    """Ninety nodes in three communities, four labels each."""
    fields = {"nodes": 90, "number_of_classes": CLASSES, "features": FEATURES, "train_per_class": 4}
    return BlockModel(**{**fields, "validation_per_class": 6, **options})


def batch_of(dataset: Nodes) -> Batch:
    """All nodes at once."""
    return {**dataset.context(), **dataset.table()}


def encoder(seed: int = 0, **options: object) -> Encoder:
    torch.manual_seed(seed)
    return gcn(**{"features": FEATURES, "widths": (8,), **options})


def relabelled(dataset: Nodes, order: np.ndarray) -> Nodes:
    """The same graph with node `order[i]` called i."""
    graph, place = dataset.graph, np.argsort(order)
    masks = {name: mask[order] for name, mask in dataset.masks.items()}
    partitions = {parts: assignment[order] for parts, assignment in graph.partitions.items()}
    moved = Graph(graph.x[order], place[graph.edge_index], graph.labels[order], masks, graph.classes, partitions)
    return Nodes(checked(moved, "relabelled"), "relabelled")
