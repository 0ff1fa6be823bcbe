"""Your own graph: one ``.npz`` or ``.safetensors`` file of plain arrays, or a folder of CSV files.

A file holds ``x`` (N, F) and ``edge_index`` (2, E), as torch-geometric calls them; if there are labels ``y`` (N,), and
if there is a split ``train_mask``, ``val_mask``, ``test_mask``, (N,) or (N, splits). Sparse attributes are ``x_data``,
``x_indices``, ``x_indptr``, ``x_shape``. A folder holds ``edges.csv``, two node numbers a line, and ``features.csv``,
the attributes of one node a line; if there are labels ``labels.csv``, one number or word a line (empty for none), and
if there is a split ``split.csv``: ``train``, ``validation``, ``test``, or nothing. A first line that is no data is a
header. Pickled files, ``.pt`` and ``.pkl``, are refused: loading one may run code.
"""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from unlabel.errors import UsageError
from unlabel_graph.datasets.stored import Stored, arrays, compressed, optional, required
from unlabel_graph.graph import Graph

__all__ = ["GraphFile", "read_arrays", "read_tables"]

_PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".p")
_MASKS = {"train": ("train_mask",), "validation": ("val_mask", "validation_mask"), "test": ("test_mask",)}


def read_arrays(path: Path) -> Graph:
    """Read a ``.npz`` or ``.safetensors`` file.

    Raises:
        UsageError: an array is missing, damaged or pickled.
    """
    with arrays(path) as content:
        x = compressed(content, "x_", path) if "x_indptr" in content else required(content, ("x",), path)
        labels = optional(content, ("y", "labels", "label"))
        if labels is not None and not np.issubdtype(labels.dtype, np.integer):
            raise UsageError(f"{path}: y is {labels.dtype}; expected whole numbers, one class a node")
        optional_masks = {part: optional(content, names) for part, names in _MASKS.items()}
        masks = {part: mask for part, mask in optional_masks.items() if mask is not None}
        return Graph(
            x, required(content, ("edge_index",), path), None if labels is None else labels.astype(np.int64), masks
        )


def read_tables(folder: Path) -> Graph:
    """Read ``edges.csv``, ``features.csv`` and, if they are there, ``labels.csv`` and ``split.csv``.

    Raises:
        UsageError: a file is missing, or a line holds something else; names file and line.
    """
    x = _numbers(folder / "features.csv", np.float32)
    edges = _numbers(folder / "edges.csv", np.int64)
    if edges.shape[1] != 2:
        raise UsageError(f"{folder / 'edges.csv'}: {edges.shape[1]} columns; expected two, sender and receiver")
    labels, classes = None, None
    if (folder / "labels.csv").is_file():
        labels, classes = _classes(folder / "labels.csv", len(x))
    masks = {}
    if (folder / "split.csv").is_file():
        cells = _column(folder / "split.csv", len(x), ("split", "part"))
        known = {"train": "train", "validation": "validation", "val": "validation", "test": "test", "": ""}
        for line, word in enumerate(cells, start=1):
            if word not in known:
                raise UsageError(
                    f"{folder / 'split.csv'}: entry {line} is {word!r}; expected train, validation or test"
                )
        masks = {part: np.array([known[word] == part for word in cells]) for part in ("train", "validation", "test")}
    return Graph(x, edges.T, labels, masks, classes)


def _lines(path: Path) -> list[list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return [[cell.strip() for cell in line] for line in csv.reader(file)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error


def _numbers(path: Path, dtype: Any) -> np.ndarray:
    """A table of numbers; a first line of words is a header."""
    lines = [line for line in _lines(path) if any(line)]
    if lines and not all(_is_number(cell) for cell in lines[0]):
        lines = lines[1:]
    if not lines:
        raise UsageError(f"{path} holds no numbers")
    for number, line in enumerate(lines, start=1):
        if len(line) != len(lines[0]):
            raise UsageError(f"{path}: row {number} has {len(line)} columns, the first {len(lines[0])}")
        if not all(_is_number(cell) for cell in line):
            wrong = next(cell for cell in line if not _is_number(cell))
            raise UsageError(f"{path}: row {number} holds {wrong!r}, which is no number")
    table = np.array(lines, dtype=np.float64)
    if np.issubdtype(dtype, np.integer) and not (table == np.floor(table)).all():
        raise UsageError(f"{path}: node numbers must be whole")
    return table.astype(dtype)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _column(path: Path, nodes: int, headers: tuple[str, ...]) -> list[str]:
    """One word a node; a first line too many, or one of these headers, is a header."""
    cells = [line[0] if line else "" for line in _lines(path)]
    if cells and (len(cells) == nodes + 1 or cells[0].lower() in headers):
        cells = cells[1:]
    if len(cells) != nodes:
        raise UsageError(f"{path} has {len(cells)} entries; features.csv has {nodes} rows, one a node")
    return cells


def _classes(path: Path, nodes: int) -> tuple[np.ndarray, tuple[str, ...]]:
    cells = _column(path, nodes, ("label", "labels", "y", "class"))
    given = [word for word in cells if word]
    if not given:
        raise UsageError(f"{path} names no class at all: fill it in, or leave the file out")
    numeric = all(word.isdecimal() for word in given)
    names = tuple(sorted(set(given), key=int if numeric else None))
    place = {name: number for number, name in enumerate(names)}
    return np.array([place.get(word, -1) for word in cells], dtype=np.int64), names


class GraphFile(Stored):
    """A graph of your own, out of plain arrays or CSV files.

    Args:
        path: a ``.npz`` or ``.safetensors`` file, or a folder with ``edges.csv`` and ``features.csv``.
        name: the file's name without ending; there is only one.
        download: there is nothing to download.
        split: ``"public"`` is that of the file; ``"random"`` draws one; ``"auto"`` is the first of the two there is.
        split_number: which of several splits of the file, or the seed of the random one.
        train_per_class: nodes of each class in the random split.
        validation_per_class: the same for validation.
        components: replace the attributes by so many principal components.
        holdout_edges: seed of a split of the edges for link prediction; by default all edges are there.
    """

    what: ClassVar[str] = "graph files"
    fallback: ClassVar[bool] = True  # an .npz may hold one of the named graphs

    @classmethod
    def graphs(cls, path: Path) -> dict[str, Path]:
        if path.is_dir():
            return {path.name.lower(): path} if (path / "edges.csv").is_file() else {}
        known = path.suffix in (".npz", ".safetensors", *_PICKLED) and path.is_file()
        return {path.stem.lower(): path} if known else {}

    @classmethod
    def read(cls, place: Path, name: str) -> Graph:
        if place.suffix in _PICKLED:
            raise UsageError(
                f"{place} is a pickled file: loading one may run code that somebody put into it, so it is not loaded. "
                "If you trust it, load it yourself and save plain arrays: numpy.savez('graph.npz', x=data.x, "
                "edge_index=data.edge_index, y=data.y, train_mask=data.train_mask, ...)"
            )
        return read_tables(place) if place.is_dir() else read_arrays(place)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """An ``.npz`` with attributes or edges, a ``.safetensors``, a pickled file (to refuse it), CSV files."""
        if path.suffix != ".npz" or not path.is_file():
            return bool(cls.graphs(path))
        try:
            with zipfile.ZipFile(path) as archive:
                return not {"x.npy", "x_indptr.npy", "edge_index.npy"}.isdisjoint(archive.namelist())
        except (zipfile.BadZipFile, OSError):
            return True  # reading it will say what is wrong
