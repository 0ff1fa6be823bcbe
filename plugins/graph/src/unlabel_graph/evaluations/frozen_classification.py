"""Classification of frozen representations, as papers on unsupervised learning of nodes do it.

Random divisions into a fifth that is learnt from and the rest; one-versus-rest logistic regression on rows of length
1, its strength chosen by five random halvings of the fifth (the protocol of ParetoGNN, arXiv 2210.02016).
"""

from __future__ import annotations

import statistics

from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel_graph import embeddings, one_vs_rest

__all__ = ["frozen_classification"]


def frozen_classification(
    frozen: Frozen,
    *,
    repeats: int = 10,
    share: float = 0.2,
    folds: int = 5,
    grid: tuple[float, ...] = one_vs_rest.GRID,
) -> dict[str, float]:
    """Accuracy of a linear classifier on nodes it did not learn from.

    Args:
        frozen: what to judge.
        repeats: random divisions of the labelled nodes; the data's own split is not used.
        share: of the nodes that is learnt from.
        folds: halvings that choose the strength.
        grid: strengths to choose from.

    Returns:
        ``accuracy``, mean over the divisions, and ``spread``, their standard deviation.

    Raises:
        UsageError: the data have no labels, or a keyword is out of range.
    """
    nodes, features = embeddings.of(frozen)
    if nodes.labels is None or not (nodes.labels >= 0).any():
        raise UsageError("the nodes have no labels, and this evaluation needs them")
    accuracies = one_vs_rest.accuracies(features, nodes.labels, repeats=repeats, share=share, folds=folds, grid=grid)
    return {"accuracy": statistics.fmean(accuracies), "spread": statistics.pstdev(accuracies)}
