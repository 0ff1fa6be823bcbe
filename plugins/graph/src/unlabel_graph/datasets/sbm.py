"""A generated graph: a stochastic block model with communities, hubs and bag-of-words attributes.

Nodes belong to classes; nodes of a class are linked more often than others (Holland, Laskey, Leinhardt, "Stochastic
blockmodels: first steps", 1983), in proportion to activities with a heavy tail (the degree-corrected model of Karrer
and Newman, arXiv 1008.3926). Each node uses a few words: of its class's topic, or of the whole vocabulary. Neither
links nor words give the class away; together, over two hops, they nearly do. It needs no download and no file.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel_graph.graph import Graph, Nodes, Splitting, checked

__all__ = ["BlockModel", "block_model"]


def block_model(
    nodes: int, classes: int, features: int, *, degree: float, within: float, words: float, topical: float, seed: int
) -> Graph:
    """Draw a graph, always the same for the same arguments.

    Args:
        nodes, classes, features: N, C, F.
        degree: mean number of neighbours (before the few edges that are drawn twice are merged).
        within: share of edges that stay in a class.
        words: mean number of words a node uses.
        topical: share of its words that come from its class's topic.
        seed: of everything.

    Returns:
        Attributes 0 or 1, sparse; all labels; no masks.
    """
    draw = seeds.generator(seed, 0x5B)
    labels = draw.permutation(np.arange(nodes) % classes)
    activity = draw.pareto(2.5, nodes) + 1
    count = round(nodes * degree / 2)
    senders = draw.choice(nodes, count, p=activity / activity.sum())
    receivers = draw.choice(nodes, count, p=activity / activity.sum())
    inside = draw.random(count) < within
    for number in range(classes):
        members = np.flatnonzero(labels == number)
        local = inside & (labels[senders] == number)
        weights = activity[members]
        receivers[local] = draw.choice(members, int(local.sum()), p=weights / weights.sum())
    joins = senders != receivers

    lengths = 1 + draw.poisson(words - 1, nodes)
    owners = np.repeat(np.arange(nodes), lengths)
    popularity = 1 / np.arange(5, features + 5)  # Zipf's law, without its steepest part
    common = draw.permutation(popularity)
    topics = np.stack([draw.permutation(popularity) for _ in range(classes)])
    word = draw.choice(features, len(owners), p=common / common.sum())
    topical_words = draw.random(len(owners)) < topical
    for number in range(classes):
        local = topical_words & (labels[owners] == number)
        word[local] = draw.choice(features, int(local.sum()), p=topics[number] / topics[number].sum())
    x = sparse.csr_array((np.ones(len(owners), dtype=np.float32), (owners, word)), shape=(nodes, features))
    x.sum_duplicates()
    x.data[:] = 1
    return Graph(x, np.stack([senders[joins], receivers[joins]]).astype(np.int64), labels.astype(np.int64))


class BlockModel(Nodes):
    """Generated graph: communities with hubs and bag-of-words attributes.

    Args:
        nodes: number of nodes.
        number_of_classes: number of communities.
        features: size of the vocabulary.
        degree: mean number of neighbours.
        within: share of edges that stay within a class.
        words: mean number of words a node uses.
        topical: share of words that come from the class's topic.
        seed: of the graph; another number gives another graph.
        split: ``"auto"`` and ``"random"`` are the same here: so many nodes a class.
        split_number: seed of the split.
        train_per_class, validation_per_class: sizes of the split; all other nodes test.
        components: replace the attributes by so many principal components.
        holdout_edges: seed of a split of the edges for link prediction; by default all edges are there.
    """

    def __init__(
        self,
        *,
        nodes: int = 2000,
        number_of_classes: int = 5,
        features: int = 500,
        degree: float = 4.0,
        within: float = 0.75,
        words: float = 12.0,
        topical: float = 0.25,
        seed: int = 0,
        split: Splitting = "auto",
        split_number: int = 0,
        train_per_class: int = 10,
        validation_per_class: int = 60,
        components: int | None = None,
        holdout_edges: int | None = None,
    ):
        if not 2 <= number_of_classes <= nodes // 4:
            raise UsageError(f"number_of_classes {number_of_classes}: expected 2 to a quarter of the {nodes} nodes")
        for name, share in (("within", within), ("topical", topical)):
            if not 0 <= share <= 1:
                raise UsageError(f"{name} {share} is outside [0, 1]")
        if degree <= 0 or words < 1 or features < 2:
            raise UsageError("expected degree above 0, words from 1 and features from 2 on")
        graph = block_model(
            nodes,
            number_of_classes,
            features,
            degree=degree,
            within=within,
            words=words,
            topical=topical,
            seed=seed,
        )
        super().__init__(
            checked(graph, "graph/sbm"),
            "graph/sbm",
            split=split,
            split_number=split_number,
            train_per_class=train_per_class,
            validation_per_class=validation_per_class,
            components=components,
            holdout_edges=holdout_edges,
        )
