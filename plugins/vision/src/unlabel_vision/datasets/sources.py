"""Where the bytes of an image come from: files of a folder, members of a zip archive, arrays of .npz files.

Each source has ``len``, ``name(index)`` and ``read(index)``. Sources are cheap to copy into loader
processes, for a million images too: names lie in one block of bytes (a million ``str`` would take 120 MB
and be copied page by page as reference counts change in forked processes), arrays are memory-mapped or
loaded on first use in each process, file handles opened on first use.
"""

from __future__ import annotations

import os
import re
import struct
import weakref
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.errors import BadSample, UsageError
from unlabel_vision.datasets import layout

__all__ = [
    "Arrays",
    "Files",
    "Handles",
    "Names",
    "Table",
    "ZipMembers",
    "channels_last",
    "is_hidden",
    "printable",
    "tables",
    "zip_members",
]


class Names:
    """Many strings in one block of bytes; undecodable file names survive as Python's surrogates."""

    def __init__(self, names: Sequence[str]):
        encoded = [os.fsencode(name) for name in names]
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.block[start : int(self.ends[index])])


def printable(name: str) -> str:
    """The name for messages and JSON: bytes that are no UTF-8 are written as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _Descriptor:
    """An open file that closes when the last user lets go, so that threads may drop it at any time."""

    def __init__(self, path: str):
        self.number = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.number)  # unlike __del__, also while the interpreter ends


class Handles:
    """Open files of this process, the last `limit` used; copies sent to other processes start empty.

    Reading is by position, which threads and forked processes may do on the same descriptor.
    """

    def __init__(self, limit: int = 64):
        self.limit = limit
        self.opened: dict[str, _Descriptor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self.limit, "opened": {}}

    def read(self, path: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on; fewer if the file ends before."""
        descriptor = self.opened.pop(path, None) or _Descriptor(path)
        self.opened[path] = descriptor  # the most recent is last
        while len(self.opened) > self.limit:
            self.opened.pop(next(iter(self.opened)), None)
        return os.pread(descriptor.number, size, offset)


class Files:
    """Files below a folder."""

    def __init__(self, root: Path, names: Sequence[str]):
        self.root, self.names = str(root), Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return printable(f"{self.root}/{self.names[index]}")

    def read(self, index: int) -> bytes:
        with open(f"{self.root}/{self.names[index]}", "rb") as file:
            return file.read()


class ZipMembers:
    """Members of a zip archive, stored or deflated, read by their position in the file.

    The directory of the archive is read once; loader processes get the positions as arrays instead of
    reading it again (a million members take seconds and half a gigabyte in `zipfile`).
    """

    def __init__(self, path: Path, members: Sequence[zipfile.ZipInfo]):
        self.path, self.names = str(path), Names([member.filename for member in members])
        self.offsets = np.array([member.header_offset for member in members], np.int64)
        self.sizes = np.array([member.compress_size for member in members], np.int64)
        self.checksums = np.array([member.CRC for member in members], np.uint32)
        self.methods = np.array([member.compress_type for member in members], np.uint8)
        self.handles = Handles()

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return printable(f"{self.path}/{self.names[index]}")

    def read(self, index: int) -> bytes:
        start = int(self.offsets[index])
        local = self.handles.read(self.path, start, 30)
        if len(local) < 30 or not local.startswith(b"PK\x03\x04"):
            raise BadSample("damaged zip archive: no member where the directory says")
        name, extra = struct.unpack("<HH", local[26:30])
        content = self.handles.read(self.path, start + 30 + name + extra, int(self.sizes[index]))
        if self.methods[index] == zipfile.ZIP_DEFLATED:
            try:
                content = zlib.decompress(content, wbits=-15)
            except zlib.error as error:
                raise BadSample(f"damaged zip member ({error})") from error
        if zlib.crc32(content) != self.checksums[index]:
            raise BadSample("damaged zip member (wrong checksum)")
        return content


def zip_members(path: Path) -> list[zipfile.ZipInfo]:
    """The files of a zip archive that can be read, hidden ones and macOS's extras left out, in order of their names.

    Raises:
        UsageError: no zip archive, encrypted, or compressed in a way other than deflate.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise UsageError(f"{path} is not a readable zip archive ({error}); was it copied completely?") from error
    for member in members:
        member.filename = member.filename.replace("\\", "/")  # some Windows programs write it so
        if member.flag_bits & 1:
            raise UsageError(f"{path} is encrypted ({member.filename}): unpack it first")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UsageError(f"{path} is compressed with method {member.compress_type}, not deflate: unpack it first")
    visible = [member for member in members if not any(map(is_hidden, member.filename.split("/")))]
    return sorted(visible, key=lambda member: member.filename)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's data: dot files and macOS's archive extras."""
    return name.startswith(".") or name == "__MACOSX"


_IMAGES = ("images", "image", "x", "data")
_FILES = ("jpeg", "jpg", "png", "webp", "files")
_LABELS = ("labels", "label", "y", "targets")


@dataclass
class Table:
    """Images in arrays of one .npz: pixels in one array, or files one after another with their offsets.

    Attributes:
        path: the .npz.
        array: name of the array of pixels or of the concatenated files.
        count: number of images.
        offsets: int64, (count + 1,) for files, None for pixels.
        part: index into `layout.PARTS`, or None.
        labels: as found, (count,), or None.
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
        if self.opened is None:
            self.opened = open_array(self.path, self.array)
        if self.offsets is not None:
            return self.opened[self.offsets[index] : self.offsets[index + 1]].tobytes()
        return channels_last(self.opened[index])


def channels_last(image: np.ndarray) -> np.ndarray:
    """(1 or 3, H, W) as (H, W, 1 or 3); anything else as it is."""
    first = image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3)
    return np.moveaxis(image, 0, 2) if first else image


class Arrays:
    """Images in arrays of one or more .npz files."""

    def __init__(self, tables: Sequence[Table]):
        self.tables = list(tables)
        self.ends = np.cumsum([table.count for table in self.tables])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def _place(self, index: int) -> tuple[Table, int]:
        number = int(np.searchsorted(self.ends, index, side="right"))
        return self.tables[number], index - (int(self.ends[number - 1]) if number else 0)

    def name(self, index: int) -> str:
        table, row = self._place(index)
        return f"{table.path}:{table.array}[{row}]"

    def read(self, index: int) -> bytes | np.ndarray:
        table, row = self._place(index)
        return table.read(row)


def headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of each array of an .npz, without reading the arrays; UsageError if it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name[:-4]: _array_header(archive, name)[:2] for name in names}
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UsageError(f"{path} is not a readable .npz file ({error})") from error


def _array_header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool, int]:
    """Shape, type, Fortran order and length of the header of one .npy member."""
    with archive.open(name) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        return shape, dtype, fortran, stream.tell()


def open_array(path: Path, name: str) -> np.ndarray:
    """One array of an .npz: memory-mapped where it is stored uncompressed, else read. Nothing is unpickled."""
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


def _roles(names: Sequence[str], roles: Sequence[str]) -> dict[int | None, str]:
    """Part -> array whose name is one of `roles`, alone or with a part's name: ``images``, ``x_test``."""
    found: dict[int | None, str] = {}
    for role in reversed(roles):
        for name in names:
            words = re.split(r"[_\-/. ]", name.lower())
            rest = [word for word in words if word != role]
            part = layout.part_of(rest[0]) if len(rest) == 1 else None
            if len(rest) < len(words) and (not rest or part is not None):
                found[part] = name
    return found


def tables(path: Path) -> tuple[list[Table], tuple[str, ...] | None]:
    """The images in an .npz part by part, and its class names if it has an array ``classes``.

    Arrays of files (``jpeg`` with ``offsets``) come before arrays of pixels, whose names are commoner words.

    Raises:
        UsageError: the file is damaged, or holds no images in a form that is understood; says which arrays it holds.
    """
    held = headers(path)
    files, offsets, labels = (_roles(list(held), roles) for roles in (_FILES, ("offsets",), _LABELS))
    found = [_of_files(path, name, offsets[part], part) for part, name in files.items() if part in offsets]
    if not found:
        arrays = _roles(list(held), _IMAGES)
        found = [_of_pixels(path, name, held[name], part) for part, name in arrays.items() if _is_images(held[name][0])]
    if not found:
        listing = ", ".join(f"{name} ({dtype} {shape})" for name, (shape, dtype) in held.items()) or "no arrays"
        raise UsageError(
            f"no images in {path}: expected an array `images` of uint8 (N, H, W) or (N, H, W, 3), "
            f"or `jpeg` with `offsets`; found {listing}"
        )
    for table in found:
        table.labels = _labels(path, labels.get(table.part), table.count)
    classes = tuple(str(name) for name in _read_small(path, "classes")) if "classes" in held else None
    return sorted(found, key=lambda table: -1 if table.part is None else table.part), classes


def _is_images(shape: tuple[int, ...]) -> bool:
    return 0 not in shape and (len(shape) == 3 or (len(shape) == 4 and not {1, 3}.isdisjoint((shape[1], shape[3]))))


def _of_pixels(path: Path, name: str, held: tuple[tuple[int, ...], np.dtype[Any]], part: int | None) -> Table:
    shape, dtype = held
    if dtype != np.uint8:
        raise UsageError(f"{path}: the array {name!r} is {dtype}; images are expected as uint8 from 0 to 255")
    return Table(path, name, shape[0], None, part)


def _of_files(path: Path, name: str, offsets: str, part: int | None) -> Table:
    ends = _read_small(path, offsets).astype(np.int64)
    size = headers(path)[name][0][0]
    if len(ends) < 2 or ends[0] < 0 or ends[-1] > size or np.any(np.diff(ends) < 0):
        raise UsageError(
            f"{path}: {offsets!r} must rise within the {size} bytes of {name!r}, with one number more than images"
        )
    return Table(path, name, len(ends) - 1, ends, part)


def _read_small(path: Path, name: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as content:
            found: np.ndarray = content[name]
            return found
    except ValueError as error:
        raise UsageError(f"{path}: the array {name!r} cannot be read ({error})") from error


def _labels(path: Path, name: str | None, count: int) -> np.ndarray | None:
    """Labels as (count,), or None where there are none, or several for each image."""
    if name is None:
        return None
    found = _read_small(path, name)
    if found.shape == (count, 1):
        found = found[:, 0]
    return found if found.shape == (count,) and found.dtype.kind in "iuUSb" else None
