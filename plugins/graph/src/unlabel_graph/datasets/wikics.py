"""WikiCS: articles on computer science, their links, and mean word vectors; ten classes, twenty splits.

Mernyei and Cangea, "Wiki-CS: A Wikipedia-Based Benchmark for Graph Neural Networks", 2020, arXiv 2007.02901. The
original ``data.json``. Links are taken as undirected. Validation nodes are those of ``val_masks``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unlabel.errors import UsageError
from unlabel_graph.datasets.stored import Stored
from unlabel_graph.graph import Graph

__all__ = ["WikiCS", "read_wikics"]

_KEYS = ("features", "labels", "links", "train_masks", "val_masks", "test_mask")


def read_wikics(path: Path) -> Graph:
    """Read ``data.json``.

    Raises:
        UsageError: a part is missing or of another shape; names it.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    missing = [key for key in _KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise UsageError(f"{path} has no {', '.join(missing)}; WikiCS has {', '.join(_KEYS)}")
    try:
        x = np.array(content["features"], dtype=np.float32)
        labels = np.array(content["labels"], dtype=np.int64)
        links = content["links"]
        senders = np.repeat(np.arange(len(links)), [len(targets) for targets in links])
        receivers = np.array([target for targets in links for target in targets], dtype=np.int64)
        train, validation = (np.array(content[key], dtype=np.bool_).T for key in ("train_masks", "val_masks"))
        test = np.array(content["test_mask"], dtype=np.bool_)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: a part is no table of numbers: {error}") from error
    masks = {"train": train, "validation": validation, "test": np.tile(test[:, None], train.shape[1])}
    return Graph(x, np.stack([senders, receivers]), labels, masks)


class WikiCS(Stored):
    """WikiCS from its original file.

    Args:
        path: ``data.json``, or a folder that holds it or has it in ``raw/``.
        name: ``wikics``; there is only one.
        download: fetch the file into the folder if it is not there.
        split: ``"auto"`` and ``"public"`` are one of the twenty splits; ``"random"`` draws one.
        split_number: which of the twenty, or the seed of the random one.
        train_per_class: nodes of each class in the random split.
        validation_per_class: the same for validation.
        components: replace the attributes by so many principal components.
        holdout_edges: seed of a split of the edges for link prediction; by default all edges are there.
    """

    what: ClassVar[str] = "WikiCS graphs"

    @classmethod
    def graphs(cls, path: Path) -> dict[str, Path]:
        files = [path] if path.name == "data.json" else [path / "data.json", path / "raw" / "data.json"]
        present = [file for file in files if file.is_file()]
        return {"wikics": present[0]} if present else {}

    @classmethod
    def read(cls, place: Path, name: str) -> Graph:
        return read_wikics(place)

    @classmethod
    def urls(cls, name: str) -> tuple[str, list[str]]:
        return "raw", ["https://github.com/pmernyei/wiki-cs-dataset/raw/master/dataset/data.json"]
