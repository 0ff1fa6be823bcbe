"""Several losses, one update: their weighted sum, or the weights of the minimum-norm point.

The minimum-norm point of the convex hull of the tasks' gradients is a direction that makes no task
worse, or zero if there is none (Désidéri 2012; Sener and Koltun, arXiv 1810.04650).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from unlabel.errors import RunError, UsageError, nearest

__all__ = ["minimum_norm", "total"]


def total(terms: dict[str, Tensor], weights: dict[str, float] | None = None) -> Tensor:
    """The scalar to differentiate, out of a task's named scalars.

    Args:
        terms: what `Task.loss` returns: either ``"loss"``, or several that start with ``"loss_"``; all
            others are metrics and are ignored here.
        weights: factor of each loss by its full name; 1 where none is given.

    Returns:
        The weighted sum, a scalar.

    Raises:
        UsageError: if no term is a loss, if ``"loss"`` comes with ``"loss_..."`` (which one drives?), or
            if a weight has the name of no loss.
    """
    losses = {name: value for name, value in terms.items() if name == "loss" or name.startswith("loss_")}
    if not losses:
        found = ", ".join(terms) or "nothing"
        raise UsageError(f"the task returned no loss: expected 'loss' or names like 'loss_spread', got {found}")
    if "loss" in losses and len(losses) > 1:
        parts = ", ".join(name for name in losses if name != "loss")
        raise UsageError(
            f"the task returned 'loss' and also {parts}: return the parts alone, or rename them for the log"
        )
    weights = weights or {}
    for name in weights:
        if name not in losses:
            hint = nearest(name, losses) or f"; the losses are {', '.join(losses)}"
            raise UsageError(f"weight {name!r} belongs to no loss of this task{hint}")
    weighted = [value * weights[name] if name in weights else value for name, value in losses.items()]
    return functools.reduce(torch.add, weighted)


def minimum_norm(gram: Tensor) -> Tensor:
    """Weights of the shortest vector in the convex hull of several vectors, from their inner products.

    Solves ``min ||sum_k a_k g_k||^2`` over ``a >= 0, sum(a) = 1`` by Wolfe's active-set algorithm
    ("Finding the nearest point in a polytope", 1976), which is exact after finitely many steps, unlike
    Frank-Wolfe iterations. The long vectors are needed once, for their inner products, and never again.
    Tasks of different scale should be normalised before (e.g. each g_k to length 1).

    Args:
        gram: float, (T, T): inner products of the T vectors; symmetric, any device.

    Returns:
        float64, (T,), on the device of `gram`: non-negative, sum 1. The resulting vector d satisfies
        ``<d, g_k> >= <d, d>`` for all k.

    Raises:
        RunError: if an inner product is not finite.
    """
    products = gram.detach().to("cpu", torch.float64)
    if not bool(products.isfinite().all()):
        raise RunError("gradients of the tasks are not finite, so no common direction exists")
    tasks = len(products)
    longest = products.diagonal().max()
    if longest > 0:
        products = products / longest  # the weights do not change; the equations below are better conditioned

    weights = torch.zeros(tasks, dtype=torch.float64)
    weights[products.diagonal().argmin()] = 1.0
    for _ in range(10 * tasks * tasks):  # a handful in practice; the bound is for rounding errors alone
        slopes = products @ weights
        entering = int(slopes.argmin())
        if weights[entering] > 0 or slopes[entering] >= weights @ slopes - 1e-12:
            break
        weights = _descend(products, weights, entering)
    return (weights / weights.sum()).to(gram.device)


def _descend(products: Tensor, weights: Tensor, entering: int) -> Tensor:
    """Go to the shortest vector of the face that the positive weights and `entering` span, or of a smaller one."""
    face = weights > 0
    face[entering] = True
    while True:
        target = torch.zeros_like(weights)
        target[face] = _affine_minimum(products[face][:, face])
        if bool((target[face] > 0).all()):
            return target
        # The face's optimum lies outside the hull: walk towards it until the first weight becomes zero.
        falling = face & (target <= 0)
        ratios = weights[falling] / (weights[falling] - target[falling])
        weights = weights + ratios.min() * (target - weights)
        face[falling.nonzero()[ratios.argmin(), 0]] = False
        weights = torch.where(face, weights, 0.0)


def _affine_minimum(products: Tensor) -> Tensor:
    """Weights of sum 1, of any sign, with the shortest combination: the equations of its Lagrangian."""
    count = len(products)
    system = torch.ones(count + 1, count + 1, dtype=torch.float64)
    system[:count, :count] = products
    system[count, count] = 0.0
    right = torch.zeros(count + 1, 1, dtype=torch.float64)
    right[count] = 1.0
    solution: Tensor = torch.linalg.lstsq(system, right, driver="gelsd").solution
    return solution[:count, 0]
