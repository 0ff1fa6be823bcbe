"""Samples in a column of Parquet or Arrow files, or of a folder that `datasets` wrote, through pyarrow alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabel.data.sources import arrow_files, folders, layout
from unlabel.data.sources.arrow_files import ArrowMissing
from unlabel.data.sources.kind import ColumnForm, Kind
from unlabel.data.sources.listing import Listing
from unlabel.data.sources.reading import contents
from unlabel.errors import BadSample, UsageError, nearest

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Columns", "claims", "find", "holds_files", "nesting"]

_LABELS = ("label", "labels", "class", "category", "target", "y", "fine_label")


class Columns:
    """A source: the rows of a column of several files, one file after another.

    Args:
        files: the files.
        counts: their numbers of rows.
        column: name of the column.
        root: folder that a row may name files in, instead of holding their bytes.
        one: what a sample is called, for messages.
    """

    def __init__(self, files: list[Path], counts: list[int], column: str, root: Path, one: str):
        self.files, self.column, self.root, self.one = files, column, root, one
        self.ends = np.cumsum(counts)
        self.opened: list[pyarrow.ChunkedArray] = []

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"opened": []}

    def __len__(self) -> int:
        return int(self.ends[-1])

    def prepare(self) -> None:
        """Copy the column of Parquet files to the cache, where that has not been done."""
        for file in self.files:
            if file.suffix == ".parquet":
                arrow_files.column_table(file, self.column)

    def name(self, index: int) -> str:
        number, row = self._place(index)
        return f"{self.files[number]}:{self.column}[{row}]"

    def read(self, index: int) -> Any:
        """The bytes of a file, text, a number, or an array of nested lists in the type that they have."""
        if not self.opened:
            self.opened = [arrow_files.column_table(file, self.column).column(self.column) for file in self.files]
        number, row = self._place(index)
        return self._value(self.opened[number][row], self.files[number].parent)

    def _place(self, index: int) -> tuple[int, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return number, index - (int(self.ends[number - 1]) if number else 0)

    def _value(self, cell: Any, near: Path) -> Any:
        import pyarrow as arrow

        if isinstance(cell, arrow.ExtensionScalar):
            cell = cell.value
        if cell is None or not cell.is_valid:
            raise BadSample(f"no {self.one} in this row")
        kind = cell.type
        if arrow.types.is_struct(kind) and holds_files(kind):
            if cell["bytes"].is_valid:
                return bytes(cell["bytes"].as_buffer())
            return self._beside(cell["path"].as_py() if kind.get_field_index("path") >= 0 else None, near)
        if arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind):
            return bytes(cell.as_buffer())
        return _nested(cell.values) if nesting(kind)[0] else cell.as_py()

    def _beside(self, name: object, near: Path) -> bytes:
        """The file that a row names instead of holding it."""
        if not isinstance(name, str):
            raise BadSample(f"no {self.one} in this row")
        if "://" in name:
            raise BadSample(f"the row names {name}; only local files are read")
        path = folders.inside(self.root, os.path.join(os.path.relpath(near, self.root), name))
        if path is None:
            raise BadSample(f"the row names {name}, which is outside of {self.root}; only files in there are read")
        return contents(str(path))


def find(
    path: Path, kind: Kind, *, split: str | None = None, column: str | None = None, label: str | None = None
) -> Listing:
    """The samples in a folder written by `datasets`' ``save_to_disk``, or in ``.parquet`` or ``.arrow`` files.

    Args:
        path: the folder or file.
        kind: of the samples.
        split: take this one alone, undivided; by default the names of splits and files say which part each is.
        column: of the samples; by default the first that suits.
        label: column of the labels, whole numbers or words; by default one of a usual name, if there is one.

    Raises:
        UsageError: pyarrow is not installed, the path is missing or damaged, or a column is not there or of no use.
    """
    form = _form(kind)
    files = arrow_files.of_split(arrow_files.files_at(path), split, path)
    arrow_files.require(form.extra)
    schema = arrow_files.schema(files[0].path)
    column = _sample_column(schema, column, path, kind)
    label = _label_column(schema, label, path)
    values = [None if label is None else _values(file.path, label) for file in files]

    parts = [None if split else file.part for file in files]
    divided = 0 in parts and any(parts)
    used = [number for number in range(len(files)) if not divided or _usable(parts, values, number)]
    counts = [arrow_files.rows(files[number].path) for number in used]
    labels, classes = layout.numbered([values[number] for number in used], _class_names(schema, label))
    numbers = np.array([parts[number] or 0 for number in used], np.uint8)
    left_out = sorted({file.name for number, file in enumerate(files) if number not in used})
    root = path if path.is_dir() else path.parent
    return Listing(
        "columns",
        Columns([files[number].path for number in used], counts, column, root, kind.one),
        labels,
        classes,
        np.repeat(numbers, counts) if np.any(numbers > 0) and divided else None,
        {files[0].path.suffix: sum(counts)},
        notes=(f"left out: {', '.join(left_out)}, no part for training or not labelled",) if left_out else (),
    )


def claims(path: Path, kind: Kind) -> bool:
    """Whether it is a ``save_to_disk`` folder, or Parquet or Arrow files, with a column of the kind. Says yes to such
    files when pyarrow is missing, so that the user learns of it."""
    try:
        form, first = _form(kind), arrow_files.files_at(path)[0].path
        arrow_files.require(form.extra)
        _sample_column(arrow_files.schema(first), None, path, kind)
    except ArrowMissing:
        return True
    except (UsageError, OSError):
        return False
    return True


def _form(kind: Kind) -> ColumnForm:
    if kind.columns is None:
        raise UsageError(f"{kind.many} are not read from Parquet or Arrow files")
    return kind.columns


def _usable(parts: Sequence[int | None], values: Sequence[np.ndarray | None], number: int) -> bool:
    """Whether a file of a divided set is of use: it is part of it, and labelled if the training part is."""
    labelled = all(labels is not None for part, labels in zip(parts, values, strict=True) if part == 0)
    return parts[number] is not None and (not labelled or values[number] is not None)


def _values(path: Path, column: str) -> np.ndarray | None:
    """The labels of one file as they stand there; None if some are missing, which is also said by a negative number."""
    cells = arrow_files.read_column(path, column)
    if cells.null_count:
        return None
    values: np.ndarray = np.asarray(cells.to_pylist())
    return None if values.dtype.kind in "iu" and len(values) and values.min() < 0 else values


def holds_files(kind: Any) -> bool:
    """Whether a column of this Arrow type holds encoded files: bytes, or `datasets`' ``{"bytes", "path"}``."""
    from pyarrow import types

    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def nesting(kind: Any) -> tuple[int, Any]:
    """How deep lists are nested in a column of this Arrow type, and the innermost type: 2 and uint8 of
    list<list<uint8>>."""
    from pyarrow import types

    depth = 0
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        depth, kind = depth + 1, kind.value_type
    return depth, kind


def _check_column(schema: pyarrow.Schema, column: str | None, path: Path) -> None:
    if column is not None and column not in schema.names:
        raise UsageError(
            f"{path} has no column {column!r}{nearest(column, schema.names)} It has: {', '.join(schema.names)}"
        )


def _sample_column(schema: pyarrow.Schema, column: str | None, path: Path, kind: Kind) -> str:
    from pyarrow import types

    _check_column(schema, column, path)
    form = _form(kind)
    columns = [field for field in schema if column in (None, field.name) and form.usable(_storage(field.type))]
    columns.sort(key=lambda field: not types.is_struct(field.type))  # encoded files before nested lists
    if not columns:
        listing = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise UsageError(f"{path}: no column of {kind.many}: expected {form.expected}; found {listing}")
    return str(columns[0].name)


def _storage(kind: Any) -> Any:
    """What an extension type (such as `datasets`' arrays, when that package is imported) is stored as."""
    import pyarrow as arrow

    return kind.storage_type if isinstance(kind, arrow.BaseExtensionType) else kind


def _features(schema: pyarrow.Schema) -> dict[str, dict[str, Any]]:
    """What `datasets` wrote about the columns, e.g. ``{"label": {"_type": "ClassLabel", "names": [...]}}``."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # of another program, or of another form
        return {}


def _label_column(schema: pyarrow.Schema, column: str | None, path: Path) -> str | None:
    from pyarrow import types

    _check_column(schema, column, path)
    known = [name for name, feature in _features(schema).items() if feature.get("_type") == "ClassLabel"]
    for name in [column] if column else [*known, *_LABELS]:
        if name in schema.names and (
            types.is_integer(schema.field(name).type) or types.is_string(schema.field(name).type)
        ):
            return name
    if column:
        raise UsageError(
            f"{path}: the column {column!r} is {schema.field(column).type}; labels are integers or strings"
        )
    return None


def _class_names(schema: pyarrow.Schema, label: str | None) -> tuple[str, ...] | None:
    names = _features(schema).get(label or "", {}).get("names")
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _nested(values: Any) -> np.ndarray:
    """Nested Arrow lists of equal lengths as one array, in their own type."""
    shape = [len(values)]
    while nesting(values.type)[0]:
        lengths = values.value_lengths().unique()
        if len(lengths) != 1 or not lengths[0].is_valid:
            raise BadSample("rows of different lengths")
        shape.append(lengths[0].as_py())
        values = values.flatten()
    flat: np.ndarray = values.to_numpy(zero_copy_only=False)
    return flat.reshape(shape)
