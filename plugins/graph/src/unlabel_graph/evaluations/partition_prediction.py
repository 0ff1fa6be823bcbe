"""Partition prediction: do representations tell in which part of the graph a node lies?

The labels are a METIS partition: the one that came with the data, or one made with ``pymetis``. Otherwise as
`frozen_classification` (the protocol of ParetoGNN, arXiv 2210.02016).
"""

from __future__ import annotations

import statistics

from unlabel.evaluate.features import Frozen
from unlabel_graph import embeddings, one_vs_rest, partitions

__all__ = ["partition_prediction"]


def partition_prediction(
    frozen: Frozen,
    *,
    parts: int = 10,
    repeats: int = 10,
    share: float = 0.2,
    folds: int = 5,
    grid: tuple[float, ...] = one_vs_rest.GRID,
) -> dict[str, float]:
    """Accuracy of a linear classifier of the parts of the graph.

    Args:
        frozen: what to judge.
        parts: number of parts.
        repeats: random divisions of the nodes.
        share: of the nodes that is learnt from.
        folds: halvings that choose the strength.
        grid: strengths to choose from.

    Returns:
        ``accuracy``, mean over the divisions, and ``spread``, their standard deviation.

    Raises:
        UsageError: there is no partition and no ``pymetis``, or a keyword is out of range.
    """
    nodes, features = embeddings.of(frozen)
    labels = partitions.of(nodes.context(), parts).numpy()
    accuracies = one_vs_rest.accuracies(features, labels, repeats=repeats, share=share, folds=folds, grid=grid)
    return {"accuracy": statistics.fmean(accuracies), "spread": statistics.pstdev(accuracies)}
