"""Several losses, one update: their weighted sum, or the weights of the minimum-norm point.

The minimum-norm point of the convex hull of the tasks' gradients is a direction that makes no task
worse, or zero if there is none (Désidéri 2012; Sener and Koltun, arXiv 1810.04650).
"""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor

from unlabel.errors import RunError, UsageError, nearest

__all__ = ["Normalisation", "balance", "cosines", "divisors", "minimum_norm", "total"]

Normalisation = Literal["l2", "loss", "loss+norm", "none"]
"""What each task's gradient is divided by before the minimum-norm point is sought: its length, its task's loss,
both, or nothing. Without it the task with the shortest gradient gets nearly all the weight."""


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
        names = ", ".join(terms) or "nothing"
        raise UsageError(f"the task returned no loss: expected 'loss' or names like 'loss_spread', got {names}")
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


def balance(gram: Tensor, losses: Tensor, normalise: Normalisation = "l2") -> Tensor:
    """Weights of the tasks at the minimum-norm point of their normalised gradients.

    A task whose gradient is zero is made worse by no direction to first order. It would be the minimum-norm point
    all by itself and stop the others, so it is left out of the hull; it keeps the weight 1 / T.

    Args:
        gram: float, (T, T): inner products of the tasks' gradients with respect to what they share.
        losses: float, (T,): the tasks' losses; read only where `normalise` asks for them.
        normalise: see `Normalisation`.

    Returns:
        float64, (T,), on the CPU: non-negative, sum 1.

    Raises:
        RunError: an inner product is not finite, or a loss to divide by is not above 0.
    """
    products = gram.detach().to("cpu", torch.float64)
    weights = torch.full((len(products),), 1 / len(products), dtype=torch.float64)
    reached = ~(products.diagonal() == 0)  # not a number counts as reached, and is refused below
    if bool(reached.any()):
        scale = divisors(products, losses, normalise)[reached]
        inside = products[reached][:, reached] / torch.outer(scale, scale)
        weights[reached] = minimum_norm(inside) * reached.double().mean()
    return weights


def divisors(gram: Tensor, losses: Tensor, normalise: Normalisation) -> Tensor:
    """What each task's gradient is divided by: float64, (T,), on the CPU; arguments and errors as in `balance`."""
    norms = gram.detach().to("cpu", torch.float64).diagonal().sqrt()
    if normalise == "none":
        return torch.ones_like(norms)
    if normalise == "l2":
        return norms
    values = losses.detach().to("cpu", torch.float64)
    if not bool((values > 0).all()):
        raise RunError(
            f"normalise={normalise!r} divides by the losses, and one of them is {values.min():.6g}, not above 0: "
            "use normalise='l2'"
        )
    return values * norms if normalise == "loss+norm" else values


def cosines(gram: Tensor) -> Tensor:
    """Cosines between the tasks' gradients from their inner products: float64, (T, T), on the CPU; 0 for a zero one."""
    products = gram.detach().to("cpu", torch.float64)
    norms = products.diagonal().sqrt()
    lengths = torch.outer(norms, norms)
    return torch.where(lengths > 0, products / lengths.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


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
        slopes = products @ weights  # <g_k, d>, (T,)
        entering = int(slopes.argmin())
        # optimal once <g_k, d> >= <d, d> for all k: no task gets worse (Sener and Koltun's problem, eq. 3)
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
