"""A kind of file that nobody else has: what ends in ``.ping`` or begins with ``ping``, and holds a number.

Folders, archives, arrays, shards and columns of them are what the tests of `unlabel.data.sources` read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.data.sources import columns, listing
from unlabel.data.sources.kind import ArrayForm, ColumnForm, Kind
from unlabel.data.sources.listing import Listing
from unlabel.data.sources.stored import Stored
from unlabel.errors import BadSample
from unlabel.task import Sample


def _fits(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2


def _usable(kind: Any) -> bool:
    return columns.holds_files(kind) or columns.nesting(kind)[0] == 1


PINGS = Kind(
    "ping",
    "pings",
    frozenset({".ping", ".pong"}),
    ".ping or .pong",
    lambda head: head.startswith(b"ping"),
    ArrayForm(("pings", "x"), ("files",), "an array `pings` (N, T)", _fits, np.dtype(np.float32), "float32"),
    ColumnForm(_usable, "encoded bytes or lists", "unlabel-sonar[parquet]"),
)


class Pings(Stored):
    """Samples are ``{"ping": number}``, and their label if there are labels."""

    def __init__(self, path: Path, listed: Listing | None = None, holdout: float = 0.2):
        super().__init__(path, listed or listing.find(path, PINGS), holdout)

    def decode_sample(self, stored: Any) -> Sample:
        if isinstance(stored, np.ndarray):
            return {"ping": stored}
        if not stored.startswith(b"ping"):
            raise BadSample("no ping")
        return {"ping": int(stored[4:])}


def ping(number: int) -> bytes:
    return b"ping%d" % number


def tree(root: Path, *names: str) -> Path:
    """A folder with ping n in the n-th file; names of another kind get text."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(ping(number) if path.suffix.lower() in PINGS.endings else b"words")
    return root


def archive(path: Path, names: list[str], compression: int = zipfile.ZIP_STORED) -> Path:
    """The same as a zip archive."""
    with zipfile.ZipFile(path, "w", compression) as file:
        for number, name in enumerate(names):
            file.writestr(name, ping(number))
    return path


def shown(dataset: Any) -> list[int]:
    """The numbers of all samples."""
    return [dataset[index]["ping"] for index in range(len(dataset))]


def names(dataset: Any) -> list[str]:
    """The names of all samples."""
    return [dataset.name_of(index) for index in range(len(dataset))]
