"""Random target: regression of numbers that mean nothing; the control that every pretext task has to beat.

Any auxiliary regression regularises. Here each node has fixed random numbers, uniform in [0, 1), to be regressed by a
linear head as in Distance2Clusters of Jin et al., 2020, arXiv 2006.10141; a gain that this task has too is no effect of
what a pretext task is about. Not a method.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref, seeds
from unlabel.task import Batch
from unlabel_graph import nodes
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.nodes import NodeTask
from unlabel_graph.sparse import cache_last

__all__ = ["RandomTarget", "paper", "quick", "random_targets", "tiny"]


def random_targets(nodes: int, width: int, seed: int) -> Tensor:
    """float32 (N, width), uniform in [0, 1), always the same for a seed."""
    generator = torch.Generator().manual_seed(seeds.mix(seed, 0x4A4D))
    return torch.rand(nodes, width, generator=generator)


class RandomTarget(NodeTask):
    """Regression of random numbers.

    Args:
        encoder: any graph encoder.
        width: numbers of each node.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes of the nodes; by default that of the data.
        drop: dropout on the representations.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        width: int = 10,
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.width = width
        self.head = nn.Linear(encoder.dim, width)
        self._targets = cache_last(random_targets)

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error over all nodes and numbers; 1/12 when only the mean is learnt."""
        truth = self._targets(len(hidden), self.width, int(self.draw))
        # Distance2Clusters' loss, and its number of targets, on targets that mean nothing
        return {"loss": F.mse_loss(self.head(dropped), truth.to(dropped.device))}


def paper() -> Recipe:
    """Joint training, lambda 20, the control of the other tasks' paper recipes, 2 s for Cora on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/random_target --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/random_target", 20)


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/random_target``"""
    return nodes.joint("graph/random_target", 20, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests; no labels. ``unlabel train graph/random_target --recipe tiny``"""
    return nodes.tiny("graph/random_target", encoder="graph/gin")
