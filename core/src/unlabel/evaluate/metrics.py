"""Scores of predictions and of clusterings, and the spread of a score over seeds.

Predictions and labels are int64 tensors of shape (N,). scikit-learn and SciPy are imported where they are used:
the training loop monitors accuracy, and need not wait a second for them to load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = [
    "accuracy",
    "adjusted_rand",
    "balanced_accuracy",
    "clustering_accuracy",
    "confusion",
    "intersection_over_union",
    "interval",
    "mutual_information",
    "top_k_accuracy",
]


def accuracy(predictions: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Share of predictions that equal their label, in [0, 1]."""
    return (predictions == labels).double().mean().item()


def balanced_accuracy(predictions: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Mean over the classes that occur in `labels` of the share of the class that was recognised, in [0, 1]."""
    present, rows, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    hits = torch.zeros(len(present), dtype=torch.float64).index_add_(0, rows, (predictions == labels).double())
    return float((hits / counts).mean())


def top_k_accuracy(ranked: Int[Tensor, "n classes"], labels: Int[Tensor, " n"], k: int) -> float:
    """Share of samples whose label is among the first k of `ranked` (int64, (N, classes), best first)."""
    return (ranked[:, :k] == labels[:, None]).any(dim=1).double().mean().item()


def confusion(
    predictions: Int[Tensor, " n"], labels: Int[Tensor, " n"], classes: int
) -> Int[Tensor, "{classes} {classes}"]:
    """Count pairs: int64, (classes, classes); row is the label, column the prediction."""
    return torch.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def intersection_over_union(table: Int[Tensor, "c c"]) -> Float[Tensor, " c"]:
    """Of each class of a confusion table: hits / (labels + predictions - hits); NaN for one that never occurs.

    Args:
        table: int64, (classes, classes), see `confusion`.

    Returns:
        float64, (classes,), in [0, 1].
    """
    hits = table.diagonal().double()
    return hits / (table.sum(dim=0) + table.sum(dim=1) - hits)


def mutual_information(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Mutual information over the mean of the two entropies (NMI), in [0, 1]."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(labels.numpy(), clusters.numpy()))


def adjusted_rand(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Rand index adjusted for chance (Hubert & Arabie, 1985): 1 is the same partition, 0 is expected by chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(labels.numpy(), clusters.numpy()))


def clustering_accuracy(clusters: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Accuracy under the best one-to-one naming of clusters by classes (Hungarian algorithm), in [0, 1]."""
    from scipy.optimize import linear_sum_assignment

    table = confusion(clusters, labels, 1 + int(torch.maximum(clusters.max(), labels.max()))).numpy()
    rows, columns = linear_sum_assignment(table, maximize=True)
    return float(table[rows, columns].sum() / len(labels))


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Mean of independent runs and the half width of its Student-t confidence interval.

    Returns:
        (mean, half width); the half width of a single run is infinite: one run says nothing about the spread.
    """
    from scipy.stats import t

    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.inf
    freedom = len(values) - 1
    variance = math.fsum((value - mean) ** 2 for value in values) / freedom
    return mean, float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(variance / len(values))
