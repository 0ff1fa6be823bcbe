"""Classes of unlabelled nodes from few labelled ones: label propagation, iterative classification, or both.

Label propagation: Zhu, Ghahramani, Lafferty, "Semi-Supervised Learning Using Gaussian Fields and Harmonic Functions",
2003. Iterative classification: Sen et al., "Collective Classification in Network Data", 2008. Only labels of the nodes
that are given as labelled are ever used.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from unlabel_graph import attributes, propagation
from unlabel_graph.sparse import Sparse

__all__ = ["Source", "Words", "ica", "label_propagation", "one_hot", "pseudo_classes"]

Source = Literal["lp", "ica", "ensemble"]
"""Label propagation, iterative classification, or the sum of their scores."""

Words = Literal["raw", "row", "binary"]
"""How iterative classification reads the attributes: as they are, each row divided by its sum, or 1 where not 0."""


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """float (N, classes); a row of zeros where the label is -1."""
    rows = torch.zeros(len(labels), classes, dtype=dtype, device=labels.device)
    known = labels >= 0
    rows[known, labels[known]] = 1
    return rows


def label_propagation(edge_index: Tensor, labels: Tensor, classes: int, *, iterations: int = 30) -> Tensor:
    """The harmonic function: every unlabelled node takes the mean of its neighbours, again and again.

    ``F <- P F + B`` from 0, where P is ``D^-1 A`` with the rows of labelled nodes zeroed, and B their one-hot labels.

    Args:
        edge_index: int64 (2, E), undirected.
        labels: int64 (N,), -1 for unlabelled.
        classes: C.
        iterations: how often.

    Returns:
        float64 (N, C): scores; the most likely class is the largest, the first one if all are 0.
    """
    mean = propagation.mean(edge_index, len(labels)).to(torch.float64)
    steps = mean.scaled((labels < 0).double())  # P: a labelled node keeps its label
    given = one_hot(labels, classes, torch.float64)
    scores = torch.zeros_like(given)
    for _ in range(iterations):
        scores = steps.times(scores) + given  # f(i) = mean of f over i's neighbours: harmonic in the limit
    return scores


def ica(edge_index: Tensor, x: Tensor | Sparse, labels: Tensor, classes: int, *, sweeps: int = 10) -> Tensor:
    """Iterative classification: logistic regression on attributes and on the classes of a node's neighbours.

    A first model, on attributes alone, guesses every class. A second one also counts the neighbours of each class
    under these guesses; both are fitted to the labelled nodes only, as scikit-learn does by default. The second one
    then decides node by node, in the order of their numbers, each decision counting at once for the next node.
    A node whose neighbours did not change is not decided again, which changes no result.

    Args:
        edge_index: int64 (2, E), undirected.
        x: float (N, F): attributes.
        labels: int64 (N,), -1 for unlabelled.
        classes: C.
        sweeps: passes over the nodes.

    Returns:
        float64 (N, C): probabilities as each node was last decided; one-hot for labelled nodes.
    """
    edges = edge_index.cpu()
    own = _as_scipy(x)
    counts_of = _as_scipy(propagation.ones(edges, len(labels)))
    truth = labels.cpu().numpy()
    known = np.flatnonzero(truth >= 0)

    # bootstrap: classes by attributes alone (Sen et al.); then both models stay as they are
    guess = np.where(truth >= 0, truth, _linear(own, truth, known, classes)[1].argmax(axis=1))
    counts = counts_of @ np.eye(classes)[guess]
    weights, scores = _linear(sparse.hstack([own, sparse.csr_array(counts)]).tocsr(), truth, known, classes)
    of_counts = weights[:, own.shape[1] :]  # (C, C): what one neighbour of each class adds to each score

    indptr, neighbours = counts_of.indptr, counts_of.indices
    waiting, decided = truth < 0, scores.copy()
    for _ in range(sweeps):
        if not waiting.any():
            break
        for node in range(len(truth)):  # one after the other is what the method is
            if not waiting[node]:
                continue
            waiting[node], decided[node] = False, scores[node]
            new = int(scores[node].argmax())
            if new == guess[node]:
                continue
            around = neighbours[indptr[node] : indptr[node + 1]]
            scores[around] += of_counts[:, new] - of_counts[:, guess[node]]
            waiting[around] = truth[around] < 0
            guess[node] = new
    shifted = np.exp(decided - decided.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    probabilities[known] = np.eye(classes)[truth[known]]
    return torch.from_numpy(probabilities).to(edge_index.device)


def _linear(x: sparse.csr_array, truth: np.ndarray, known: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (C, F) and scores (N, C) of a logistic regression on the labelled rows; -inf for classes without any."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    seen = np.unique(truth[known])
    weights, scores = np.zeros((classes, x.shape[1])), np.full((x.shape[0], classes), -np.inf)
    if len(seen) == 1:
        scores[:, seen] = 0
        return weights, scores
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model = LogisticRegression().fit(x[known], truth[known])
    if len(seen) == 2:  # one score, for the second class
        weights[seen[1]] = model.coef_[0]
        scores[:, seen] = np.stack([np.zeros(x.shape[0]), model.decision_function(x)], axis=1)
        return weights, scores
    weights[seen] = model.coef_
    scores[:, seen] = model.decision_function(x)
    return weights, scores


def _as_scipy(x: Tensor | Sparse) -> sparse.csr_array:
    if isinstance(x, Sparse):
        parts = (x.values.cpu().double().numpy(), x.columns.cpu().numpy(), x.indptr.cpu().numpy())
        return sparse.csr_array(parts, shape=x.shape)
    return sparse.csr_array(x.cpu().double().numpy())


def pseudo_classes(
    source: Source, edge_index: Tensor, x: Tensor | Sparse, labels: Tensor, classes: int, words: Words = "raw"
) -> Tensor:
    """The class of every node: its own label where it is known, and otherwise the most likely one: int64 (N,)."""
    scores = torch.zeros(len(labels), classes, dtype=torch.float64, device=labels.device)
    if source in ("lp", "ensemble"):
        scores = scores + label_propagation(edge_index, labels, classes)
    if source in ("ica", "ensemble"):
        scores = scores + ica(edge_index, _read(x, words), labels, classes)  # EnsembleLabel adds the two
    return torch.where(labels >= 0, labels, scores.argmax(dim=1))


def _read(x: Tensor | Sparse, words: Words) -> Tensor | Sparse:
    if words == "raw":
        return x
    return attributes.normalised_rows(x) if words == "row" else attributes.presence(x)
