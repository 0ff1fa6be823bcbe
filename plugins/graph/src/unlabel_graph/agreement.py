"""Objectives that compare representations: with a summary of the graph, with another view, with what was masked.

Pure functions of tensors; the pretext tasks of ParetoGNN and the methods they come from share them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
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
    return (1 - cosine).pow(exponent).mean()


def graph_summary(hidden: Tensor) -> Tensor:
    """``sigmoid(mean_i h_i)`` (Velickovic et al., arXiv 1809.10341): float (N, D) -> (D,)."""
    return hidden.mean(dim=0).sigmoid()


def summary_loss(real: Tensor, corrupted: Tensor, weight: Tensor) -> Tensor:
    """Can a bilinear critic tell nodes of the graph from corrupted ones, by the graph's summary? The sum of two means.

    Args:
        real, corrupted: float (N, D): representations; the summary is that of `real`, and passes gradients on.
        weight: float (D, D): the critic's, ``D(h) = h W s``.

    Returns:
        Scalar; ``2 log 2`` where the critic says nothing.
    """
    critic = weight @ graph_summary(real)  # (D,)
    yes, no = real @ critic, corrupted @ critic
    return F.softplus(-full_precision(yes)).mean() + F.softplus(full_precision(no)).mean()


def info_nce(first: Tensor, second: Tensor, temperature: float, rows: int = 4096) -> Tensor:
    """GRACE's contrast (Zhu et al., arXiv 2006.04131, eq. 1-2): a node's other view against all nodes of both views.

    Args:
        first, second: float (N, D), the same nodes in two views; need not be normalised.
        temperature: tau, above 0.
        rows: so many nodes at a time; with more of them, similarities are computed again on the way back instead of
            kept, so that memory grows by N and not by its square.

    Returns:
        float (N,): the loss of each node, the mean of both directions.
    """
    left, right = unit_rows(first), unit_rows(second)
    if len(left) <= rows:
        between = full_precision(left @ right.T) / temperature  # (N, N)
        forward = torch.logaddexp(between.logsumexp(dim=1), _others(left, left, temperature, 0))
        backward = torch.logaddexp(between.logsumexp(dim=0), _others(right, right, temperature, 0))
        return (forward + backward) / 2 - between.diagonal()
    found = []
    for start in range(0, len(left), rows):
        part = slice(start, start + rows)
        own = (left[part] * right[part]).sum(dim=1) / temperature
        forward = checkpoint(_log_sum, left[part], right, left, temperature, start, use_reentrant=False)
        backward = checkpoint(_log_sum, right[part], left, right, temperature, start, use_reentrant=False)
        found.append((forward + backward) / 2 - own)
    return torch.cat(found)


def _others(rows: Tensor, view: Tensor, temperature: float, start: int) -> Tensor:
    """Log-sum of the similarities within a view, (R,), those of a node with itself left out."""
    within = full_precision(rows @ view.T) / temperature
    return within.diagonal_scatter(torch.full_like(within.diagonal(start), -torch.inf), start).logsumexp(dim=1)


def _log_sum(rows: Tensor, other: Tensor, own: Tensor, temperature: float, start: int) -> Tensor:
    between = (full_precision(rows @ other.T) / temperature).logsumexp(dim=1)
    return torch.logaddexp(between, _others(rows, own, temperature, start))


def standardised(hidden: Tensor) -> Tensor:
    """Each column with mean 0 and unbiased variance 1, float32: float (N, D) -> (N, D). There is no epsilon."""
    hidden = full_precision(hidden)
    return (hidden - hidden.mean(dim=0)) / hidden.std(dim=0)


def correlation(normalised: Tensor) -> Tensor:
    """``Z^T Z / N``: float (N, D) -> (D, D), in full precision: it is to be compared with the identity."""
    with torch.autocast(normalised.device.type, enabled=False):
        return normalised.T @ normalised / len(normalised)
