"""Planetoid: the citation graphs Cora, CiteSeer and PubMed with their public split.

Sen et al., "Collective Classification in Network Data", 2008; splits of Yang, Cohen, Salakhutdinov, "Revisiting
Semi-Supervised Learning with Graph Embeddings", 2016, arXiv 1603.08861: 20 labels a class, 500 validation and 1,000
test nodes. The original files ``ind.NAME.{x,tx,allx,y,ty,ally,graph,test.index}`` are pickles of Python 2. They are
not unpickled: their arrays are read as data, and a file that names anything else is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy import sparse

from unlabel.errors import UsageError, nearest
from unlabel_graph.datasets import pickled_arrays
from unlabel_graph.datasets.stored import Stored
from unlabel_graph.graph import Graph

__all__ = ["Planetoid", "read_planetoid"]

_PARTS = ("x", "tx", "allx", "y", "ty", "ally", "graph", "test.index")
_VALIDATION = 500


def _raw(path: Path) -> list[Path]:
    """The folders with Planetoid files that a path may mean: itself, its ``raw/``, or those of its sub-folders."""
    places = [path, path / "raw", *sorted(path.glob("*/raw"))] if path.is_dir() else []
    return [place for place in places if any(place.glob("ind.*.graph"))]


def read_planetoid(folder: Path, name: str) -> Graph:
    """Read ``ind.NAME.*``.

    Args:
        folder: holds the eight files.
        name: as in the file names: ``cora``.

    Returns:
        Attributes as stored; public split. Nodes of CiteSeer's test range that have no row in the files get no
        attributes and no label.

    Raises:
        UsageError: a file is missing, holds more than arrays, or does not fit the others.
    """
    paths = {part: folder / f"ind.{name}.{part}" for part in _PARTS}
    for path in paths.values():
        if not path.is_file():
            raise UsageError(f"{path} is missing; a Planetoid folder holds ind.{name}.{{{','.join(_PARTS)}}}")
    content = {part: pickled_arrays.read(path) for part, path in paths.items() if part != "test.index"}
    try:
        test = np.array([int(line) for line in paths["test.index"].read_text().split()], dtype=np.int64)
    except ValueError as error:
        raise UsageError(f"{paths['test.index']}: expected one node number a line: {error}") from error
    first, tests = content["allx"], content["tx"]
    if tests.shape[0] != len(test) or content["ally"].shape[0] != first.shape[0] or tests.shape[1] != first.shape[1]:
        raise UsageError(
            f"{folder}: the files do not fit each other: allx {first.shape}, ally {content['ally'].shape}, "
            f"tx {tests.shape}, {len(test)} lines in test.index"
        )
    nodes = max(first.shape[0], int(test.max()) + 1)
    x = sparse.lil_array((nodes, first.shape[1]), dtype=np.float32)
    x[: first.shape[0]] = first
    x[test] = tests
    labels = np.full(nodes, -1, dtype=np.int64)
    labels[: first.shape[0]] = content["ally"].argmax(axis=1)
    labels[test] = content["ty"].argmax(axis=1)

    lists = content["graph"]
    lengths = [len(neighbours) for neighbours in lists.values()]
    edges = np.stack(
        [
            np.repeat(np.fromiter(lists, dtype=np.int64), lengths),
            np.fromiter((other for neighbours in lists.values() for other in neighbours), dtype=np.int64),
        ]
    )
    train = content["y"].shape[0]
    masks = {part: np.zeros(nodes, dtype=np.bool_) for part in ("train", "validation", "test")}
    masks["train"][:train] = True
    masks["validation"][train : train + _VALIDATION] = True
    masks["test"][test] = True
    return Graph(sparse.csr_array(x), edges, labels, masks)


class Planetoid(Stored):
    """Cora, CiteSeer or PubMed from their original files.

    Args:
        path: folder of the eight files ``ind.NAME.*``, or one with them in ``raw/``.
        name: which graph, if the folder holds several: ``cora``, ``citeseer``, ``pubmed``.
        download: fetch the files into the folder if they are not there.
        split: ``"auto"`` and ``"public"`` are the public split; ``"random"`` draws one.
        split_number: seed of the random split.
        train_per_class: nodes of each class in the random split.
        validation_per_class: the same for validation.
        components: replace the attributes by so many principal components.
        holdout_edges: seed of a split of the edges for link prediction; by default all edges are there.
    """

    what: ClassVar[str] = "Planetoid graphs"

    @classmethod
    def graphs(cls, path: Path) -> dict[str, Path]:
        return {
            file.name.removeprefix("ind.").removesuffix(".graph"): place
            for place in _raw(path)
            for file in place.glob("ind.*.graph")
        }

    @classmethod
    def read(cls, place: Path, name: str) -> Graph:
        return read_planetoid(place, name)

    @classmethod
    def urls(cls, name: str) -> tuple[str, list[str]]:
        known = {"cora": "Cora", "citeseer": "CiteSeer", "pubmed": "PubMed"}
        if name not in known:
            raise UsageError(f"dataset.name {name!r}: expected {', '.join(known)}{nearest(name, known)}")
        source = "https://github.com/kimiyoung/planetoid/raw/master/data"
        return f"{known[name]}/raw", [f"{source}/ind.{name}.{part}" for part in _PARTS]
