"""Linear probe: how much of the classes can a linear classifier read off frozen features?

Two protocols. ``"lbfgs"`` is exact: L2-regularised multinomial logistic regression on standardised features, its
strength chosen on a fifth of the training samples, never on held-out ones. It is the one to compare small data sets
with. ``"lars"`` is that of He et al. (2111.06377, appendix A.1) on cached features: batch normalisation without
parameters, one linear layer, LARS, cosine schedule. It differs from theirs in that features are of the evaluation
transform, computed once, not of a fresh augmentation in every epoch. LARS moves weights by a share of their own norm,
in all about ``epochs * samples * learning_rate / 256000`` times that norm, and ten times as much with momentum; with
fewer than some hundred thousand samples its defaults are too short, and ``"lbfgs"`` is the fair choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import data, optim, seeds
from unlabel.errors import UsageError
from unlabel.evaluate import metrics
from unlabel.evaluate.features import Frozen, Inputs

__all__ = ["choose", "linear_probe", "logistic", "sgd", "standardise"]

_VALIDATION = 0.2


def standardise(train: Tensor, *others: Tensor) -> list[Tensor]:
    """Subtract the training mean and divide by the training standard deviation, dimension by dimension.

    Args:
        train: float, (N, D); only its statistics are used.
        others: float, (M, D) each.

    Returns:
        `train` and `others`, float64. A dimension that is constant but for rounding becomes 0 in `train`.
    """
    train = train.double()
    mean, std = train.mean(dim=0), train.std(dim=0, correction=0)
    constant = std <= 1e-6 * mean.abs()  # float32 features carry 1e-7; dividing by that would blow up noise
    scale = torch.where(constant, torch.zeros_like(std), 1 / std)
    return [(part.double() - mean) * scale for part in (train, *others)]


def logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    strength: float,
    *,
    start: Tensor | None = None,
    tolerance: float = 1e-7,
) -> Tensor:
    """Multinomial logistic regression by L-BFGS in float64.

    Minimises scikit-learn's objective ``strength * sum(cross entropy) + ||weight||^2 / 2``, with a free bias, divided
    by ``strength * N`` so that tolerances do not depend on the number of samples.

    Args:
        features: float64, (N, D).
        labels: int64, (N,), in [0, classes); or float64, (N, classes): how much each sample counts for each class,
            N in all.
        classes: number of classes.
        strength: C, the inverse of the regularisation; above 0.
        start: where to start from, a result for another strength; by default zero.
        tolerance: largest entry of the gradient to stop at (or after 1000 iterations), in variables in which the
            objective curves by about 1 in every direction; so weights are exact to about ``sqrt(C N)`` times that.

    Returns:
        float64, (classes, D + 1): weight, and the bias as last column.
    """
    # Features are correlated, and gradient methods crawl along the flat directions: a thousand steps instead of
    # thirty. At equal probabilities the curvature is (1/K)(1 - 1/K) X'X / N + 1 / (C N) for every class; its Cholesky
    # factor L gives variables u = w L in which it is 1. The optimum is the same.
    flat = 1 / (strength * len(features))
    curvature = (1 / classes) * (1 - 1 / classes) * (features.T @ features) / len(features)
    factor = torch.linalg.cholesky(
        curvature + flat * torch.eye(len(curvature), dtype=features.dtype, device=features.device)
    )
    rows = torch.linalg.solve_triangular(factor, features.T, upper=False).T  # X L^-T
    solution = features.new_zeros(classes, features.shape[1] + 1)
    if start is not None:
        solution.copy_(torch.cat([start[:, :-1] @ factor, start[:, -1:]], dim=1))
    solution.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [solution],
        max_iter=1000,
        max_eval=2000,
        tolerance_grad=tolerance,
        tolerance_change=1e-14,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def weights() -> Tensor:
        solved: Tensor = torch.linalg.solve_triangular(factor, solution[:, :-1], upper=False, left=False)  # u L^-1
        return solved

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(_scores(rows, solution), labels) + weights().square().sum() * flat / 2
        value.backward()
        return value

    optimizer.step(objective)
    with torch.no_grad():
        return torch.cat([weights(), solution[:, -1:]], dim=1)


def _scores(features: Tensor, solution: Tensor) -> Tensor:
    return features @ solution[:, :-1].T + solution[:, -1]


def choose(features: Tensor, labels: Tensor, classes: int, grid: Sequence[float], seed: int) -> float:
    """The strength of `grid` with the best accuracy on a stratified fifth of the samples, learning from the others.

    Equal accuracies choose the strongest regularisation. Where no class has enough samples to spare one, there is
    nothing to choose by, and it is the middle of the grid.

    Args:
        features: float, (N, D), not standardised: the statistics, too, come from the part that is learnt from.
        labels: int64, (N,).
        classes: number of classes.
        grid: strengths above 0.
        seed: of the division.
    """
    strengths = sorted(grid)
    parts = data.holdout(labels.cpu().numpy(), len(labels), _VALIDATION, seed)
    train, validation = (torch.from_numpy(part).to(labels.device) for part in parts)
    if not len(validation):
        return strengths[len(strengths) // 2]
    rows, held_out = standardise(features[train], features[validation])
    solution, best, best_accuracy = None, strengths[0], -1.0
    for strength in strengths:  # each starts from the one before: most of the way is done
        solution = logistic(rows, labels[train], classes, strength, start=solution, tolerance=1e-6)
        score = metrics.accuracy(_scores(held_out, solution).argmax(dim=1), labels[validation])
        if score > best_accuracy:
            best, best_accuracy = strength, score
    return best


def sgd(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    epochs: int = 90,
    batch_size: int = 16384,
    learning_rate: float = 0.1,
    warmup_epochs: float = 10,
    seed: int = 0,
) -> nn.Module:
    """Train batch normalisation without parameters and a linear layer by LARS: momentum 0.9, no weight decay.

    Args:
        features: float32, (N, D), N at least 2.
        labels: int64, (N,).
        classes: number of classes.
        epochs: passes over the features.
        batch_size: at most N of it is used; a last batch that is not full is left out, as the paper's code does.
        learning_rate: for a batch of 256, scaled linearly to this one.
        warmup_epochs: linear warm-up; then a cosine to 0.
        seed: of the first weights and the order.

    Returns:
        The classifier in evaluation mode, on the device of `features`: float32, (M, D) -> (M, classes).
    """
    size = min(batch_size, len(features))
    linear = nn.Linear(features.shape[1], classes)
    nn.init.trunc_normal_(linear.weight, std=0.01, generator=torch.Generator().manual_seed(seeds.mix(seed)))
    nn.init.zeros_(linear.bias)
    # momentum=None: statistics of frozen features do not drift, so all batches count the same, even if they are few
    normalise = nn.BatchNorm1d(features.shape[1], affine=False, eps=1e-6, momentum=None)
    model = nn.Sequential(normalise, linear).to(features.device)
    optimizer = optim.LARS(linear.parameters(), lr=0.0)  # the rest of its defaults are the paper's too
    peak, per_epoch = learning_rate * size / 256, len(features) // size

    for step in range(epochs * per_epoch):
        epoch, number = divmod(step, per_epoch)
        if number == 0:
            order = torch.from_numpy(seeds.permutation(len(features), seed, epoch)).to(features.device)
        rows = order[number * size : (number + 1) * size]
        optimizer.param_groups[0]["lr"] = optim.warmup_cosine(step / per_epoch, epochs, warmup_epochs, peak=peak)
        optimizer.zero_grad()
        F.cross_entropy(model(features[rows]), labels[rows]).backward()
        optimizer.step()
    return model.eval()


def linear_probe(
    frozen: Frozen,
    *,
    protocol: Literal["lbfgs", "lars"] = "lbfgs",
    grid: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0),
    epochs: int = 90,
    batch_size: int = 16384,
    learning_rate: float = 0.1,
    warmup_epochs: float = 10,
    inputs: Inputs = "features",
) -> dict[str, float]:
    """Accuracy on the held-out samples of a linear classifier of frozen features.

    Args:
        frozen: what to judge.
        protocol: ``"lbfgs"`` or ``"lars"``; see the module.
        grid: lbfgs: strengths C to choose from.
        epochs: lars: passes over the features.
        batch_size: lars: samples per update.
        learning_rate: lars: for a batch of 256, scaled linearly.
        warmup_epochs: lars: linear warm-up.
        inputs: ``"features"``, or ``"raw"`` for the control without an encoder.

    Returns:
        ``accuracy``, ``balanced_accuracy``, and with lbfgs the ``C`` that was chosen.

    Raises:
        UsageError: no labels, no held-out part, or a keyword out of range.
    """
    if not grid or min(grid) <= 0:
        raise UsageError(f"grid {grid} must hold strengths C above 0, e.g. (0.001, 0.1)")
    if epochs < 1 or warmup_epochs >= epochs:
        raise UsageError(f"{warmup_epochs:g} epochs of warm-up of {epochs} in all: expected fewer")
    query, truth = frozen.labelled("test", inputs)  # first: if it is missing, the user learns at once
    features, labels = frozen.labelled("train", inputs)
    device, classes = frozen.engine.device, len(frozen.classes)
    features, labels, query = features.to(device), labels.to(device), query.to(device)

    extra: dict[str, float] = {}
    if protocol == "lbfgs":
        extra["C"] = choose(features, labels, classes, grid, frozen.seed)
        rows, query = standardise(features, query)
        scores = _scores(query, logistic(rows, labels, classes, extra["C"]))
    else:
        model = sgd(
            features,
            labels,
            classes,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_epochs=warmup_epochs,
            seed=frozen.seed,
        )
        with torch.inference_mode():
            scores = model(query)
    best = scores.argmax(dim=1).cpu()
    return {
        "accuracy": metrics.accuracy(best, truth),
        "balanced_accuracy": metrics.balanced_accuracy(best, truth),
        **extra,
    }
