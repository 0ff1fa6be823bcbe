"""Retrieval: does a picture find its text among all texts, and a text its picture?

Nothing is trained and no labels are needed: of two outputs of a task (`Task.outputs`), each row of the one ranks all
rows of the other by cosine, and those of its own sample are the right answers. A sample with several texts is found by
any of them, and one without is no query but still stands among the candidates.

Ties favour nobody: where candidates are as near as the nearest right one, ranks and recalls are their expectations over
all orders of these. So an encoder that gives everything the same features has exactly the recall of chance, which is
reported beside, since it depends on how many candidates and right answers there are.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel.task import Rows

__all__ = ["Places", "expected_rank", "places", "recall", "retrieval"]

_DEPTHS = (1, 5, 10)
_TIED = 1e-6
"""Cosines that differ by less are equal: float32 features in other company differ as much."""

_NUMBERS_AT_ONCE = 1 << 24  # 128 MB of float64: the largest table that `places` holds


class Places(NamedTuple):
    """Where the nearest right answer of each query stands; int64, (Q,) each.

    Attributes:
        nearer: wrong candidates that are nearer.
        wrong, right: wrong and right candidates that are as near as it, itself among the right ones.
        answers: right candidates, however near.
    """

    nearer: Tensor
    wrong: Tensor
    right: Tensor
    answers: Tensor


def places(query: Tensor, of: Tensor, candidates: Tensor, sample: Tensor) -> Places:
    """Rank all candidates for each query by cosine.

    Args:
        query: float, (Q, D), any scale.
        of: int64, (Q,): the sample of each; each has a candidate of the same sample.
        candidates: float, (C, D), any scale.
        sample: int64, (C,): the sample of each.
    """
    query, candidates = (F.normalize(rows.double(), dim=1) for rows in (query, candidates))
    columns = []
    size = max(1, _NUMBERS_AT_ONCE // len(sample))
    for rows, own in zip(torch.split(query, size), torch.split(of, size), strict=True):
        cosine, answer = rows @ candidates.T, own[:, None] == sample  # (rows, C) each
        best = cosine.masked_fill(~answer, -torch.inf).amax(dim=1, keepdim=True)
        nearer, tied = cosine > best + _TIED, (cosine - best).abs() <= _TIED
        counts = (nearer, tied & ~answer, tied & answer, answer)  # none that is nearer is right
        columns.append(torch.stack([count.sum(dim=1) for count in counts]))
    return Places(*torch.cat(columns, dim=1).cpu())


def recall(at: Places, depth: int) -> Tensor:
    """Probability that a right answer is among the first `depth`, if tied candidates come in any order: float64, (Q,).

    Of those tied, ``m = depth - nearer`` are still among the first; none of them is right with the probability
    C(wrong, m) / C(wrong + right, m).
    """
    missed = torch.ones(len(at.nearer), dtype=torch.float64)
    for place in range(depth):
        left = (at.wrong - place).clamp_min(0)
        drawn = torch.where(at.nearer + place < depth, left / (left + at.right), 1.0)
        missed = missed * drawn
    return 1 - missed


def expected_rank(at: Places) -> Tensor:
    """Rank of the first right answer, from 1, on average over all orders of tied candidates: float64, (Q,)."""
    return at.nearer + (at.wrong + at.right + 1) / (at.right + 1).double()


def retrieval(frozen: Frozen, *, first: str = "", second: str = "") -> dict[str, float]:
    """How often, and how far up, held-out samples are found across two outputs of a task, both ways.

    Args:
        frozen: what to judge.
        first: one output of the task; by default its first.
        second: another one; by default the task's next.

    Returns:
        For each way, under names such as ``image_to_text_recall@1``: ``recall@1``, ``recall@5`` and ``recall@10``, the
        share of queries of which a right answer is among so many; ``chance_recall@1``, the first of them without
        knowing anything; ``median_rank`` of the first right answer, from 1; the numbers of ``queries`` and
        ``candidates``.

    Raises:
        UsageError: the task has one output, or not these; no held-out part; outputs of different widths; no held-out
            sample has rows of both.
    """
    one, other = _pair(frozen, first, second)
    rows = {name: frozen.rows("test", name) for name in (one, other)}
    widths = {name: part.features.shape[1] for name, part in rows.items()}
    if widths[one] != widths[other]:
        raise UsageError(
            f"output {one!r} has {widths[one]} numbers and {other!r} {widths[other]}: what is compared has the same"
        )
    return _one_way(frozen, one, other, rows) | _one_way(frozen, other, one, rows)


def _pair(frozen: Frozen, first: str, second: str) -> tuple[str, str]:
    """The two outputs that are meant; whether there are such is found when they are asked for."""
    outputs = frozen.outputs
    if len(outputs) < 2:
        raise UsageError("retrieval is between two outputs of a task, and this one has one; see Task.outputs")
    one = first or next(name for name in outputs if name != second)
    other = second or next(name for name in outputs if name != one)
    if one == other:
        raise UsageError(f"retrieval from {one!r} to itself: expected two of {', '.join(outputs)}")
    return one, other


def _one_way(frozen: Frozen, one: str, other: str, rows: dict[str, Rows]) -> dict[str, float]:
    """Queries of the output `one` among the candidates of `other`."""
    device = frozen.engine.device
    query, of = (part.to(device) for part in rows[one][:2])
    candidates, sample = (part.to(device) for part in rows[other][:2])
    answered = torch.isin(of, sample)
    if not answered.any():
        raise UsageError(f"no held-out sample has both {one} and {other}: there is nothing to find")
    at = places(query[answered], of[answered], candidates, sample)
    measured = {f"recall@{depth}": float(recall(at, depth).mean()) for depth in _DEPTHS}
    measured |= {
        "chance_recall@1": float((at.answers / len(sample)).mean()),
        "median_rank": float(expected_rank(at).quantile(0.5)),
        "queries": float(len(at.answers)),
        "candidates": float(len(sample)),
    }
    return {f"{one}_to_{other}_{name}": value for name, value in measured.items()}
