"""Node property: how many neighbours does a node have?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141: NodeProperty.
A local property of structure, which a graph convolution nearly has already; the paper finds little use in it. The text
regresses the degree over the unlabelled nodes; the authors' code, and the default here because their lambdas fit it,
classifies it (at most 2, 3 to 7, more) over all nodes. A self-loop of the graph counts 1.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref
from unlabel.task import Batch
from unlabel_graph import nodes
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.nodes import NodeTask
from unlabel_graph.sparse import cache_last

__all__ = ["NodeProperty", "degree_classes", "degrees", "paper", "quick", "tiny"]


def degrees(edge_index: Tensor, nodes: int) -> Tensor:
    """Number of neighbours: int64 (N,), from int64 (2, E), both directions."""
    return torch.bincount(edge_index[1], minlength=nodes)  # d_i = sum_j A_ij


def degree_classes(degree: Tensor) -> Tensor:
    """0 for at most 2, 1 for 3 to 7, 2 for more: int64, same shape."""
    return (degree > 2).long() + (degree > 7).long()  # the bounds are of the authors' code; the text has no classes


class NodeProperty(NodeTask):
    """Prediction of the degree.

    Args:
        encoder: any graph encoder.
        target: three classes of degree, or the degree itself.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes of the nodes; by default that of the data.
        drop: dropout on the representations.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        target: Literal["classes", "degree"] = "classes",
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.target = target
        self.head = nn.Linear(encoder.dim, 3 if target == "classes" else 1)
        self._degrees = cache_last(degrees)

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over all nodes, or mean squared error over the unlabelled ones."""
        degree = self._degrees(batch["edge_index"], len(hidden))
        predicted = self.head(dropped)
        if self.target == "degree":
            unlabelled = batch["train_label"] < 0
            # the text: L_self = mean over D_U of (w e_i - d_i)^2
            return {"loss": F.mse_loss(predicted[unlabelled, 0], degree[unlabelled].float())}
        truth = degree_classes(degree)  # the authors' code: cross-entropy of three classes over all nodes
        right = (predicted.detach().argmax(dim=1) == truth).float().mean()
        return {"loss": F.cross_entropy(predicted, truth), "pretext_accuracy": right}


def paper() -> Recipe:
    """Joint training, lambda 5 (Cora; 0.1 for CiteSeer and PubMed), 3 s there on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/node_property --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/node_property", 5)


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/node_property``"""
    return nodes.joint("graph/node_property", 0.5, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests; no labels. ``unlabel train graph/node_property --recipe tiny``"""
    return nodes.tiny("graph/node_property", encoder="graph/sage")
