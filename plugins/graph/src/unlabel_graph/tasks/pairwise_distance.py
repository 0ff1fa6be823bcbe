"""Pairwise distance: how many hops apart are two nodes?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141:
PairwiseDistance. Four classes: 1, 2, 3 hops, and more or no path at all. Every update draws 4,000 pairs i < j of each
class, without replacement; a linear head classifies ``|e_i - e_j|``. Pairs of the first three classes are listed once,
from sparse products; those of the fourth are drawn and kept if they are in none of the lists, so that no N x N matrix
is made. Where the lists would grow too long, only pairs with one of some nodes, drawn once, are used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref, seeds
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import hops, nodes, pairs
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.nodes import NodeTask
from unlabel_graph.sparse import cache_last

__all__ = ["Near", "PairwiseDistance", "draw_far", "near_pairs", "paper", "quick", "tiny"]


class Near:
    """The pairs at distance 1, 2, 3.

    Args:
        keys: three ascending int64 tensors of ``i * nodes + j``, i < j.
        nodes: N.
        sources: int64 (S,): one of every pair is one of these.

    Attributes:
        all: the three together, ascending.
    """

    def __init__(self, keys: list[Tensor], nodes: int, sources: Tensor):
        self.keys, self.nodes, self.sources = keys, nodes, sources
        self.all = torch.cat(keys).sort().values


def near_pairs(edge_index: Tensor, nodes: int, most: int, seed: int) -> Near:
    """The pairs of different nodes at most three hops apart.

    Args:
        edge_index: int64 (2, E), undirected.
        nodes: N.
        most: pairs. If there may be more, one of every pair is among some random nodes: as many as surely do not give
            more, by the number of walks from them.
        seed: of these nodes.
    """
    generator = torch.Generator().manual_seed(seeds.mix(seed, 0xD157))
    order = torch.randperm(nodes, generator=generator)
    counts = hops.walks(edge_index, nodes)[order.to(edge_index.device)].cumsum(0)
    if counts[-1] <= 2 * most:  # each pair is reached from both ends
        every = torch.arange(nodes, device=edge_index.device)
        return Near(hops.pairs_within(edge_index, nodes), nodes, every)
    sources = order[: max(1, int((counts <= most).sum()))].to(edge_index.device)
    return Near(hops.pairs_within(edge_index, nodes, sources), nodes, sources)


def draw_far(count: int, near: Near) -> Tensor:
    """Keys of pairs more than three hops apart, distinct, uniformly; fewer than `count` if there are hardly any."""
    keys = torch.empty(0, dtype=torch.int64, device=near.all.device)
    for _ in range(20):
        one = near.sources[torch.randint(len(near.sources), (count + count // 2,), device=keys.device)]
        other = torch.randint(near.nodes, one.shape, device=keys.device)
        low, high = torch.minimum(one, other), torch.maximum(one, other)
        fresh = (low * near.nodes + high)[low != high]
        place = torch.searchsorted(near.all, fresh).clamp_max(max(0, len(near.all) - 1))
        keys = torch.cat([keys, fresh[near.all[place] != fresh]]).unique()
        if len(keys) >= count:
            break
    return keys[torch.randperm(len(keys), device=keys.device)[:count]]


class PairwiseDistance(NodeTask):
    """Classification of pairs of nodes by their distance.

    Args:
        encoder: any graph encoder.
        pairs_per_class: pairs of each class in an update; fewer where a class has fewer.
        most_pairs: near pairs listed; where there are more, one of every pair is among some nodes drawn once.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes of the nodes; by default that of the data.
        drop: dropout on the representations.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        pairs_per_class: int = 4000,
        most_pairs: int = 20_000_000,
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        if pairs_per_class < 1 or most_pairs < 1:
            raise UsageError("pairs_per_class and most_pairs: expected 1 or more; 4000 is the paper's")
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.pairs_per_class, self.most_pairs = pairs_per_class, most_pairs
        self.head = nn.Linear(encoder.dim, 4)
        self._near = cache_last(near_pairs)

    def drawn(self, near: Near) -> tuple[Tensor, Tensor]:
        """The pairs of one update: int64 (2, P); and their classes 0 to 3: int64 (P,)."""
        count, device = self.pairs_per_class, near.all.device
        # p_ij in {1, 2, 3, more}: 4,000 pairs of each, the authors' number, so that far ones do not outweigh the rest
        keys = [of_class[pairs.distinct(count, len(of_class), device)] for of_class in near.keys]
        keys.append(draw_far(count, near))
        sizes = torch.tensor([len(part) for part in keys], device=device)
        truth = torch.arange(4, device=device).repeat_interleave(sizes)
        return pairs.unkeyed(torch.cat(keys), near.nodes), truth

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy over the pairs drawn."""
        near = self._near(batch["edge_index"], len(hidden), self.most_pairs, int(self.draw))
        ends, truth = self.drawn(near)
        logits = self.head(pairs.difference(dropped, ends))  # W |e_i - e_j|, (P, 4)
        right = (logits.detach().argmax(dim=1) == truth).float().mean()
        # L_self: cross-entropy of the four classes of distance
        return {"loss": F.cross_entropy(logits, truth), "pretext_accuracy": right}


def paper() -> Recipe:
    """Joint training, lambda 20 (Cora; 5 for CiteSeer and PubMed), 7 s there on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/pairwise_distance --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/pairwise_distance", 20)


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/pairwise_distance``"""
    return nodes.joint("graph/pairwise_distance", 1, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests; no labels. ``unlabel train graph/pairwise_distance --recipe tiny``"""
    return nodes.tiny("graph/pairwise_distance", pairs_per_class=20)
