"""Weighted nearest neighbours: is a sample surrounded by samples of its own class?

Nothing is trained, so it is the quickest fair look at a representation (Wu et al., 1805.01978; Caron et al.,
2104.14294): every held-out sample asks its k most similar training samples, which vote with exp(cosine / t).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel.errors import UsageError
from unlabel.evaluate import metrics
from unlabel.evaluate.features import Frozen, Inputs

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["knn", "predict"]

_NUMBERS_AT_ONCE = 1 << 26  # 256 MB of float32: the largest table that `predict` holds


def predict(
    bank: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    query: Float[Tensor, "m d"],
    k: int,
    temperature: float,
    classes: int,
) -> Int[Tensor, "m {classes}"]:
    """Rank the classes of each query by the votes of its k nearest rows of the bank.

    Args:
        bank: float, (N, D), any scale: rows are L2-normalised here.
        labels: int64, (N,), in [0, classes).
        query: float, (M, D).
        k: number of neighbours, in [1, N].
        temperature: above 0; a neighbour of cosine s votes with exp(s / temperature).
        classes: number of classes.

    Returns:
        int64, (M, classes): best class first; equal votes rank by class number.

    Raises:
        UsageError: k or the temperature is out of range.
    """
    if not 1 <= k <= len(bank):
        raise UsageError(f"k={k} neighbours of {len(bank)} samples: k must be between 1 and their number")
    if temperature <= 0:
        raise UsageError(f"temperature {temperature} must be above 0; 0.07 is usual")
    bank, query = F.normalize(bank, dim=1), F.normalize(query, dim=1)
    numbers = torch.arange(classes, device=bank.device)
    rows = max(1, _NUMBERS_AT_ONCE // max(len(bank), k * classes))
    ranked = []
    for part in torch.split(query, rows):
        similarity, neighbours = (part @ bank.T).topk(k, dim=1)  # (rows, k), nearest first
        # relative to the nearest: the same ranking, and exp cannot overflow however small the temperature
        weights = torch.exp((similarity - similarity[:, :1]) / temperature)
        is_class = labels[neighbours][:, None, :] == numbers[:, None]  # (rows, classes, k)
        votes = (is_class * weights[:, None, :]).sum(dim=2)  # not scatter_add: its order varies on accelerators
        ranked.append(votes.argsort(dim=1, descending=True, stable=True))
    return torch.cat(ranked)


def knn(frozen: Frozen, *, k: int = 20, temperature: float = 0.07, inputs: Inputs = "features") -> dict[str, float]:
    """Accuracy of weighted k-nearest-neighbour voting on the held-out samples.

    Args:
        frozen: what to judge.
        k: neighbours that vote; no more than there are labelled training samples.
        temperature: how much nearer neighbours count more.
        inputs: ``"features"``, or ``"raw"`` for the control without an encoder.

    Returns:
        ``accuracy``, ``balanced_accuracy``, and the ``k`` that was used.

    Raises:
        UsageError: no labels, no held-out part, or a keyword out of range.
    """
    query, truth = frozen.labelled("test", inputs)  # first: if it is missing, the user learns at once
    bank, labels = frozen.labelled("train", inputs)
    used = min(k, len(bank))
    device = frozen.engine.device
    ranked = predict(bank.to(device), labels.to(device), query.to(device), used, temperature, len(frozen.classes))
    best = ranked[:, 0].cpu()
    return {
        "accuracy": metrics.accuracy(best, truth),
        "balanced_accuracy": metrics.balanced_accuracy(best, truth),
        "k": float(used),
    }
