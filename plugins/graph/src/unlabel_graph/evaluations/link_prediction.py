"""Link prediction: do representations tell which nodes are joined by edges that training never saw?

Needs a run on a graph without those edges: ``--set dataset.holdout_edges=0``. A logistic layer on the products of the
representations of two nodes learns from the remaining edges and random pairs, is chosen on the validation edges, and
scored on the test edges (the protocol of ParetoGNN, arXiv 2210.02016).
"""

from __future__ import annotations

import statistics

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel_graph import embeddings, sampling
from unlabel_graph.link_split import LinkSplit

__all__ = ["area", "hits", "link_prediction"]


def area(positive: Tensor, negative: Tensor) -> float:
    """Area under the ROC curve: the chance that an edge scores above a pair without one; a tie counts half.

    Args:
        positive, negative: float (P,) and (Q,): scores.
    """
    values = torch.cat([positive, negative]).double()
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts.double() - 1) / 2)[place]  # mean rank among equals, from 1
    above = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(above / (len(positive) * len(negative)))


def hits(positive: Tensor, negative: Tensor, k: int) -> float:
    """Share of the edges that score above the k-th highest pair without one; 1 if there are fewer such pairs."""
    if len(negative) < k:
        return 1.0
    return float((positive > negative.topk(k).values[-1]).double().mean())


def link_prediction(
    frozen: Frozen,
    *,
    repeats: int = 2,
    epochs: int = 200,
    patience: int = 50,
    batch_size: int = 10_240,
    lr: float = 0.01,
    weight_decay: float = 0.01,
    k: int = 20,
) -> dict[str, float]:
    """How well held-out edges are told from pairs of nodes that are not joined.

    Args:
        frozen: of a task trained on a graph without the edges to predict.
        repeats: seeds of the logistic layer.
        epochs: passes over the remaining edges, at most.
        patience: stop after so many without a better area on the validation edges.
        batch_size: edges an update, with as many random pairs.
        lr, weight_decay: of Adam.
        k: of the hits.

    Returns:
        ``auc`` and ``hits`` (at k) on the test edges, means over the seeds, and ``spread``, of the areas.

    Raises:
        UsageError: no edges were held out.
    """
    nodes, features = embeddings.of(frozen)
    if nodes.links is None:
        raise UsageError(
            "no edges were held out, so there are none to predict: train on the graph without them, "
            "--set dataset.holdout_edges=0"
        )
    areas, shares = [], []
    for repeat in range(repeats):
        seeds.seed(frozen.seed, repeat, 0x11E7)
        layer = _train(features, nodes.links, epochs, patience, batch_size, lr, weight_decay)
        positive, negative = (
            _scores(layer, features, torch.from_numpy(p)) for p in (nodes.links.test, nodes.links.test_negative)
        )
        areas.append(area(positive, negative))
        shares.append(hits(positive, negative, k))
    return {"auc": statistics.fmean(areas), "hits": statistics.fmean(shares), "spread": statistics.pstdev(areas)}


def _train(
    features: Tensor, links: LinkSplit, epochs: int, patience: int, batch_size: int, lr: float, weight_decay: float
) -> nn.Linear:
    """The logistic layer of the epoch that was best on the validation edges."""
    layer = nn.Linear(features.shape[1], 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, weight_decay=weight_decay)
    train = torch.from_numpy(links.train)
    validation = [torch.from_numpy(part) for part in (links.validation, links.validation_negative)]
    best, since, best_weights = -1.0, 0, {name: value.clone() for name, value in layer.state_dict().items()}
    for _ in range(epochs):
        order = torch.randperm(train.shape[1])
        for part in order.split(batch_size):
            pairs = torch.cat([train[:, part], sampling.pairs(len(features), len(part), features.device)], dim=1)
            logits = layer(features[pairs[0]] * features[pairs[1]])[:, 0]
            targets = torch.zeros_like(logits)
            targets[: len(part)] = 1
            optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, targets).backward()
            optimizer.step()
        score = area(*(_scores(layer, features, pairs) for pairs in validation))
        since += 1
        if score > best:
            best, since, best_weights = score, 0, {name: value.clone() for name, value in layer.state_dict().items()}
        if since >= patience:
            break
    layer.load_state_dict(best_weights)
    return layer


@torch.no_grad()
def _scores(layer: nn.Linear, features: Tensor, pairs: Tensor) -> Tensor:
    logits: Tensor = layer(features[pairs[0]] * features[pairs[1]])
    return logits[:, 0]
