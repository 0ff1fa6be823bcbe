"""Pairwise attribute similarity: how alike are the attributes of two nodes?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141:
PairwiseAttrSim. For every node the three most and the three least similar nodes, and three of random rank; each
update draws 5,000 of these pairs; a linear head regresses the cosine of their raw attributes from ``|e_i - e_j|``.
Differs from the authors' code, whose loss subtracts a row from a column, and so compares every prediction with every
target.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref, seeds
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import attributes, nodes, pairs
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.nodes import NodeTask
from unlabel_graph.sparse import Sparse, cache_last

__all__ = ["PairwiseAttrSim", "draw_ranks", "paper", "quick", "ranked_pairs", "similarity_loss", "tiny"]

_BLOCK = 32_000_000
"""Similarities computed at once."""


def _unit_rows(x: Tensor | Sparse) -> Tensor | Sparse:
    """Rows of length 1; a row of zeros stays."""
    if not isinstance(x, Sparse):
        return F.normalize(x, dim=1)
    squares = torch.zeros(len(x), device=x.device).index_add_(0, x.row_of, x.values.square())
    return x.scaled(torch.where(squares > 0, squares.rsqrt(), 0.0))


def draw_ranks(nodes: int, k: int, seed: int) -> tuple[int, ...]:
    """`k` different ranks in [k, nodes - k), fewer if there are no more."""
    inner = seeds.permutation(max(0, nodes - 2 * k), seed, 0x5131)[:k] + k
    return tuple(int(rank) for rank in np.sort(inner))


def ranked_pairs(x: Tensor | Sparse, k: int, ranks: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Pairs of every node with those at certain ranks of similarity to it.

    Args:
        x: float (N, F), raw.
        k: so many of the most and of the least similar nodes.
        ranks: further places in the ascending order of similarities, the same for every node.

    Returns:
        int64 (2, P), i < j, no pair twice, ascending; and float32 (P,): their cosines. A node itself is ranked with the
        others and then left out, so at the top the k + 1 last places are taken. Nodes equally similar are in any order.
    """
    rows = _unit_rows(x)
    count = len(rows)
    wanted = sorted({place for place in (*range(k), *ranks, *range(count - k - 1, count)) if 0 <= place < count})
    turned = rows.dense().T.contiguous() if isinstance(rows, Sparse) else rows.T
    block = max(1, _BLOCK // count)
    keys, cosines = [], []
    for start in range(0, count, block):
        index = torch.arange(start, min(start + block, count), device=rows.device)
        # s_ij: cosine of raw rows, a block of i at a time
        similar = (rows.rows(index) if isinstance(rows, Sparse) else rows[index]) @ turned  # (block, N)
        order = np.argpartition(similar.cpu().numpy(), wanted, axis=1)[:, wanted]  # (block, 3 k + 1)
        j = torch.from_numpy(order).to(rows.device)
        i = index[:, None].expand_as(j)
        keys.append((torch.minimum(i, j) * count + torch.maximum(i, j)).flatten())
        cosines.append(similar.gather(1, j).flatten())
    unique, place = torch.cat(keys).unique(return_inverse=True)
    cosine = torch.zeros(len(unique), device=rows.device).index_copy_(0, place, torch.cat(cosines))
    ends = pairs.unkeyed(unique, count)
    different = ends[0] != ends[1]
    return ends[:, different], cosine[different]


def similarity_loss(head: nn.Module, hidden: Tensor, ends: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of ``head(|e_i - e_j|)``, pair by pair.

    Args:
        head: float (P, D) -> (P, 1).
        hidden: float (N, D).
        ends: int64 (2, P).
        truth: float (P,).
    """
    # L_self = mean of (w |e_i - e_j| + b - s_ij)^2; [:, 0] because (P, 1) - (P,) would be P x P, the authors' code
    return F.mse_loss(head(pairs.difference(hidden, ends))[:, 0], truth)


class PairwiseAttrSim(NodeTask):
    """Regression of the similarity of attributes.

    Args:
        encoder: any graph encoder.
        k: most similar, least similar and randomly ranked nodes of each node.
        pairs_per_update: pairs drawn in an update.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes of the nodes; by default that of the data.
        drop: dropout on the representations.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        k: int = 3,
        pairs_per_update: int = 5000,
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        if k < 1 or pairs_per_update < 1:
            raise UsageError("k and pairs_per_update: expected 1 or more; 3 and 5000 are the paper's")
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.k, self.pairs_per_update = k, pairs_per_update
        self.head = nn.Linear(encoder.dim, 1)
        self._ranked = cache_last(_ranked)

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error over the pairs drawn."""
        every, cosines = self._ranked(self.k, int(self.draw), *attributes.parts(batch))
        drawn = pairs.distinct(self.pairs_per_update, len(cosines), cosines.device)  # 5,000, the authors' code
        return {"loss": similarity_loss(self.head, dropped, every[:, drawn], cosines[drawn])}


def _ranked(k: int, seed: int, *parts: Tensor) -> tuple[Tensor, Tensor]:
    x = attributes.joined(*parts)
    return ranked_pairs(x, k, draw_ranks(len(x), k, seed))


def paper() -> Recipe:
    """Joint training, lambda 20 (Cora; the authors' 100 fits their loss), 3 s on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/pairwise_attr_sim --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/pairwise_attr_sim", 20)


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/pairwise_attr_sim``"""
    return nodes.joint("graph/pairwise_attr_sim", 10, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests; no labels. ``unlabel train graph/pairwise_attr_sim --recipe tiny``"""
    return nodes.tiny("graph/pairwise_attr_sim", pairs_per_update=50)
