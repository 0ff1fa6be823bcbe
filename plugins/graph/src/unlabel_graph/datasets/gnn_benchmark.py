"""Amazon and Coauthor: co-purchase and co-author graphs in the layout of gnn-benchmark.

Shchur, Mumme, Bojchevski, Günnemann, "Pitfalls of Graph Neural Network Evaluation", 2018, arXiv 1811.05868. One
``.npz`` a graph, holding the adjacency matrix (``adj_*``), the attributes (``attr_*``), both sparse, and ``labels``.
There is no public split: 20 training and 30 validation nodes a class are drawn, as in the paper.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from unlabel.errors import UsageError, nearest
from unlabel_graph.datasets.stored import Stored, arrays, compressed, required
from unlabel_graph.graph import Graph

__all__ = ["Amazon", "Coauthor", "read_gnn_benchmark"]

_SOURCE = "https://github.com/shchur/gnn-benchmark/raw/master/data/npz"


def read_gnn_benchmark(path: Path) -> Graph:
    """Read one ``.npz`` with ``adj_*``, ``attr_*`` and ``labels``.

    Raises:
        UsageError: a part is missing, damaged or pickled.
    """
    with arrays(path) as content:
        adjacency = compressed(content, "adj_", path).tocoo()
        return Graph(
            compressed(content, "attr_", path),
            np.stack([adjacency.row, adjacency.col]).astype(np.int64),
            required(content, ("labels",), path).astype(np.int64),
        )


def _files(path: Path, names: dict[str, str]) -> dict[str, Path]:
    """The files of these names at a path: itself, in it, in its ``raw/`` or in the ``raw/`` of its sub-folders."""
    if path.is_file():
        places = [path]
    else:
        places = [file for pattern in ("*.npz", "raw/*.npz", "*/raw/*.npz") for file in sorted(path.glob(pattern))]
    return {name: place for place in places for name, file in names.items() if place.name == file}


def _address(name: str, names: dict[str, str]) -> tuple[str, list[str]]:
    if name not in names:
        raise UsageError(f"dataset.name {name!r}: expected {', '.join(names)}{nearest(name, names)}")
    return "raw", [f"{_SOURCE}/{names[name]}"]


_AMAZON = {"photo": "amazon_electronics_photo.npz", "computers": "amazon_electronics_computers.npz"}
_COAUTHOR = {"cs": "ms_academic_cs.npz", "physics": "ms_academic_phy.npz"}


class Amazon(Stored):
    """Products bought together, with words of their reviews: Photo and Computers.

    Args:
        path: the file ``amazon_electronics_NAME.npz``, or a folder that holds it or has it in ``raw/``.
        name: which graph, if the folder holds both: ``photo``, ``computers``.
        download: fetch the file into the folder if it is not there.
        split: there is no public split; ``"auto"`` and ``"random"`` draw one.
        split_number: seed of the random split.
        train_per_class: nodes of each class in the random split.
        validation_per_class: the same for validation.
        components: replace the attributes by so many principal components.
        holdout_edges: seed of a split of the edges for link prediction; by default all edges are there.
    """

    what: ClassVar[str] = "Amazon graphs"

    @classmethod
    def graphs(cls, path: Path) -> dict[str, Path]:
        return _files(path, _AMAZON)

    @classmethod
    def read(cls, place: Path, name: str) -> Graph:
        return read_gnn_benchmark(place)

    @classmethod
    def urls(cls, name: str) -> tuple[str, list[str]]:
        return _address(name, _AMAZON)


class Coauthor(Stored):
    """Authors who wrote together, with keywords of their papers: CS and Physics.

    Args:
        path: the file ``ms_academic_NAME.npz``, or a folder that holds it or has it in ``raw/``.
        name: which graph, if the folder holds both: ``cs``, ``physics``.
        download: fetch the file into the folder if it is not there.
        split: there is no public split; ``"auto"`` and ``"random"`` draw one.
        split_number: seed of the random split.
        train_per_class: nodes of each class in the random split.
        validation_per_class: the same for validation.
        components: replace the attributes by so many principal components.
        holdout_edges: seed of a split of the edges for link prediction; by default all edges are there.
    """

    what: ClassVar[str] = "Coauthor graphs"

    @classmethod
    def graphs(cls, path: Path) -> dict[str, Path]:
        return _files(path, _COAUTHOR)

    @classmethod
    def read(cls, place: Path, name: str) -> Graph:
        return read_gnn_benchmark(place)

    @classmethod
    def urls(cls, name: str) -> tuple[str, list[str]]:
        return _address(name, _COAUTHOR)
