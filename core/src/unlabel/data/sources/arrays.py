"""Samples in the arrays of ``.npz`` files: stacked, or as files one after another with offsets. Nothing is unpickled.

Uncompressed arrays are mapped into memory, compressed ones loaded, on first use in each process.
"""

from __future__ import annotations

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.data.sources import layout
from unlabel.data.sources.kind import Kind
from unlabel.errors import UsageError

__all__ = ["Arrays", "Table", "headers", "open_array", "tables"]

_LABELS = ("labels", "label", "y", "targets")

Header = tuple[tuple[int, ...], np.dtype[Any]]
"""Shape and type of an array."""


@dataclass
class Table:
    """Samples in one array of an ``.npz``.

    Attributes:
        path: the .npz.
        array: name of the array of stacked samples or of the concatenated files.
        count: number of samples.
        offsets: int64, (count + 1,) for files, None for stacked samples.
        part: index into `layout.PARTS`, or None.
        labels: as they stand there, (count,), or None.
    """

    path: Path
    array: str
    count: int
    offsets: np.ndarray | None
    part: int | None
    labels: np.ndarray | None = None
    opened: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"opened": None}

    def read(self, index: int) -> bytes | np.ndarray:
        """The bytes of a file, or a stacked sample as it stands in the array."""
        if self.opened is None:
            self.opened = open_array(self.path, self.array)
        if self.offsets is not None:
            return self.opened[self.offsets[index] : self.offsets[index + 1]].tobytes()
        sample: np.ndarray = self.opened[index]
        return sample


class Arrays:
    """A source: samples in arrays of one or more ``.npz`` files."""

    def __init__(self, tables: Sequence[Table]):
        self.tables = list(tables)
        self.ends = np.cumsum([table.count for table in self.tables])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _place(self, index: int) -> tuple[Table, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.tables[number], index - (int(self.ends[number - 1]) if number else 0)

    def prepare(self) -> None:
        """Nothing has to be."""

    def name(self, index: int) -> str:
        table, row = self._place(index)
        return f"{table.path}:{table.array}[{row}]"

    def read(self, index: int) -> bytes | np.ndarray:
        table, row = self._place(index)
        return table.read(row)


def headers(path: Path) -> dict[str, Header]:
    """Shape and type of each array of an ``.npz``, without reading the arrays.

    Raises:
        UsageError: it is none, it is damaged, or an array is said to be larger than what is there.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            return {member.filename[:-4]: _header(archive, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise UsageError(f"{path} is not a readable .npz file ({error})") from error


def _header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Header:
    shape, dtype, _, length = _array_header(archive, member.filename)
    if not dtype.hasobject and length + math.prod(shape) * dtype.itemsize > member.file_size:
        raise ValueError(f"{member.filename} declares {dtype} {shape}, which is more than it holds")
    return shape, dtype


def _array_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, type, Fortran order and length of the header of one .npy member."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        return shape, dtype, fortran, stream.tell()


def open_array(path: Path, name: str) -> np.ndarray:
    """One array of an ``.npz``: mapped into memory where it is stored uncompressed, else read."""
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            with np.load(path, allow_pickle=False) as content:
                loaded: np.ndarray = content[name]
                return loaded
        shape, dtype, fortran, length = _array_header(archive, member.filename)
    with open(path, "rb") as file:
        file.seek(member.header_offset + 26)
        start = member.header_offset + 30 + sum(struct.unpack("<HH", file.read(4)))
    return np.memmap(path, dtype, "r", start + length, shape, "F" if fortran else "C")


def tables(path: Path, kind: Kind) -> tuple[list[Table], tuple[str, ...] | None]:
    """The samples in an ``.npz`` part by part, and its class names if it has an array ``classes``.

    Arrays of files (with ``offsets``) come before arrays of stacked samples, whose names are commoner words.

    Raises:
        UsageError: the file is damaged, or holds no samples in a form that is understood; says which arrays it holds.
    """
    form, arrays = kind.arrays, headers(path)
    if form is None:
        raise UsageError(f"no {kind.many} in {path}: they are not read from .npz files")
    files, offsets, labels = (_roles(list(arrays), roles) for roles in (form.files, ("offsets",), _LABELS))
    usable = [
        _of_files(path, name, offsets[part], part)
        for part, name in files.items()
        if part in offsets and _is_line(arrays[name], "iu", 1) and _is_line(arrays[offsets[part]], "iu")
    ]
    if not usable:
        stacked = _roles(list(arrays), form.stacked).items()
        usable = [
            _of_samples(path, name, arrays[name], part, kind)
            for part, name in stacked
            if arrays[name][0] and form.fits(arrays[name][0])
        ]
    if not usable:
        listing = ", ".join(f"{name} ({dtype} {shape})" for name, (shape, dtype) in arrays.items()) or "no arrays"
        raise UsageError(f"no {kind.many} in {path}: expected {form.expected}; found {listing}")
    for table in usable:
        if table.part in labels:
            table.labels = _labels(path, labels[table.part], arrays[labels[table.part]], table.count)
    classes = tuple(str(name) for name in _read_small(path, "classes")) if "classes" in arrays else None
    return sorted(usable, key=lambda table: -1 if table.part is None else table.part), classes


def _roles(names: Sequence[str], roles: Sequence[str]) -> dict[int | None, str]:
    """Part -> array whose name is one of `roles`, alone or with a part's name: ``x``, ``x_test``."""
    arrays: dict[int | None, str] = {}
    for role in reversed(roles):
        for name in names:
            words = re.split(r"[_\-/. ]", name.lower())
            rest = [word for word in words if word != role]
            part = layout.part_of(rest[0]) if len(rest) == 1 else None
            if len(rest) < len(words) and (not rest or part is not None):
                arrays[part] = name
    return arrays


def _is_line(header: Header, kinds: str, size: int | None = None) -> bool:
    """Whether an array is one-dimensional, of one of these kinds of types (and so many bytes an element)."""
    shape, dtype = header
    return len(shape) == 1 and dtype.kind in kinds and size in (None, dtype.itemsize)


def _of_samples(path: Path, name: str, header: Header, part: int | None, kind: Kind) -> Table:
    shape, dtype = header
    form = kind.arrays
    assert form is not None
    if dtype.hasobject or form.dtype not in (None, dtype):
        raise UsageError(f"{path}: the array {name!r} is {dtype}; {kind.many} are expected as {form.values}")
    return Table(path, name, shape[0], None, part)


def _of_files(path: Path, name: str, offsets: str, part: int | None) -> Table:
    ends = _read_small(path, offsets).astype(np.int64)
    size = headers(path)[name][0][0]
    if len(ends) < 2 or ends[0] < 0 or ends[-1] > size or np.any(np.diff(ends) < 0):
        raise UsageError(
            f"{path}: {offsets!r} must rise within the {size} bytes of {name!r}, with one number more than files"
        )
    return Table(path, name, len(ends) - 1, ends, part)


def _read_small(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            array: np.ndarray = content[name]
            return array
    except (ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: the array {name!r} cannot be read ({error})") from error


def _labels(path: Path, name: str, header: Header, count: int) -> np.ndarray | None:
    """Labels as (count,), or None where there are several for each sample, or of a type that is none of labels."""
    if header[0] not in ((count,), (count, 1)):
        return None
    labels = _read_small(path, name).reshape(count)
    return labels if labels.dtype.kind in "iuUSb" else None
