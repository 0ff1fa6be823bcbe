"""Distance to clusters: how far is a node from the centre of each part of the graph?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141:
Distance2Clusters. METIS cuts the graph into k parts; a part's centre is its node with most neighbours within the part;
a linear head regresses, for every node, a number for each of the k centres. The text takes the hops, the authors' code
their inverse, which is the default. Their code takes numbers within a part for numbers in the graph, so that its
centres are arbitrary nodes; here they are the centres.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import hops, nodes, partitions
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.hops import Target
from unlabel_graph.nodes import NodeTask
from unlabel_graph.sparse import cache_last

__all__ = ["Distance2Clusters", "cluster_targets", "paper", "quick", "tiny"]


def cluster_targets(edge_index: Tensor, partition: Tensor, kind: Target = "inverse") -> Tensor:
    """What is to be predicted: float32 (N, parts).

    Args:
        edge_index: int64 (2, E), undirected.
        partition: int64 (N,).
        kind: ``"inverse"``: 1 / hops, 0 for the centre itself and where there is no path; ``"hops"``: 0 for the
            centre itself, and two more than the largest where there is no path.
    """
    centres = partitions.centres(edge_index, partition)  # c_1 ... c_k, numbers in the whole graph
    return hops.targets(hops.from_sources(edge_index, len(partition), centres), kind)


class Distance2Clusters(NodeTask):
    """Regression of distances to the centres of a partition.

    Args:
        encoder: any graph encoder.
        clusters: number of parts; the paper has 10 for Cora and CiteSeer, 30 for PubMed.
        target: inverse hops, or hops.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes of the nodes; by default that of the data.
        drop: dropout on the representations.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        clusters: int = 10,
        target: Target = "inverse",
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        if clusters < 1:
            raise UsageError(f"clusters {clusters}: expected 1 or more; 10 is the paper's for small graphs")
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.clusters, self.target = clusters, target
        self.head = nn.Linear(encoder.dim, clusters)  # (N, D) -> (N, k)
        self._targets = cache_last(self._computed)

    @staticmethod
    def _computed(edge_index: Tensor, given: Tensor | None, nodes: int, clusters: int, target: Target) -> Tensor:
        partition = partitions.metis(edge_index, nodes, clusters) if given is None else given
        targets = cluster_targets(edge_index, partition, target)
        return F.pad(targets, (0, clusters - targets.shape[1]))  # METIS may leave a part empty

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error over all nodes and centres."""
        given = batch.get(f"partition_{self.clusters}")
        truth = self._targets(batch["edge_index"], given, len(hidden), self.clusters, self.target)
        # L_self = mean over all nodes and centres of ((W e_i)_a - target of d(i, c_a))^2
        return {"loss": F.mse_loss(self.head(dropped), truth)}


def paper() -> Recipe:
    """Joint training, lambda 20 (Cora; the authors' 100 fits their arbitrary centres), 2 s on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/distance2clusters --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/distance2clusters", 20)


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/distance2clusters``"""
    return nodes.joint("graph/distance2clusters", 20, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests; no labels. ``unlabel train graph/distance2clusters --recipe tiny``"""
    return nodes.tiny("graph/distance2clusters", clusters=4)
