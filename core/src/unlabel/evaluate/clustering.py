"""k-means: do the features fall into groups by themselves, and are the groups the classes?

Labels only score the result. With labels, the clusters are found on the training samples and scored on the held-out
ones; without, the silhouette of the training samples says how separate the groups are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel.evaluate import metrics
from unlabel.evaluate.features import Frozen

__all__ = ["assign", "clustering"]

_SILHOUETTE_SAMPLES = 5000  # its cost is quadratic


def assign(features: Tensor, others: Tensor, clusters: int, seed: int = 0) -> Tensor:
    """Find k-means centres of L2-normalised `features`, and the nearest centre of each L2-normalised row of `others`.

    Args:
        features: float, (N, D), on the CPU.
        others: float, (M, D), on the CPU.
        clusters: number of centres, in [1, N].
        seed: of the ten starts, the best of which is kept.

    Returns:
        int64, (M,), in [0, clusters).

    Raises:
        UsageError: fewer features than clusters.
    """
    from sklearn.cluster import KMeans

    if not 1 <= clusters <= len(features):
        raise UsageError(f"{clusters} clusters of {len(features)} samples: expected between 1 and their number")
    means = KMeans(clusters, n_init=10, random_state=seeds.mix(seed) >> 31).fit(F.normalize(features, dim=1).numpy())
    return torch.from_numpy(means.predict(F.normalize(others, dim=1).numpy())).to(torch.int64)


def clustering(frozen: Frozen, *, clusters: int | None = None) -> dict[str, float]:
    """Agreement of k-means clusters with the classes, or their separation where there are no classes.

    Args:
        frozen: what to judge.
        clusters: how many; by default the number of classes.

    Returns:
        ``mutual_information`` (normalised), ``adjusted_rand`` and ``accuracy`` (best naming of clusters by classes)
        on the held-out samples; ``silhouette`` in [-1, 1] when there are no labels.

    Raises:
        UsageError: neither labels nor `clusters`, or labels and no held-out part.
    """
    if not frozen.has_labels():
        if clusters is None:
            raise UsageError("without labels the number of clusters is unknown: give it, e.g. clusters=10")
        features, _ = frozen.features("train")
        return {"silhouette": _silhouette(features, assign(features, features, clusters, frozen.seed), frozen.seed)}
    held_out, labels = frozen.labelled("test")
    features, _ = frozen.features("train")
    assigned = assign(features, held_out, clusters or len(frozen.classes), frozen.seed)
    return {
        "mutual_information": metrics.mutual_information(assigned, labels),
        "adjusted_rand": metrics.adjusted_rand(assigned, labels),
        "accuracy": metrics.clustering_accuracy(assigned, labels),
    }


def _silhouette(features: Tensor, clusters: Tensor, seed: int) -> float:
    from sklearn.metrics import silhouette_score

    sample = torch.from_numpy(seeds.permutation(len(features), seed))[:_SILHOUETTE_SAMPLES]
    assigned = clusters[sample]
    if not 1 < len(torch.unique(assigned)) < len(assigned):
        return 0.0  # Rousseeuw (1987) gives a cluster of one sample 0; one cluster alone has nothing to be apart from
    return float(silhouette_score(F.normalize(features[sample], dim=1).numpy(), assigned.numpy()))
