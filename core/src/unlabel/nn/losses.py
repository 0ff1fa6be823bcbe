"""Losses that several methods share. Every one computes in float32 at least, also under autocast.

With several processes, negatives may come from all of them: `gather` concatenates a tensor over the
processes along the batch in rank order and sums the gradients of all copies on the way back (as
`unlabel.engine.gather` does). Each process then computes the rows of its own samples. The mean of these
local losses over the processes is the loss of the whole batch, and gradients averaged over the processes
are its gradient, exactly, if every process has as many samples.

A batch may hold a sample twice: where it straddles two epochs, or an order repeats samples. Such twins are no negatives
of each other: given the `index` of each row's sample, a contrast leaves them out. Without twins nothing changes.

A sample may lack what it is contrasted with, a clip its sound or a picture its text. Given which samples are `paired`,
`info_nce` leaves the others out, as queries and as keys, whatever finite numbers their rows hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped

__all__ = [
    "Gather",
    "info_nce",
    "info_nce_queue",
    "masked_accuracy",
    "masked_cross_entropy",
    "masked_mean",
    "negative_cosine",
    "nt_xent",
    "symmetric_info_nce",
]

Gather = Callable[[Tensor], Tensor]
"""Concatenates (N, ...) over the processes, in rank order, to (world * N, ...), differentiably."""


def _full(values: Tensor) -> Tensor:
    """At least float32; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _unit(rows: Tensor) -> Tensor:
    return functional.normalize(_full(rows), dim=-1)


def _products(left: Float[Tensor, "n d"], right: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """All inner products of rows, outside autocast, which would round them: (N, D), (M, D) -> (N, M)."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right.T


def _without_twins(
    logits: Float[Tensor, "n m"],
    positive: Int[Tensor, " n"],
    index: Int[Tensor, " n"] | None,
    others: Int[Tensor, " m"] | None,
) -> Float[Tensor, "n m"]:
    """Logits with minus infinity where a column is of the row's own sample, but for the row's positive.

    Args:
        logits: float, (N, M).
        positive: int64, (N,): the column that stays.
        index: int64, (N,): the sample of each row; None leaves all as they are.
        others: int64, (M,): the sample of each column.
    """
    if index is None or others is None:
        return logits
    twin = (index[:, None] == others).scatter(1, positive[:, None], False)
    return logits.masked_fill(twin, -torch.inf)


def nt_xent(
    z1: Float[Tensor, "n d"],
    z2: Float[Tensor, "n d"],
    temperature: float,
    gather: Gather | None = None,
    rank: int = 0,
    index: Int[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Normalised temperature-scaled cross-entropy over 2N views (Chen et al., arXiv 2002.05709, eq. 1).

    Each view is to be recognised by the other view of its sample among all views but itself.

    Args:
        z1: float, (N, D): one view of each sample; normalised here.
        z2: float, (N, D): the other view.
        temperature: divides the cosines.
        gather: takes negatives from all processes; see the module.
        rank: this process's place in what `gather` returns.
        index: int64, (N,): the sample of each row, for twins; see the module.

    Returns:
        Scalar, >= 0; the mean over this process's 2N rows. ln(2N - 1) for identical embeddings.
    """
    own = torch.stack([_unit(z1), _unit(z2)], dim=1)  # (N, 2, D): the views of a sample are neighbours
    everyone = own if gather is None else gather(own)  # one message for both views
    logits = _products(own.flatten(0, 1), everyone.flatten(0, 1)) / temperature  # (2N, 2N * world)

    row = torch.arange(len(logits), device=logits.device)
    itself = row + rank * len(row)
    partner = itself ^ 1  # the neighbour: 0 <-> 1, 2 <-> 3, ...
    logits[row, itself] = -torch.inf  # 1[k != i] of eq. 1
    if index is not None:
        samples = index if gather is None else gather(index)
        logits = _without_twins(logits, partner, index.repeat_interleave(2), samples.repeat_interleave(2))
    return functional.cross_entropy(logits, partner)


def info_nce(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "n d"],
    temperature: float,
    *,
    scale: float | None = None,
    gather: Gather | None = None,
    rank: int = 0,
    index: Int[Tensor, " n"] | None = None,
    paired: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Recognise the key of each query among the keys of the batch (van den Oord et al., arXiv 1807.03748).

    Nothing is detached: a key branch without gradient has to come without.

    Args:
        query: float, (N, D); normalised here.
        key: float, (N, D): row i belongs to query i; normalised here.
        temperature: divides the cosines.
        scale: multiplies the loss; None is 2 * temperature, with which the size of the gradient hardly
            depends on the temperature (Chen, Xie, He, arXiv 2104.02057).
        gather: takes keys from all processes; see the module.
        rank: this process's place in what `gather` returns.
        index: int64, (N,): the sample of each row, for twins; see the module.
        paired: bool, (N,): which samples have both; None: all. See the module.

    Returns:
        Scalar, >= 0; the mean over this process's queries. With `paired`, their sum over the mean number of pairs a
        process, so that the mean over the processes is that over all pairs; 0 without any.
    """
    keys, samples = _unit(key), index
    if gather is not None:
        keys = gather(keys)
        samples = None if index is None else gather(index)
    logits = _products(_unit(query), keys) / temperature  # (N, N * world): eq. 1 of 2104.02057
    label = torch.arange(len(logits), device=logits.device) + rank * len(logits)
    logits = _without_twins(logits, label, index, samples)
    factor = 2.0 * temperature if scale is None else scale
    if paired is None:
        return functional.cross_entropy(logits, label) * factor
    everyone = paired.long() if gather is None else gather(paired.long())
    # rows of other samples are made equal, or their infinite losses would be NaN in the gradient
    logits = logits.masked_fill(everyone == 0, -torch.inf).where(paired[:, None], 0.0)
    losses = functional.cross_entropy(logits, label, reduction="none")
    return masked_mean(losses, paired, (everyone.sum() * len(paired) / len(everyone)).clamp_min(1.0)) * factor


def symmetric_info_nce(
    query1: Float[Tensor, "n d"],
    query2: Float[Tensor, "n d"],
    key1: Float[Tensor, "n d"],
    key2: Float[Tensor, "n d"],
    temperature: float,
    *,
    scale: float | None = None,
    gather: Gather | None = None,
    rank: int = 0,
    index: Int[Tensor, " n"] | None = None,
    paired: Bool[Tensor, " n"] | None = None,
) -> Float[Tensor, ""]:
    """Queries of view 1 against keys of view 2, plus the reverse (Chen, Xie, He, arXiv 2104.02057, alg. 1).

    Args and returns: as `info_nce`; the two directions are added, not averaged.
    """
    forth = info_nce(query1, key2, temperature, scale=scale, gather=gather, rank=rank, index=index, paired=paired)
    return forth + info_nce(
        query2, key1, temperature, scale=scale, gather=gather, rank=rank, index=index, paired=paired
    )


def info_nce_queue(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "n d"],
    queue: Float[Tensor, "k d"],
    temperature: float,
    twin: Bool[Tensor, "n k"] | None = None,
) -> Float[Tensor, ""]:
    """Recognise the key of each query among a queue of keys of earlier batches (He et al., arXiv 1911.05722).

    Args:
        query: float, (N, D); normalised here.
        key: float, (N, D): row i belongs to query i; normalised here.
        queue: float, (K, D), rows of length 1: negatives for every query. Add `key` to it after the loss.
        temperature: divides the cosines.
        twin: bool, (N, K): rows of the queue that are no negatives of a query; None takes all as such.

    Returns:
        Scalar, >= 0; the mean over the queries.
    """
    queries = _unit(query)
    positive = (queries * _unit(key)).sum(dim=1, keepdim=True)
    others = _products(queries, _full(queue))
    if twin is not None:
        others = others.masked_fill(twin, -torch.inf)
    logits = torch.cat([positive, others], dim=1) / temperature  # (N, 1 + K): eq. 1
    return functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def masked_mean(
    error: Shaped[Tensor, "n l"], mask: Shaped[Tensor, "n l"], denominator: Shaped[Tensor, ""] | None = None
) -> Float[Tensor, ""]:
    """Mean error of the removed tokens: one ratio over the whole batch, not a mean of the samples' means.

    Args:
        error: float, (N, L).
        mask: float, (N, L): 1 where the token counts.
        denominator: what to divide by instead of this process's ``mask.sum()``: give the mean of that
            count over the processes, and the mean of the losses over the processes is the global ratio.
            Not needed when every sample hides as many tokens.

    Returns:
        Scalar; NaN if the mask is empty.
    """
    weights = _full(mask)
    return (_full(error) * weights).sum() / (weights.sum() if denominator is None else denominator)


def masked_cross_entropy(
    logits: Float[Tensor, "n l c"],
    truth: Int[Tensor, "n l"],
    weights: Shaped[Tensor, "n l"],
    labels: Float[Tensor, "c c"] | None = None,
    denominator: Shaped[Tensor, ""] | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the tokens that count: one ratio over the whole batch, as in `masked_mean`.

    Args:
        logits: float, (N, L, C).
        truth: int64, (N, L): class of each token; anything in range where the weight is 0.
        weights: float, (N, L), non-negative; 1 and 0 are a mask.
        labels: float, (C, C): row c is the target where class c is true, of sum 1; None for c alone.
        denominator: see `masked_mean`; needed where the sum of the weights differs between processes.

    Returns:
        Scalar; log C for equal logits, whatever the labels; NaN if no token counts.
    """
    target = truth.flatten() if labels is None else _full(labels)[truth.flatten()]
    error = functional.cross_entropy(_full(logits).flatten(0, 1), target, reduction="none")
    return masked_mean(error.view(truth.shape), weights, denominator)


@torch.no_grad()
def masked_accuracy(
    logits: Float[Tensor, "n l c"], truth: Int[Tensor, "n l"], weights: Shaped[Tensor, "n l"]
) -> Float[Tensor, ""]:
    """Share of the tokens that count whose largest logit is the true class; arguments as `masked_cross_entropy`."""
    return masked_mean(logits.argmax(-1) == truth, weights)


def negative_cosine(prediction: Float[Tensor, "*rows d"], target: Float[Tensor, "*rows d"]) -> Float[Tensor, ""]:
    """Minus the mean cosine of matching rows (Chen, He, arXiv 2011.10566, eq. 1), in [-1, 1].

    Nothing is detached. ``2 + 2 * negative_cosine(p, z)`` is the mean squared distance of the normalised
    rows (Grill et al., arXiv 2006.07733, eq. 2): twice the gradient, so a learning rate goes with one form.

    Args:
        prediction: float, (N, D).
        target: float, (N, D).
    """
    return -(_unit(prediction) * _unit(target)).sum(dim=-1).mean()
