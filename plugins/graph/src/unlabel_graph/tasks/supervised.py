"""Supervised: classification of nodes from a few labels; what the pretext tasks on nodes are compared and joined with.

Kipf and Welling, "Semi-Supervised Classification with Graph Convolutional Networks", 2016, arXiv 1609.02907.
With the defaults, the two-layer GCN of SelfTask (2006.10141): one graph convolution of 128 units, ReLU, dropout 0.5,
a second one to the classes; no dropout of the attributes. Only training labels enter the loss.
"""

from __future__ import annotations

from torch import Tensor

from unlabel import Recipe, Ref
from unlabel.task import Batch
from unlabel_graph import nodes
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.nodes import NodeTask

__all__ = ["Supervised", "paper", "quick", "tiny"]


class Supervised(NodeTask):
    """Cross-entropy on the labelled training nodes.

    Args:
        encoder: any graph encoder.
        classes: number of classes; by default that of the data.
        drop: dropout on the representations, before the classifier.
        select: keep the weights of the update that is best on the validation nodes, the later one of two equals.
    """

    def __init__(self, encoder: Encoder, *, classes: int | None = None, drop: float = 0.5, select: bool = True):
        super().__init__(encoder, supervised=True, classes=classes, drop=drop, select=select)
        self.objective = "supervised"

    def enter_stage(self, stage: object) -> None:
        """Every stage has the one objective there is."""

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        raise AssertionError("there is none, and the objective never asks for it")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``"loss"``: mean cross-entropy of the labelled training nodes; ``"accuracy"`` of the same, under dropout."""
        terms = super().loss(batch)
        return {"loss": terms.pop("loss_supervised"), **terms}  # Kipf and Welling, eq. 10, of the model of eq. 9


def _recipe(dataset: Ref, steps: int, hidden: int) -> Recipe:
    like = nodes.joint("graph/supervised", 0, steps=steps, dataset=dataset, hidden=hidden)
    stage = like.stages[0].model_copy(update={"weights": {}})
    return like.model_copy(update={"task": Ref("graph/supervised"), "stages": [stage]})


def paper() -> Recipe:
    """Plain GCN of SelfTask, Planetoid's public split, 2 s for Cora on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/supervised --recipe paper --data planetoid/Cora``
    """
    return _recipe(Ref("graph/planetoid"), 200, 128)


def quick() -> Recipe:
    """The same on the generated graph, seconds on a CPU. ``unlabel train graph/supervised``"""
    return _recipe(Ref("graph/sbm"), 100, 64)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/supervised --recipe tiny``"""
    return _recipe(Ref("graph/sbm", nodes=120, features=24, number_of_classes=3), 4, 8)
