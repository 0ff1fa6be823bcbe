"""One-versus-rest logistic regression with its strength chosen by cross-validation: how node embeddings are judged.

The objective is liblinear's, with an L2 penalty on the bias too: ``strength * sum log(1 + exp(-y f)) + |w|^2 / 2``.
It is convex and small, so that all classes of all splits are solved at once by Newton's method.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from unlabel import seeds
from unlabel.errors import UsageError

__all__ = ["GRID", "accuracies", "fit", "scores"]

GRID = tuple(2.0**power for power in range(-10, 11))
"""Strengths to choose from."""


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    strength: float,
    start: Tensor | None = None,
    tolerance: float = 1e-4,
) -> Tensor:
    """Solve several problems of the same size at once.

    Args:
        features: float64 (S, N, D): S training sets.
        labels: int64 (S, N), in [0, classes).
        classes: C.
        strength: inverse of the regularisation, above 0.
        start: float64 (S, C, D + 1): where to begin; by default at 0.
        tolerance: a problem is solved when its gradient's norm has fallen to so many times that at 0.

    Returns:
        float64 (S, C, D + 1): weights, the bias last.
    """
    rows = torch.cat([features, torch.ones_like(features[..., :1])], dim=2)  # (S, N, D+1)
    signs = torch.where(labels[:, None] == torch.arange(classes)[:, None], 1.0, -1.0).to(rows.dtype)  # (S, C, N)
    weights = rows.new_zeros(len(rows), classes, rows.shape[2]) if start is None else start.clone()
    identity = torch.eye(rows.shape[2], dtype=rows.dtype)
    limit = tolerance * (strength * 0.5 * (signs @ rows)).norm(dim=2)

    def objective(candidate: Tensor) -> Tensor:
        margins = signs * (candidate @ rows.mT)
        return strength * torch.nn.functional.softplus(-margins).sum(dim=2) + candidate.square().sum(dim=2) / 2

    value = objective(weights)
    for _ in range(100):
        probability = torch.sigmoid(weights @ rows.mT)  # (S, C, N)
        gradient = weights + strength * (probability - (signs + 1) / 2) @ rows
        if bool((gradient.norm(dim=2) <= limit).all()):
            break
        curvature = (strength * probability * (1 - probability))[..., None] * rows[:, None]  # (S, C, N, D+1)
        hessian = curvature.mT @ rows[:, None] + identity
        step = torch.linalg.solve(hessian, gradient)
        size = torch.ones_like(value)
        for _ in range(30):  # halve what does not descend; far from the optimum a full step may overshoot
            candidate = weights - size[..., None] * step
            reached = objective(candidate)
            worse = reached > value + 1e-12 * value.abs()
            if not bool(worse.any()):
                break
            size = torch.where(worse, size / 2, size)
        weights, value = candidate, reached
    return weights


def scores(features: Tensor, weights: Tensor) -> Tensor:
    """Decision values: float64 (S, N, C), from features (S, N, D) and weights (S, C, D + 1)."""
    return features @ weights[..., :-1].mT + weights[..., -1][:, None]


def accuracies(
    features: Tensor,
    labels: np.ndarray,
    *,
    repeats: int = 10,
    share: float = 0.2,
    folds: int = 5,
    grid: Sequence[float] = GRID,
    seed: int = 0,
) -> list[float]:
    """Test accuracy of each of several random divisions of the nodes.

    In each, a classifier learns from a share of the labelled nodes and is scored on all others. Its strength is the
    one with the best mean accuracy over random divisions of the learning nodes into two halves; of equals the smallest.

    Args:
        features: float (N, D): rows of length 1.
        labels: int64 (N,); nodes below 0 take no part.
        repeats: divisions, seeded 1, 2, ...
        share: of the nodes that is learnt from, in (0, 1).
        folds: halvings that choose the strength.
        grid: strengths above 0.
        seed: another number gives other divisions.

    Raises:
        UsageError: a share outside (0, 1), no strength, or too few labelled nodes.
    """
    if not 0 < share < 1 or not grid or min(grid) <= 0:
        raise UsageError(f"share {share} must be in (0, 1), and the grid {tuple(grid)} must hold strengths above 0")
    known = np.flatnonzero(labels >= 0)
    learning = round(share * len(known))
    if learning < 4 or learning == len(known):
        raise UsageError(f"{len(known)} labelled nodes are too few to learn from {share:.0%} of them")
    _, numbers = np.unique(labels[known], return_inverse=True)
    rows, targets = features[torch.from_numpy(known)].double(), torch.from_numpy(numbers)
    classes = int(targets.max()) + 1

    results = []
    for repeat in range(1, repeats + 1):
        order = torch.from_numpy(seeds.permutation(len(known), seed, repeat))
        train, test = order[:learning], order[learning:]
        halves = torch.stack(
            [torch.from_numpy(seeds.permutation(learning, seed, repeat, fold)) for fold in range(folds)]
        )
        inner, outer = train[halves[:, : learning // 2]], train[halves[:, learning // 2 :]]
        best, best_score, weights = 0.0, -1.0, None
        for strength in sorted(grid):  # each starts from the one before
            weights = fit(rows[inner], targets[inner], classes, strength, weights)
            score = float((scores(rows[outer], weights).argmax(dim=2) == targets[outer]).double().mean())
            if score > best_score:
                best, best_score = strength, score
        final = fit(rows[train][None], targets[train][None], classes, best)
        predicted = scores(rows[test][None], final)[0].argmax(dim=1)
        results.append(float((predicted == targets[test]).double().mean()))
    return results
