"""Objectives that compare representations: with a summary of the graph, with another view, with what was masked.

Pure functions of tensors; the pretext tasks of ParetoGNN and the methods they come from share them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

__all__ = [
    "correlation",
    "full_precision",
    "graph_summary",
    "info_nce",
    "scaled_cosine",
    "standardised",
    "summary_loss",
    "unit_rows",
]


def full_precision(values: Tensor) -> Tensor:
    """The same numbers in float32 at least: what autocast computed in half the bits is summed up in all of them."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def unit_rows(rows: Tensor) -> Tensor:
    """Rows of length 1, float32; a row of zeros stays: float (N, D) -> (N, D).

    torch's own `normalize` gives a row of zeros a gradient of 1e12, and one node that hears from nobody is enough.
    """
    rows = full_precision(rows)
    length = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(length > 0, length, 1.0)


def scaled_cosine(predicted: Tensor, target: Tensor, exponent: float) -> Tensor:
    """Scaled cosine error (Hou et al., arXiv 2205.10803, eq. 2): ``mean_i (1 - cos_i) ** exponent``.

    Args:
        predicted, target: float (N, D).
        exponent: gamma, at least 1.
    """
    predicted, target = full_precision(predicted), full_precision(target)
    # cheaper than products of unit rows: nothing of the size of the attributes is divided; see `unit_rows` for zeros
    lengths = predicted.norm(dim=1) * target.norm(dim=1)
    cosine = (predicted * target).sum(dim=1) / torch.where(lengths > 0, lengths, 1.0)
    return (1 - cosine).pow(exponent).mean()  # eq. 2


def graph_summary(hidden: Tensor) -> Tensor:
    """``sigmoid(mean_i h_i)`` (Velickovic et al., arXiv 1809.10341): float (N, D) -> (D,)."""
    return hidden.mean(dim=0).sigmoid()  # s = R(H), their readout


def summary_loss(real: Tensor, corrupted: Tensor, weight: Tensor) -> Tensor:
    """Can a bilinear critic tell nodes of the graph from corrupted ones, by the graph's summary? The sum of two means.

    Args:
        real, corrupted: float (N, D): representations; the summary is that of `real`, and passes gradients on.
        weight: float (D, D): the critic's, ``D(h) = h W s``.

    Returns:
        Scalar; ``2 log 2`` where the critic says nothing.
    """
    critic = weight @ graph_summary(real)  # (D,)
    yes, no = real @ critic, corrupted @ critic  # logits of D(h, s) = sigmoid(h W s): (N,) each
    # eq. 1: E log D(h, s) + E log(1 - D(h~, s)), negated
    return F.softplus(-full_precision(yes)).mean() + F.softplus(full_precision(no)).mean()


def info_nce(first: Tensor, second: Tensor, temperature: float, rows: int = 4096) -> Tensor:
    """GRACE's contrast (Zhu et al., arXiv 2006.04131, eq. 1-2): a node's other view against all nodes of both views.

    Each node of a graph or a sub-graph is there once, so that no row is a twin of another.

    Args:
        first, second: float (N, D), the same nodes in two views; need not be normalised.
        temperature: tau, above 0.
        rows: so many nodes at a time; with more of them, similarities are computed again on the way back instead of
            kept, so that memory grows by N and not by its square.

    Returns:
        float (N,): the loss of each node, the mean of both directions.
    """
    left, right = unit_rows(first), unit_rows(second)
    if len(left) <= rows and temperature >= _COLD:
        once: Tensor = _Contrast.apply(left, right, temperature)  # type: ignore[no-untyped-call]
        return once
    losses = []
    for start in range(0, len(left), rows):
        part = slice(start, start + rows)
        own = (left[part] * right[part]).sum(dim=1) / temperature  # theta(u_i, v_i) / tau
        forward = checkpoint(_log_sum, left[part], right, left, temperature, start, use_reentrant=False)
        backward = checkpoint(_log_sum, right[part], left, right, temperature, start, use_reentrant=False)
        losses.append((forward + backward) / 2 - own)  # the terms of eq. 2, negated
    return torch.cat(losses)


_COLD = 0.03
"""Temperature below which ``exp((cos - 1) / tau)`` may vanish in float32, and sums of it need more care."""


_BLOCK = 512
"""Nodes whose similarities are computed together: what is made on the way then fits a cache."""


class _Contrast(torch.autograd.Function):
    """All similarities, with the gradient written out: five products of N^2 D where autograd needs nine.

    ``E = exp((S - 1) / tau)`` for the similarities S between the views and within each (without the diagonal). The loss
    of node i is ``(log A_i + log B_i) / 2 + (1 - S_ii) / tau``, A and B the sums over i's row in its two views.
    Similarities within a view are symmetric: of each block of rows, only the columns from there on are computed.
    """

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, temperature: float) -> Tensor:
        own = ((left * right).sum(dim=1) - 1) / temperature
        rows, columns = torch.zeros_like(own), torch.zeros_like(own)
        blocks = []
        for start in range(0, len(left), _BLOCK):
            part = slice(start, start + _BLOCK)
            between = _similar(left[part], right, temperature)
            one, two = (_similar(view[part], view[start:], temperature) for view in (left, right))
            rows[part] += between.sum(dim=1)
            columns += between.sum(dim=0)
            for within, sums in ((one, rows), (two, columns)):
                within.fill_diagonal_(0)  # k != i
                sums[part] += within.sum(dim=1)
                sums[start + _BLOCK :] += within[:, _BLOCK:].sum(dim=0)
            blocks += [between, one, two]
        ctx.save_for_backward(left, right, rows, columns, *blocks)
        ctx.temperature = temperature
        ctx.autocast = torch.is_autocast_enabled(left.device.type), torch.get_autocast_dtype(left.device.type)
        return (rows.log() + columns.log()) / 2 - own  # eq. 1 in both directions, mean; the shift by 1 / tau cancels

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        left, right, rows, columns, *blocks = ctx.saved_tensors
        u, v = gradient / (2 * rows), gradient / (2 * columns)
        to_left, to_right = -gradient[:, None] * right, -gradient[:, None] * left
        enabled, dtype = ctx.autocast
        with torch.autocast(left.device.type, dtype=dtype, enabled=enabled):
            for number, start in enumerate(range(0, len(left), _BLOCK)):
                part, later = slice(start, start + _BLOCK), slice(start + _BLOCK, None)
                between, one, two = blocks[3 * number : 3 * number + 3]
                across = (u[part, None] + v).mul_(between)
                to_left[part] += across @ right
                to_right += across.T @ left[part]
                for within, scale, view, into in ((one, u, left, to_left), (two, v, right, to_right)):
                    both = (scale[part, None] + scale[start:]).mul_(within)
                    into[part] += both @ view[start:]
                    into[later] += both[:, _BLOCK:].T @ view[part]
        return to_left / ctx.temperature, to_right / ctx.temperature, None


def _similar(rows: Tensor, others: Tensor, temperature: float) -> Tensor:
    """``exp((cos - 1) / tau)`` of rows of length 1: (R, N)."""
    return full_precision(rows @ others.T).sub_(1).div_(temperature).exp_()


def _others(rows: Tensor, view: Tensor, temperature: float, start: int) -> Tensor:
    """Log-sum of the similarities within a view, (R,), those of a node with itself left out."""
    within = full_precision(rows @ view.T) / temperature
    return within.diagonal_scatter(torch.full_like(within.diagonal(start), -torch.inf), start).logsumexp(dim=1)


def _log_sum(rows: Tensor, other: Tensor, own: Tensor, temperature: float, start: int) -> Tensor:
    # eq. 1's denominator: all nodes of the other view, and all but itself of its own
    between = (full_precision(rows @ other.T) / temperature).logsumexp(dim=1)
    return torch.logaddexp(between, _others(rows, own, temperature, start))


def standardised(hidden: Tensor) -> Tensor:
    """Each column with mean 0 and unbiased variance 1, float32: float (N, D) -> (N, D). There is no epsilon."""
    hidden = full_precision(hidden)
    return (hidden - hidden.mean(dim=0)) / hidden.std(dim=0)  # as CCA-SSG's and ParetoGNN's code: N - 1


def correlation(normalised: Tensor) -> Tensor:
    """``Z^T Z / N``: float (N, D) -> (D, D), in full precision: it is to be compared with the identity."""
    with torch.autocast(normalised.device.type, enabled=False):
        return normalised.T @ normalised / len(normalised)
