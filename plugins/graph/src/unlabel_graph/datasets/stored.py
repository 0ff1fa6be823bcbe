"""Graphs out of files: what all readers share. Nothing is unpickled, whatever a file is called.

A reader says which graphs lie at a path, and reads one of them; everything else (choosing by name, partitions that lie
beside the data, fetching, checking) happens here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from zipfile import BadZipFile, is_zipfile

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from scipy import sparse

from unlabel.errors import RunError, UsageError, nearest
from unlabel_graph.graph import Graph, Nodes, Splitting, checked

__all__ = ["Stored", "arrays", "compressed", "fetch", "optional", "partitions_beside", "required"]


class Stored(Nodes):
    """Nodes of a graph in a file. Subclasses say where graphs lie, and read one.

    ``graphs(path)`` returns name -> file or folder of the graphs at a path; ``read(place, name)`` reads one of them;
    ``urls(name)`` names the files to download, if there are any.
    """

    def __init__(
        self,
        *,
        path: Path,
        name: str | None = None,
        download: bool = False,
        split: Splitting = "auto",
        split_number: int = 0,
        train_per_class: int = 20,
        validation_per_class: int = 30,
        components: int | None = None,
        holdout_edges: int | None = None,
    ):
        kind = type(self)
        if download:
            kind.fetched(path, name)
        graphs = kind.graphs(path)
        choice = name.lower() if name else next(iter(graphs), None)
        if choice not in graphs or (name is None and len(graphs) > 1):
            names = ", ".join(sorted(graphs)) or "none"
            raise UsageError(
                f"{path}: dataset.name {name!r}: the {kind.what} there are {names}{nearest(choice or '', graphs)}"
            )
        place = graphs[choice]
        graph = kind.read(place, choice)
        if not graph.partitions:
            graph = replace(graph, partitions=partitions_beside(place, choice))
        super().__init__(
            checked(graph, str(place)),
            str(place),
            split=split,
            split_number=split_number,
            train_per_class=train_per_class,
            validation_per_class=validation_per_class,
            components=components,
            holdout_edges=holdout_edges,
        )

    what: ClassVar[str] = "graphs"
    """What they are called in messages."""

    @classmethod
    def graphs(cls, path: Path) -> dict[str, Path]:
        """Name -> file or folder of each graph at a path."""
        raise NotImplementedError(f"{cls.__name__} must define graphs(path)")

    @classmethod
    def read(cls, place: Path, name: str) -> Graph:
        """The graph of that name, as its files have it."""
        raise NotImplementedError(f"{cls.__name__} must define read(place, name)")

    @classmethod
    def urls(cls, name: str) -> tuple[str, list[str]]:
        """Sub-folder and addresses of the original files of a graph."""
        raise UsageError(f"{cls.what} cannot be downloaded from here: get the files, and give their folder")

    @classmethod
    def fetched(cls, path: Path, name: str | None) -> None:
        """Download the original files of a graph that is not there yet."""
        if name is None:
            raise UsageError("download needs --set dataset.name=NAME: which graph?")
        if name.lower() not in cls.graphs(path):
            folder, addresses = cls.urls(name.lower())
            fetch(addresses, path / folder)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Whether a graph of this kind lies at the path."""
        return bool(cls.graphs(path))


@contextmanager
def arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a ``.npz`` or ``.safetensors`` file by name.

    Raises:
        UsageError: the file is damaged, or an array that is asked for is pickled; nothing is unpickled.
    """
    try:
        if path.suffix == ".safetensors":
            yield load_file(path)
            return
        if path.is_file() and not is_zipfile(path):
            raise UsageError(f"{path} cannot be read: it is no .npz archive, or damaged")
        with np.load(path, allow_pickle=False) as content:
            yield content
    except (OSError, EOFError, BadZipFile, SafetensorError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    except UsageError:
        raise
    except ValueError as error:
        if "pickle" in str(error):
            raise UsageError(
                f"{path} holds pickled objects, which can run code, so they were not loaded: "
                "save plain arrays (numbers, no dtype=object)"
            ) from error
        raise UsageError(f"{path} cannot be read: {error}") from error


def required(content: Mapping[str, np.ndarray], names: tuple[str, ...], path: Path) -> np.ndarray:
    """The first of these arrays that is there; UsageError naming them all if none is."""
    for name in names:
        if name in content:
            return content[name]
    raise UsageError(f"{path} has no array {' or '.join(names)}; it has {', '.join(content) or 'none'}")


def compressed(content: Mapping[str, np.ndarray], prefix: str, path: Path) -> sparse.csr_array:
    """The sparse matrix stored as ``PREFIXdata``, ``PREFIXindices``, ``PREFIXindptr``, ``PREFIXshape``."""
    data, indices, indptr, shape = (
        required(content, (prefix + part,), path) for part in ("data", "indices", "indptr", "shape")
    )
    try:
        matrix = sparse.csr_array((data, indices, indptr), shape=tuple(int(size) for size in shape))
        matrix.check_format()
    except ValueError as error:
        raise UsageError(f"{path}: {prefix}* is no compressed sparse matrix: {error}") from error
    return matrix


def partitions_beside(place: Path, name: str) -> dict[int, np.ndarray]:
    """Partitions in ``partitions.npz`` (arrays ``k10``) or ``metis10.npz`` (``NAME_k10``) beside a graph's files."""
    folder = place if place.is_dir() else place.parent
    partitions: dict[int, np.ndarray] = {}
    for path in (folder / file for file in ("partitions.npz", "metis10.npz")):
        if path.is_file():
            with arrays(path) as content:
                for key in content:
                    owner, _, parts = key.rpartition("k")
                    if parts.isdecimal() and owner.rstrip("_") in ("", name):
                        partitions[int(parts)] = content[key].astype(np.int64)
    return partitions


def fetch(addresses: list[str], folder: Path) -> None:
    """Download files through torch-geometric, which is used for nothing else here: its readers unpickle.

    Raises:
        RunError: a file cannot be had.
    """
    from torch_geometric.data import download_url

    for address in addresses:
        try:
            download_url(address, str(folder), log=False)
        except (OSError, ValueError) as error:
            raise RunError(f"{address} cannot be downloaded to {folder}: {error}") from error


def optional(content: Mapping[str, np.ndarray], names: tuple[str, ...]) -> Any:
    """The first of these arrays that is there, or None."""
    return next((content[name] for name in names if name in content), None)
