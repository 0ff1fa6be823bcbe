"""Edge mask: which pairs of nodes were joined by an edge that has been taken away?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141: EdgeMask.
A tenth of the edges is removed once, before training; a linear head on ``|e_i - e_j|`` tells them from as many pairs
that no edge joins. Training sees the remaining edges, evaluation all. Differs from the authors' code in that an edge is
removed in both directions (theirs leaves the reverse one, which gives the answer away), and in that negatives are
neither edges nor pairs of a node with itself.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import Recipe, Ref, seeds
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import nodes, pairs
from unlabel_graph.attributes import Attributes
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.nodes import NodeTask
from unlabel_graph.sparse import cache_last

__all__ = ["EdgeMask", "edge_loss", "paper", "quick", "split_edges", "tiny"]


def split_edges(edge_index: Tensor, nodes: int, share: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Remove a share of the undirected edges.

    Args:
        edge_index: int64 (2, E), both directions.
        nodes: N.
        share: of the edges between two different nodes, in (0, 1); at least one is removed.
        seed: of the draw.

    Returns:
        The remaining edges, both directions, in their order: (2, E'); the removed ones, i < j: (2, m); and as many
        pairs i < j that no edge joins: (2, m).
    """
    generator = torch.Generator().manual_seed(seeds.mix(seed, 0xED6E))
    forward = (edge_index[0] < edge_index[1]).nonzero()[:, 0]
    count = max(1, round(share * len(forward)))  # a tenth of the edges, once for the run
    drawn = forward[torch.randperm(len(forward), generator=generator)[:count].to(forward.device)]
    removed = edge_index[:, drawn]
    low, high = edge_index.min(dim=0).values, edge_index.max(dim=0).values
    # both directions: the reverse entry, which the authors' code leaves in place, would give the answer away
    remaining = edge_index[:, ~torch.isin(low * nodes + high, removed[0] * nodes + removed[1])]
    return remaining, removed, pairs.non_edges(count, edge_index, nodes, generator)


def edge_loss(head: nn.Module, hidden: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of two classes on ``|e_i - e_j|``, class 1 for an edge; and the share that is right.

    Args:
        head: float (P, D) -> (P, 2).
        hidden: float (N, D).
        positive, negative: int64 (2, m) each.
    """
    logits = head(pairs.difference(hidden, torch.cat([positive, negative], dim=1)))  # W |e_i - e_j|, (2 m, 2)
    truth = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
    truth[: positive.shape[1]] = 1
    # L_self: cross-entropy of class 1 over the removed edges and of class 0 over as many pairs that no edge joins
    return F.cross_entropy(logits, truth), (logits.detach().argmax(dim=1) == truth).float().mean()


class EdgeMask(NodeTask):
    """Recognition of removed edges.

    Args:
        encoder: any graph encoder.
        share: of the edges that is removed.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes of the nodes; by default that of the data.
        drop: dropout on the representations.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        share: float = 0.1,
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        if not 0 < share < 1:
            raise UsageError(f"share {share} is outside (0, 1); 0.1 is the paper's")
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.share = share
        self.head = nn.Linear(encoder.dim, 2)
        self._split = cache_last(split_edges)

    def training_inputs(self, batch: Batch) -> tuple[Attributes, Tensor]:
        """All attributes, and the edges that were not removed."""
        return self.encoder.inputs(batch), self._parts(batch)[0]

    def _parts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        split: tuple[Tensor, Tensor, Tensor] = self._split(
            batch["edge_index"], len(batch["train_label"]), self.share, int(self.draw)
        )
        return split

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy of removed edges against pairs without an edge."""
        loss, right = edge_loss(self.head, dropped, *self._parts(batch)[1:])
        return {"loss": loss, "pretext_accuracy": right}


def paper() -> Recipe:
    """Joint training, lambda 10 (Cora; 5 for CiteSeer and PubMed), 4 s there on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/edge_mask --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/edge_mask", 10)


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/edge_mask``"""
    return nodes.joint("graph/edge_mask", 1, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests; no labels. ``unlabel train graph/edge_mask --recipe tiny``"""
    return nodes.tiny("graph/edge_mask")
