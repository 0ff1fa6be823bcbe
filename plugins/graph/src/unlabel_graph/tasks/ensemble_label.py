"""Ensemble label: which classes, by two opinions together, do the nodes around a node have?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141:
EnsembleLabel. As ContextLabel, with pseudo classes that are the largest sum of the scores of label propagation and
of the probabilities of iterative classification.
"""

from __future__ import annotations

from unlabel import Recipe, Ref
from unlabel_graph import nodes
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.pseudo_labels import Words
from unlabel_graph.tasks.context_label import ContextLabel

__all__ = ["EnsembleLabel", "paper", "quick", "tiny"]


class EnsembleLabel(ContextLabel):
    """Regression of the classes around each node, from two sources of pseudo classes. Needs labels.

    Args:
        encoder: any graph encoder.
        words: how iterative classification reads the attributes: as they are; rows of sum 1, the paper's for Cora; 1
            where an attribute is not 0, the paper's for CiteSeer and PubMed.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes; by default that of the data.
        drop: dropout on the representations, and a mask of its own for the pretext head.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        words: Words = "raw",
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        # class = argmax of (scores of label propagation + probabilities of ICA): `pseudo_labels.pseudo_classes`
        super().__init__(
            encoder, labels="ensemble", words=words, supervised=supervised, classes=classes, drop=drop, select=select
        )


def paper() -> Recipe:
    """Joint training, lambda 10 (Cora and PubMed; 8 CiteSeer), 2 s for Cora on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/ensemble_label --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/ensemble_label", 10, words="row")


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/ensemble_label``"""
    return nodes.joint("graph/ensemble_label", 10, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/ensemble_label --recipe tiny``"""
    return nodes.tiny("graph/ensemble_label")
