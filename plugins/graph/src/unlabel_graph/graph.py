"""A graph with attributes and labels, checked at the door, and the dataset of its nodes.

Tasks are transductive: every one of them sees the whole graph through `Nodes.context`, and what is split into
training, validation and test nodes is only whose labels are known.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from scipy import sparse as scipy_sparse

from unlabel import seeds
from unlabel.data import Dataset
from unlabel.errors import UsageError
from unlabel.task import Batch, Sample
from unlabel_graph.link_split import LinkSplit, hold_out

__all__ = ["Graph", "Nodes", "Splitting", "checked", "number_of_nodes", "per_class", "whole_of"]

Splitting = Literal["auto", "public", "random"]
"""Which nodes train: those of the data's own masks (``"public"``), so many a class (``"random"``), or the first of the
two that there is (``"auto"``)."""

_DENSE = 0.25
"""Share of non-zero attributes from which they are kept as a dense matrix."""


@dataclass(frozen=True)
class Graph:
    """One graph as read from its files.

    Attributes:
        x: float32 (N, F): attributes of the nodes, as an array or as a SciPy CSR array.
        edge_index: int64 (2, E): senders and receivers.
        labels: int64 (N,), -1 for unknown, or None.
        masks: ``"train"``, ``"validation"``, ``"test"`` -> bool (N,) or, for several splits, (N, splits).
        classes: names of the labels, or None.
        partitions: number of parts -> int64 (N,): partitions that came with the data.
    """

    x: np.ndarray | scipy_sparse.csr_array
    edge_index: np.ndarray
    labels: np.ndarray | None = None
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    partitions: Mapping[int, np.ndarray] = field(default_factory=dict)


def checked(graph: Graph, source: str) -> Graph:
    """The same graph undirected, without duplicate edges, sorted by receiver and then sender; self-loops stay.

    Args:
        graph: as read.
        source: its file, for messages.

    Raises:
        UsageError: sizes that do not match, an edge to a node that is not there, no edges, attributes that are not
            finite, labels below -1, masks that overlap; names file and field.
    """
    nodes = _check_attributes(graph, source)
    edges = np.asarray(graph.edge_index)
    if edges.ndim != 2 or edges.shape[0] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise UsageError(
            f"{source}: edge_index is {edges.dtype} of shape {edges.shape}; expected integers of shape (2, edges)"
        )
    if not edges.size:
        raise UsageError(f"{source}: edge_index holds no edges; a graph task needs some")
    if edges.min() < 0 or edges.max() >= nodes:
        wrong = int(edges[(edges < 0) | (edges >= nodes)][0])
        raise UsageError(f"{source}: edge_index names node {wrong}, but the nodes are 0 to {nodes - 1} (rows of x)")
    _check_labels(graph, nodes, source)
    return replace(graph, x=_compact(graph.x), edge_index=_undirected(edges.astype(np.int64), nodes))


def _check_attributes(graph: Graph, source: str) -> int:
    """Number of nodes, if the attributes are a finite matrix."""
    if graph.x.ndim != 2 or not graph.x.shape[0] or not graph.x.shape[1]:
        raise UsageError(f"{source}: x has shape {graph.x.shape}; expected (nodes, attributes), at least one of each")
    if not np.issubdtype(graph.x.dtype, np.number):
        raise UsageError(f"{source}: x is {graph.x.dtype}; expected numbers")
    values = graph.x if isinstance(graph.x, np.ndarray) else graph.x.data
    if not np.isfinite(values).all():
        rows = _bad_rows(graph.x)
        raise UsageError(f"{source}: x holds NaN or infinite values, first at node {int(rows[0])}: fill or drop them")
    return int(graph.x.shape[0])


def _bad_rows(x: np.ndarray | scipy_sparse.csr_array) -> np.ndarray:
    if isinstance(x, np.ndarray):
        return np.flatnonzero(~np.isfinite(x).all(axis=1))
    rows: np.ndarray = x.tocoo().row[~np.isfinite(x.data)]
    return rows


def _check_labels(graph: Graph, nodes: int, source: str) -> None:
    if graph.labels is not None:
        if graph.labels.shape != (nodes,):
            raise UsageError(f"{source}: labels have shape {graph.labels.shape}; x has {nodes} rows, one a node")
        if not np.issubdtype(graph.labels.dtype, np.integer) or graph.labels.min() < -1:
            raise UsageError(f"{source}: labels must be integers from 0 on, or -1 for unknown")
    for name, mask in graph.masks.items():
        if mask.shape[0] != nodes or mask.dtype != np.bool_:
            raise UsageError(
                f"{source}: the {name} mask is {mask.dtype} of shape {mask.shape}; expected bool, {nodes} rows"
            )
    names = [name for name in ("train", "validation", "test") if name in graph.masks]
    for number, name in enumerate(names):
        for other in names[number + 1 :]:
            if (graph.masks[name] & graph.masks[other]).any():
                raise UsageError(f"{source}: the {name} and {other} masks share nodes; each node belongs to one part")
    for parts, assignment in graph.partitions.items():
        if assignment.shape != (nodes,):
            raise UsageError(
                f"{source}: the partition into {parts} has {assignment.shape[0]} entries; x has {nodes} rows"
            )


def _undirected(edges: np.ndarray, nodes: int) -> np.ndarray:
    """Both directions of every edge once, sorted by receiver (row 1), then sender (row 0)."""
    key = np.unique(np.concatenate([edges[1] * nodes + edges[0], edges[0] * nodes + edges[1]]))
    return np.stack([key % nodes, key // nodes])


def _compact(x: np.ndarray | scipy_sparse.csr_array) -> np.ndarray | scipy_sparse.csr_array:
    """Float32 attributes, sparse if most of them are 0."""
    if not scipy_sparse.issparse(x) and np.count_nonzero(x) >= _DENSE * x.size:
        return np.ascontiguousarray(x, dtype=np.float32)
    matrix = scipy_sparse.csr_array(x, dtype=np.float32)
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix.toarray() if matrix.nnz >= _DENSE * np.prod(matrix.shape) else matrix


def per_class(labels: np.ndarray, train: int, validation: int, seed: int) -> dict[str, np.ndarray]:
    """A random split with so many training and validation nodes of each class; all other labelled nodes test.

    Args:
        labels: int64 (N,), -1 for unknown.
        train, validation: nodes a class; a class with too few for both and one test node gives up validation first.
        seed: another number gives another split.

    Returns:
        ``"train"``, ``"validation"``, ``"test"`` -> bool (N,).
    """
    masks = {name: np.zeros(len(labels), dtype=np.bool_) for name in ("train", "validation", "test")}
    for number in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == number)
        members = members[seeds.permutation(len(members), seed, int(number))]
        first = min(train, max(1, len(members) - 2))
        second = min(first + validation, max(first, len(members) - 1))
        masks["train"][members[:first]] = True
        masks["validation"][members[first:second]] = True
        masks["test"][members[second:]] = True
    return masks


class Nodes(Dataset):
    """The nodes of one graph as samples; a batch holds their numbers, and the whole graph besides.

    Every batch has ``"node"``, int64 (B,): numbers of the nodes; and from the context ``"edge_index"``, int64 (2, E),
    both directions, sorted by receiver; ``"x"``, float32 (N, F), or for sparse attributes ``"x_indptr"``,
    ``"x_column"``, ``"x_value"`` (compressed rows) and ``"x_width"`` (F); ``"train_label"`` and
    ``"validation_label"``, int64 (N,), -1 for every other node; ``"partition_K"``, int64 (N,), if one came with the
    data. Validation labels only choose among epochs, and never enter a loss. Labels of test nodes are in no batch.

    ``"train"`` is every node but the test nodes, labelled where a training label is known.

    Args:
        graph: what was read, checked.
        source: its file, for messages.
        split: which nodes have known labels, see `Splitting`.
        split_number: which of several public splits, or the seed of the random one.
        train_per_class, validation_per_class: sizes of the random split.
        components: replace the attributes (rows divided by their sum) by so many principal components.
        holdout_edges: seed of a split of the edges; those of validation and test (10 and 20 %) are taken out, in both
            directions, before anything else sees the graph. By default all edges are there.

    Attributes:
        links: the split of the edges, or None.

    Raises:
        UsageError: ``"public"`` without masks, a split number out of range, more components than attributes, or too
            few edges to hold any out.
    """

    full_batch: ClassVar[bool] = True

    def __init__(
        self,
        graph: Graph,
        source: str,
        *,
        split: Splitting = "auto",
        split_number: int = 0,
        train_per_class: int = 20,
        validation_per_class: int = 30,
        components: int | None = None,
        holdout_edges: int | None = None,
    ):
        self.source = source
        self.links: LinkSplit | None = None
        if holdout_edges is not None:
            self.links = hold_out(graph.edge_index, int(graph.x.shape[0]), holdout_edges)
            graph = replace(graph, edge_index=self.links.edge_index)
        self.graph = graph if components is None else replace(graph, x=principal(graph.x, components, source))
        self.masks = _masks(graph, source, split, split_number, train_per_class, validation_per_class)
        self.labels = graph.labels
        self.classes = graph.classes
        if self.classes is None and graph.labels is not None:
            self.classes = tuple(str(number) for number in range(1 + int(graph.labels.max(initial=-1)))) or None

    def __len__(self) -> int:
        return int(self.graph.x.shape[0])

    def __getitem__(self, index: int) -> Sample:
        return {"node": torch.tensor(index)}

    def name_of(self, index: int) -> str:
        return f"node {index}"

    def split(self, name: str) -> Dataset | None:
        """``"train"``: all but the test nodes; ``"validation"`` and ``"test"``: those nodes, None if there are none."""
        test = self.masks["test"]
        if name == "train":
            return _Part(self, np.flatnonzero(~test), known=self.masks["train"])
        mask = self.masks.get(name)
        return None if mask is None or not mask.any() else _Part(self, np.flatnonzero(mask), known=mask)

    def table(self) -> Batch:
        return {"node": torch.arange(len(self))}

    def context(self) -> Batch:
        return dict(self._context)

    @functools.cached_property
    def _context(self) -> Batch:
        """Made once: what is computed from the very same tensors is computed once, too: `sparse.cache_last`."""
        batch: Batch = {
            "edge_index": torch.from_numpy(self.graph.edge_index),
            "train_label": self._known("train"),
            "validation_label": self._known("validation"),
        }
        for parts, assignment in self.graph.partitions.items():
            batch[f"partition_{parts}"] = torch.from_numpy(assignment.astype(np.int64))
        if scipy_sparse.issparse(self.graph.x):
            x = cast(scipy_sparse.csr_array, self.graph.x)
            batch["x_indptr"] = torch.from_numpy(x.indptr.astype(np.int64))
            batch["x_column"] = torch.from_numpy(x.indices.astype(np.int64))
            batch["x_value"] = torch.from_numpy(x.data)
            batch["x_width"] = torch.tensor(x.shape[1])
        else:
            batch["x"] = torch.from_numpy(self.graph.x)
        return batch

    def _known(self, part: str) -> torch.Tensor:
        unknown = np.full(len(self), -1, dtype=np.int64)
        return torch.from_numpy(
            unknown if self.labels is None else np.where(self.masks[part], self.labels, unknown).astype(np.int64)
        )

    def implies(self) -> dict[str, Any]:
        """Keywords of encoders and tasks that follow from the data: ``features``, and ``classes`` if labelled."""
        keywords: dict[str, Any] = {"features": int(self.graph.x.shape[1])}
        return keywords | ({"classes": len(self.classes)} if self.classes else {})

    def info(self) -> dict[str, Any]:
        x, (senders, receivers) = self.graph.x, self.graph.edge_index
        loops = int((senders == receivers).sum())
        neighbours = np.bincount(receivers[senders != receivers], minlength=len(self))
        filled = np.count_nonzero(x) if isinstance(x, np.ndarray) else x.nnz
        facts: dict[str, Any] = {
            "kind": "graph",
            "samples": len(self),
            "edges": (len(senders) - loops) // 2,
            "self_loops": loops,
            "isolated": int((neighbours == 0).sum()),
            "largest_degree": int(neighbours.max()),
            "attributes": int(x.shape[1]),
            "filled": round(float(filled / np.prod(x.shape)), 4),
        }
        if self.labels is not None:
            counts = np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes or ())).tolist()
            facts["labels"] = dict(zip(self.classes or (), counts, strict=False))
            facts["split"] = {name: int(mask.sum()) for name, mask in self.masks.items()}
            same = self.labels[senders] == self.labels[receivers]
            facts["edges_within_a_class"] = round(float(same[senders != receivers].mean()), 3)
        return facts


class _Part(Dataset):
    """Some nodes of a graph, labelled where their label is known."""

    full_batch: ClassVar[bool] = True

    def __init__(self, whole: Nodes, nodes: np.ndarray, known: np.ndarray):
        self.whole, self.nodes = whole, nodes
        self.labels = None if whole.labels is None else np.where(known, whole.labels, -1)[nodes]
        self.classes = whole.classes

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: int) -> Sample:
        return self.whole[int(self.nodes[index])]

    def name_of(self, index: int) -> str:
        return self.whole.name_of(int(self.nodes[index]))

    def table(self) -> Batch:
        return {"node": torch.from_numpy(self.nodes)}

    def context(self) -> Batch:
        return self.whole.context()


def _masks(
    graph: Graph, source: str, split: Splitting, number: int, train: int, validation: int
) -> dict[str, np.ndarray]:
    nodes = int(graph.x.shape[0])
    missing = [name for name in ("train", "validation", "test") if name not in graph.masks]
    if split == "public" and missing:
        raise UsageError(
            f"{source}: no {missing[0]} mask, so there is no public split; "
            "use --set dataset.split=random for one with so many nodes a class"
        )
    if split != "random" and not missing:
        several = {name: mask if mask.ndim == 2 else mask[:, None] for name, mask in graph.masks.items()}
        count = min(mask.shape[1] for mask in several.values())
        if not 0 <= number < count:
            raise UsageError(f"{source}: split_number {number}: there are {count} public splits, counted from 0")
        return {name: np.ascontiguousarray(mask[:, number]) for name, mask in several.items()}
    if graph.labels is None:
        return {name: np.zeros(nodes, dtype=np.bool_) for name in ("train", "validation", "test")}
    return per_class(graph.labels, train, validation, number)


def principal(x: np.ndarray | scipy_sparse.csr_array, components: int, source: str) -> np.ndarray:
    """The first principal components of row-normalised attributes, from the exact covariance: no randomness.

    Args:
        x: float32 (N, F).
        components: K, at most F.
        source: for messages.

    Returns:
        float32 (N, K), centred; each component's sign makes its largest loading positive.
    """
    if not 1 <= components <= min(x.shape):
        raise UsageError(
            f"{source}: components {components}; expected 1 to {min(x.shape)}, the smaller of nodes and attributes"
        )
    sums = np.abs(x).sum(axis=1)
    scale = (1 / np.where(sums > 0, sums, 1)).astype(np.float64)
    rows = scipy_sparse.csr_array(x).astype(np.float64)
    rows.data *= np.repeat(scale, np.diff(rows.indptr))
    mean = rows.mean(axis=0)
    covariance = (rows.T @ rows).toarray() / len(scale) - np.outer(mean, mean)
    _, vectors = np.linalg.eigh(covariance)
    vectors = vectors[:, ::-1][:, :components]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(components)])
    return np.asarray(rows @ vectors - mean @ vectors, dtype=np.float32)


def whole_of(dataset: Dataset) -> Nodes | None:
    """The dataset of all nodes of the graph that these are nodes of; None if they are of no graph."""
    if isinstance(dataset, _Part):
        return dataset.whole
    return dataset if isinstance(dataset, Nodes) else None


def number_of_nodes(batch: Batch) -> int:
    """N of the graph in a batch."""
    return len(batch["train_label"])
