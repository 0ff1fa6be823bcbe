"""Distance to labelled nodes: how far is a node from the labelled nodes of each class?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141:
Distance2Labeled, the first of their pretext tasks that know the downstream task. A linear head regresses, for every
unlabelled node and class, a statistic of the distances to the labelled training nodes of that class. The text takes
mean, minimum and maximum of the hops, the authors' code the mean of the inverse hops, which is the default.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref
from unlabel.task import Batch
from unlabel_graph import hops, nodes
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.hops import Target
from unlabel_graph.nodes import NodeTask
from unlabel_graph.sparse import cache_last

__all__ = ["Distance2Labeled", "Statistic", "label_targets", "paper", "quick", "tiny"]

Statistic = Literal["mean", "min", "max"]


def label_targets(
    edge_index: Tensor,
    labels: Tensor,
    classes: int,
    kind: Target = "inverse",
    statistics: tuple[Statistic, ...] = ("mean",),
) -> Tensor:
    """What is to be predicted: float32 (N, len(statistics) * classes), all classes of one statistic together.

    Args:
        edge_index: int64 (2, E), undirected.
        labels: int64 (N,), -1 for unlabelled.
        classes: C; a class without labelled nodes has target 0.
        kind: of each distance, see `unlabel_graph.hops.Target`; a labelled node is at 0 from itself either way.
        statistics: over the labelled nodes of a class.
    """
    known = (labels >= 0).nonzero()[:, 0]
    distance = hops.targets(hops.from_sources(edge_index, len(labels), known), kind)  # (N, labelled)
    functions = {"mean": lambda d: d.mean(dim=1), "min": lambda d: d.amin(dim=1), "max": lambda d: d.amax(dim=1)}
    # text: mean, min and max of the hops, (N, 3 C); authors' code: mean of 1 / hops, (N, C)
    targets = torch.zeros(len(labels), len(statistics), classes, device=labels.device)
    for number in labels[known].unique().tolist():
        of_class = distance[:, labels[known] == number]
        for place, name in enumerate(statistics):
            targets[:, place, number] = functions[name](of_class)
    return targets.flatten(1)


class Distance2Labeled(NodeTask):
    """Regression of distances to the labelled nodes of each class. Needs labels.

    Args:
        encoder: any graph encoder.
        target: inverse hops, or hops.
        statistics: of the distances to a class: ``mean``, ``min``, ``max``.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes; by default that of the data.
        drop: dropout on the representations.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        target: Target = "inverse",
        statistics: tuple[Statistic, ...] = ("mean",),
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.target, self.statistics = target, statistics
        self.head = nn.Linear(encoder.dim, self.known_classes() * len(statistics))
        self._targets = cache_last(label_targets)

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error over the unlabelled nodes."""
        labels = nodes.training_labels(batch)
        truth = self._targets(batch["edge_index"], labels, self.known_classes(), self.target, self.statistics)
        unlabelled = labels < 0
        # L_self = mean over D_U and targets of (W e_i - d_i)^2; D_U: every node without a training label
        return {"loss": F.mse_loss(self.head(dropped)[unlabelled], truth[unlabelled])}


def paper() -> Recipe:
    """Joint training, lambda 100 (Cora; 10 CiteSeer, 1 PubMed), 2 s there on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/distance2labeled --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/distance2labeled", 100)


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/distance2labeled``"""
    return nodes.joint("graph/distance2labeled", 20, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/distance2labeled --recipe tiny``"""
    return nodes.tiny("graph/distance2labeled", encoder="graph/gat")
