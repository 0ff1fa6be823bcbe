"""Which samples an encoder finds alike: a map in two dimensions, and each sample's nearest neighbours."""

from __future__ import annotations

import warnings

import numpy as np

__all__ = ["mapped", "neighbours"]

_FEW = 12
_PRINCIPAL = 30


def mapped(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Places of samples on a map: t-SNE of the principal components; of a few samples the first two components.

    Args:
        features: float, (N, D), finite, N at most some hundred.

    Returns:
        float, (N, 2), in [0, 1], and the method's name.
    """
    centred = features - features.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    components = left[:, :_PRINCIPAL] * values[:_PRINCIPAL]
    places, method = components[:, :2], "first two principal components"
    if len(features) > _FEW and components.shape[1] > 1 and values[0] > 0:
        from sklearn.manifold import TSNE

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a hint that a short optimisation is short
            perplexity = min(30.0, (len(features) - 1) / 3)
            tsne = TSNE(2, init="pca", random_state=0, perplexity=perplexity, max_iter=300, n_jobs=1)
            scale = components.std(axis=0)[0] or 1.0
            places, method = tsne.fit_transform(components / scale), "t-SNE of the principal components"
    if places.shape[1] < 2:
        places = np.column_stack([places, np.zeros(len(places))])
    low, extent = places.min(axis=0), np.ptp(places, axis=0)
    return np.where(extent > 0, (places - low) / np.where(extent > 0, extent, 1), 0.5), method


def neighbours(features: np.ndarray, count: int = 5) -> np.ndarray:
    """The nearest others of every sample by the cosine of their features: int64, (N, at most count), nearest first."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.where(length > 0, length, 1)
    likeness = directions @ directions.T
    np.fill_diagonal(likeness, -np.inf)
    return np.argsort(-likeness, axis=1, kind="stable")[:, : min(count, len(features) - 1)]
