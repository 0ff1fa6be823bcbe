"""Actor, Chameleon and Squirrel: graphs whose neighbours often differ in class.

Pei et al., "Geom-GCN: Geometric Graph Convolutional Networks", 2020, arXiv 2002.05287, with its ten splits; as ``.npz``
of Platonov et al., "A critical look at the evaluation of GNNs under heterophily", 2023, arXiv 2302.11640, who also
found that many nodes of Chameleon and Squirrel have duplicates in other parts of a split, which flatters every method.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from unlabel.errors import UsageError, nearest
from unlabel_graph.datasets.stored import Stored, arrays, required
from unlabel_graph.graph import Graph

__all__ = ["Heterophilous", "read_heterophilous"]

_NAMES = ("actor", "chameleon", "squirrel")
_MASKS = {"train": "train_masks", "validation": "val_masks", "test": "test_masks"}


def read_heterophilous(path: Path) -> Graph:
    """Read one ``.npz`` with ``node_features``, ``node_labels``, ``edges`` (E, 2) and masks (splits, N).

    Raises:
        UsageError: a part is missing, damaged or pickled.
    """
    with arrays(path) as content:
        edges = required(content, ("edges",), path)
        if edges.ndim != 2 or edges.shape[1] != 2:
            raise UsageError(f"{path}: edges has shape {edges.shape}; expected (edges, 2)")
        masks = {part: content[name].T for part, name in _MASKS.items() if name in content}
        labels = required(content, ("node_labels",), path).astype(np.int64)
        return Graph(required(content, ("node_features",), path), edges.T.astype(np.int64), labels, masks)


class Heterophilous(Stored):
    """Actor, Chameleon, Squirrel.

    Args:
        path: a file such as ``actor.npz``, or a folder that holds some.
        name: which graph, if the folder holds several; ``chameleon_directed``, ``squirrel_directed`` have self-loops.
        download: fetch the file into the folder if it is not there.
        split: ``"auto"`` and ``"public"`` are one of the ten splits; ``"random"`` draws one.
        split_number: which of the ten, or the seed of the random one.
        train_per_class: nodes of each class in the random split.
        validation_per_class: the same for validation.
        components: replace the attributes by so many principal components.
        holdout_edges: seed of a split of the edges for link prediction; by default all edges are there.
    """

    what: ClassVar[str] = "heterophilous graphs"

    @classmethod
    def graphs(cls, path: Path) -> dict[str, Path]:
        files = [path] if path.suffix == ".npz" else sorted(path.glob("*.npz"))
        return {file.stem: file for file in files if file.stem.removesuffix("_directed") in _NAMES and file.is_file()}

    @classmethod
    def read(cls, place: Path, name: str) -> Graph:
        return read_heterophilous(place)

    @classmethod
    def urls(cls, name: str) -> tuple[str, list[str]]:
        if name.removesuffix("_directed") not in _NAMES:
            raise UsageError(f"dataset.name {name!r}: expected {', '.join(_NAMES)}{nearest(name, _NAMES)}")
        return "", [f"https://github.com/yandex-research/heterophilous-graphs/raw/main/data/{name}.npz"]
