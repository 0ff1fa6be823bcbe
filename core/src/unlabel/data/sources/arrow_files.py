"""Parquet and Arrow files: which there are at a path, and how they are opened.

Nothing is downloaded and no code of the data is run. Arrow files are mapped into memory. Parquet cannot be read row by
row (a row costs its whole row group), so a column is copied once, uncompressed, into the cache and mapped from there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabel.data.sources import folders, layout
from unlabel.errors import UsageError, nearest
from unlabel.storage import cache

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "ArrowMissing",
    "DataFile",
    "column_table",
    "files_at",
    "of_split",
    "read_column",
    "require",
    "rows",
    "schema",
]


class ArrowMissing(UsageError):
    """pyarrow is not installed."""


def require(extra: str) -> None:
    """Raise ArrowMissing, which says what to install, if pyarrow is not there."""
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ArrowMissing(f"reading Arrow and Parquet files needs pyarrow: run `pip install '{extra}'`") from error


@dataclass(frozen=True)
class DataFile:
    """One file: its path, the name of its split as the data give it, and the part that means."""

    path: Path
    name: str
    part: int | None


def files_at(path: Path) -> list[DataFile]:
    """The files at `path`, split by split; UsageError if there is nothing of the kind."""
    if not path.exists():
        folders.missing(path)
    if path.is_file() and path.suffix in (".parquet", ".arrow"):
        return [DataFile(path, path.stem, layout.part_in(path.stem))]
    if (path / "dataset_dict.json").is_file():
        splits = [_within(path, name) for name in _json(path / "dataset_dict.json", "splits")]
        return [
            DataFile(file.path, split.name, layout.part_of(split.name)) for split in splits for file in _saved(split)
        ]
    if (path / "state.json").is_file():
        return _saved(path)
    below = sorted(path.rglob("*.parquet")) or sorted(path.rglob("*.arrow")) if path.is_dir() else []
    if not below:
        raise UsageError(f"{path}: expected a folder written by save_to_disk, or .parquet or .arrow files")
    return [
        DataFile(file, file.relative_to(path).as_posix(), layout.part_in("/".join(file.relative_to(path).parts[-2:])))
        for file in below
    ]


def _saved(path: Path) -> list[DataFile]:
    names = [entry.get("filename") for entry in _json(path / "state.json", "_data_files") if isinstance(entry, dict)]
    files = [_within(path, name) for name in names]
    if not files:
        raise UsageError(f"{path / 'state.json'} names no data files; was the folder copied completely?")
    return [DataFile(file, path.name, None) for file in files]


def _within(path: Path, name: object) -> Path:
    """A file or folder that a file at `path` names, which has no business elsewhere."""
    place = folders.inside(path, name) if isinstance(name, str) else None
    if place is None:
        raise UsageError(f"{path} names {name!r}, which is not inside of it; nothing elsewhere is read")
    return place


def _json(path: Path, key: str) -> list[Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))[key]
        if isinstance(value, list):
            return value
        raise ValueError(f"{key} is no list")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} is not what save_to_disk writes: {key!r} cannot be read") from error


def of_split(files: list[DataFile], split: str | None, path: Path) -> list[DataFile]:
    """Those of one split, or all; UsageError naming the splits there are if it has no files."""
    if split is None:
        return files
    part = layout.part_of(split)
    same = [file for file in files if file.name == split or (part is not None and file.part == part)]
    if not same:
        names = sorted({file.name for file in files})
        raise UsageError(f"{path} has no split {split!r}{nearest(split, names)} It has: {', '.join(names[:10])}")
    return same


def _open(path: Path) -> pyarrow.Table:
    """An Arrow file, stream or file format, mapped into memory."""
    import pyarrow as arrow

    with open(path, "rb") as file:
        stream = file.read(6) != b"ARROW1"
    mapped = arrow.memory_map(str(path))
    try:
        reader = arrow.ipc.open_stream(mapped) if stream else arrow.ipc.open_file(mapped)
        return reader.read_all()
    except (arrow.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path} is not an intact Arrow file ({error}); was it copied completely?") from error


def _parquet(path: Path) -> Any:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except arrow.ArrowInvalid as error:
        raise UsageError(f"{path} is not an intact Parquet file ({error}); was it copied completely?") from error


def schema(path: Path) -> pyarrow.Schema:
    """Names and types of a file's columns."""
    return _parquet(path).schema_arrow if path.suffix == ".parquet" else _open(path).schema


def rows(path: Path) -> int:
    """How many rows a file has."""
    return int(_parquet(path).metadata.num_rows if path.suffix == ".parquet" else _open(path).num_rows)


def read_column(path: Path, column: str) -> pyarrow.ChunkedArray:
    """A small column, into memory."""
    table = _parquet(path).read(columns=[column]) if path.suffix == ".parquet" else _open(path)
    return table.column(column)


def column_table(path: Path, column: str) -> pyarrow.Table:
    """The table of an Arrow file, or of the copy of a Parquet file's column, made where it is not there whole."""
    if path.suffix != ".parquet":
        return _open(path)
    copy = cache.entry("parquet", cache.of_file(path, column), ".arrow")
    table = cache.load(copy, _open)
    if table is None:
        _copy(path, column, copy)
        table = _open(copy)
    return table


def _copy(path: Path, column: str, copy: Path) -> None:
    import pyarrow as arrow

    file = _parquet(path)
    schema = arrow.schema([file.schema_arrow.field(column)])
    with cache.saving(copy) as aside, arrow.ipc.new_stream(str(aside), schema) as writer:
        for batch in file.iter_batches(batch_size=128, columns=[column]):
            writer.write_batch(batch.replace_schema_metadata(None).cast(schema))
