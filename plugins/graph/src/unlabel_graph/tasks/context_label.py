"""Context label: which classes do the nodes around a node have?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141: ContextLabel.
Every unlabelled node gets a pseudo class from the labelled training nodes, by label propagation or by iterative
classification; a softmax head regresses, for every unlabelled node, the shares of the classes among its neighbours
and the nodes two steps away. A node that is both counts twice; the node itself never counts. Nodes without any
neighbour are left out (the authors' division by zero). The head reads the representations before dropout, and has a
dropout of its own.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from unlabel import Recipe, Ref
from unlabel.task import Batch
from unlabel_graph import attributes, nodes, propagation, pseudo_labels
from unlabel_graph.encoders.layers import Encoder, dropout
from unlabel_graph.nodes import NodeTask
from unlabel_graph.pseudo_labels import Source, Words, one_hot
from unlabel_graph.sparse import Sparse, cache_last

__all__ = ["ContextLabel", "context_loss", "contexts", "neighbourhoods", "paper", "quick", "tiny", "with_context"]


def neighbourhoods(edge_index: Tensor, nodes: int) -> Sparse:
    """How often each node counts in the context of each other: 1 as a neighbour, 1 as the end of a walk of two steps.

    Args:
        edge_index: int64 (2, E), undirected; self-loops do not count.
        nodes: N.

    Returns:
        (N, N), entries 1 and 2, its own transpose, diagonal 0. Made block by block, so that only the result is large.
    """
    edges = propagation.without_self_loops(edge_index).cpu().numpy()
    adjacency = sparse.csr_array(
        (np.ones(edges.shape[1], dtype=np.float32), (edges[1], edges[0])), shape=(nodes, nodes)
    )
    walks = int((adjacency @ (adjacency @ np.ones(nodes))).sum())
    block = max(1, 20_000_000 * nodes // max(1, walks))
    parts = []
    for start in range(0, nodes, block):
        one = adjacency[start : start + block]  # 1-hop neighbours, (block, N)
        two = (one @ adjacency).tocoo()
        other = two.row + start != two.col  # a walk back to the node itself does not count
        two = sparse.csr_array(
            (np.ones(int(other.sum()), dtype=np.float32), (two.row[other], two.col[other])), shape=one.shape
        )
        parts.append((one + two).tocsr())  # a node in both counts twice: the authors' code
    matrix = sparse.vstack(parts).tocsr()
    indptr, columns = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    return Sparse(indptr, columns, values, nodes, symmetric=True, device=edge_index.device)


def contexts(around: Sparse, labels: Tensor, classes: int) -> Tensor:
    """Shares of the classes in each node's context: float32 (N, classes), rows of sum 1; 0 if there is no context.

    Args:
        around: of `neighbourhoods`.
        labels: int64 (N,), the class of every node.
        classes: C.
    """
    counts = around.times(one_hot(labels, classes))  # (N, C)
    totals = counts.sum(dim=1, keepdim=True)
    return torch.where(totals > 0, counts / totals.clamp_min(1), 0.0)  # ybar_ic, their context label


def with_context(around: Sparse, rows: Tensor) -> Tensor:
    """Those of some nodes that have a context: bool (N,) -> int64 (R,), on the host.

    The authors divide 0 by 0 for the others: NaN for a node without neighbours.
    """
    return (rows & (around.indptr.diff() > 0)).nonzero()[:, 0]


def context_loss(logits: Tensor, context: Tensor, rows: Tensor) -> Tensor:
    """Mean squared error of softmax(logits) over some rows and all classes.

    Args:
        logits, context: float (N, C).
        rows: int64 (R,), see `with_context`.
    """
    # L_self = mean over D_U and classes of (softmax(W e_i)_c - ybar_ic)^2
    return (logits[rows].softmax(dim=1) - context[rows]).square().mean()


class ContextLabel(NodeTask):
    """Regression of the classes around each node. Needs labels.

    Args:
        encoder: any graph encoder.
        labels: where the pseudo classes come from: label propagation, iterative classification, or both together.
        words: how iterative classification reads the attributes: as they are; rows of sum 1, the paper's for Cora; 1
            where an attribute is not 0, the paper's for CiteSeer and PubMed.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes; by default that of the data.
        drop: dropout on the representations, and a mask of its own for the pretext head.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        labels: Source = "ica",
        words: Words = "raw",
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        super().__init__(encoder, supervised=supervised, classes=classes, drop=drop, select=select)
        self.labels, self.words = labels, words
        self.head = nn.Linear(encoder.dim, self.known_classes())
        self._pseudo = cache_last(_pseudo_classes)
        self._around = cache_last(neighbourhoods)
        self._contexts = cache_last(contexts)
        self._rows = cache_last(lambda around, labels: with_context(around, labels < 0))

    def targets(self, batch: Batch) -> tuple[Tensor, Sparse, Tensor]:
        """Pseudo classes (N,), who counts around whom (N, N), and shares of classes (N, C); computed once a graph."""
        labels = self.training_labels(batch)
        known = self._pseudo(
            self.labels, self.words, self.known_classes(), batch["edge_index"], labels, *attributes.parts(batch)
        )
        around = self._around(batch["edge_index"], len(labels))
        return known, around, self._contexts(around, known, self.known_classes())

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the shares, over the unlabelled nodes."""
        _, around, context = self.targets(batch)
        # representations before dropout, with a mask of the head's own, always drawn: the authors' code
        logits = self.head(dropout(hidden, self.drop, True))  # (N, C)
        return {"loss": context_loss(logits, context, self._rows(around, batch["train_label"]))}


def _pseudo_classes(
    source: Source, words: Words, classes: int, edge_index: Tensor, labels: Tensor, *parts: Tensor
) -> Tensor:
    return pseudo_labels.pseudo_classes(source, edge_index, attributes.joined(*parts), labels, classes, words)


def paper() -> Recipe:
    """Joint training, pseudo classes by iterative classification, lambda 10; with ``--set task.labels=lp`` the authors
    have 50 for Cora, 1 for the others. 2 s for Cora on one core; figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/context_label --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/context_label", 10, words="row")


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/context_label``"""
    return nodes.joint("graph/context_label", 10, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/context_label --recipe tiny``"""
    return nodes.tiny("graph/context_label", labels="lp")
