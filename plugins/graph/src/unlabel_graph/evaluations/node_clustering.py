"""Clustering of nodes: do representations fall into the classes by themselves?

k-means with as many centres as classes, on rows of length 1, scored by normalised mutual information with arithmetic
mean, which is the V-measure (the protocol of ParetoGNN, arXiv 2210.02016).
"""

from __future__ import annotations

import statistics

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel_graph import embeddings

__all__ = ["node_clustering"]


def node_clustering(frozen: Frozen, *, clusters: int | None = None, repeats: int = 5) -> dict[str, float]:
    """Agreement of k-means clusters of all labelled nodes with their classes.

    Args:
        frozen: what to judge.
        clusters: number of centres; by default the number of classes.
        repeats: seeds of k-means.

    Returns:
        ``mutual_information``, mean over the seeds, and ``spread``, their standard deviation.

    Raises:
        UsageError: the data have no labels.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    nodes, features = embeddings.of(frozen)
    if nodes.labels is None or not (nodes.labels >= 0).any():
        raise UsageError("the nodes have no labels, and this evaluation needs them")
    known = nodes.labels >= 0
    rows, labels = features.numpy()[known], nodes.labels[known]
    count = clusters or len(set(labels.tolist()))
    information = []
    for repeat in range(repeats):
        means = KMeans(count, n_init=10, random_state=seeds.mix(frozen.seed, repeat) >> 31).fit(rows)
        information.append(float(normalized_mutual_info_score(labels, means.labels_)))
    return {"mutual_information": statistics.fmean(information), "spread": statistics.pstdev(information)}
