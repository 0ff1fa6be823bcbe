"""A file of what was shown: a zip archive of arrays (``0.npy``, ...) and of ``show.json``, which says what each is.

Nothing in it is pickled. Files of version 0.1 hold pictures alone, each under its own name, and are read as well.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.show import limits
from unlabel.show.media import Clip, Mark, Media, Picture, Sound, Table, Text
from unlabel.storage.files import writing

__all__ = ["arrays", "read", "write"]

_LIST = "show.json"
_LARGEST = 1 << 26  # bytes of one entry: many times what is written
_DAMAGED = (OSError, ValueError, EOFError, KeyError, TypeError, MemoryError, RecursionError, zlib.error,
            zipfile.BadZipFile, NotImplementedError, RuntimeError)  # fmt: skip


def write(path: Path, shown: Mapping[str, Media]) -> None:
    """Write what was shown, by name, as much of it as is kept; aside and renamed: it is there whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    with writing(path) as aside, zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
        entries = []
        for number, (name, media) in enumerate(shown.items()):
            entry, array = _serialized(limits.limited(media))
            entries.append({"name": limits.clean(name), **entry})
            if array is not None:
                with archive.open(f"{number}.npy", "w") as file:  # without a date: the same content, the same file
                    np.lib.format.write_array(file, array, allow_pickle=False)
        with archive.open(_LIST, "w") as file:
            file.write(json.dumps(entries, allow_nan=False).encode("ascii"))


def read(path: Path) -> dict[str, Media]:
    """What a file of `write` or of version 0.1 shows, by name.

    Raises:
        ValueError: it is damaged, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if _LIST not in archive.namelist():
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                return {name: Picture(_array(archive, f"{name}.npy")) for name in names}
            entries = json.loads(_bytes(archive, _LIST))
            return {
                str(entry["name"]): limits.limited(_deserialized(entry, archive, f"{number}.npy"))
                for number, entry in enumerate(entries)
            }
    except _DAMAGED as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from error


def arrays(path: Path) -> dict[str, np.ndarray]:
    """What an ``.npz`` file holds; nothing is unpickled.

    Raises:
        ValueError: it is damaged, or no such file.
    """
    try:
        with path.open("rb") as file:  # opened here, because NumPy leaves a damaged one open
            if file.read(2) != b"PK":
                raise ValueError("it is no archive")
            file.seek(0)
            with np.load(file, allow_pickle=False) as table:
                return {name: table[name] for name in table.files}
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile) as error:
        raise ValueError(f"{path.name} cannot be read ({error})") from error


def _serialized(media: Media) -> tuple[dict[str, Any], np.ndarray | None]:
    """What stands in the list, and the array beside it."""
    common = {"kind": type(media).__name__, "caption": media.caption}
    match media:
        case Picture(array):
            return common, array
        case Clip(array, rate):
            return {**common, "rate": rate}, array
        case Sound(samples, rate):  # as a file of sound holds them: 16 bits
            return {**common, "rate": rate}, (samples * 32767).round().astype(np.int16)
        case Text():
            lines = [[[part.text, part.label, part.strength] if isinstance(part, Mark) else part for part in line]
                     for line in media.lines]  # fmt: skip
            return {**common, "lines": lines}, None
        case Table():
            return {**common, "columns": media.columns, "rows": media.rows}, None
    raise TypeError(f"{type(media).__name__} cannot be written")


def _deserialized(entry: Mapping[str, Any], archive: zipfile.ZipFile, name: str) -> Media:
    """The inverse; whatever the file says goes through the kinds' own checks."""
    kind, caption = entry["kind"], entry["caption"]
    match kind:
        case "Picture":
            return Picture(_array(archive, name), caption)
        case "Clip":
            return Clip(_array(archive, name), entry["rate"], caption)
        case "Sound":
            samples = _array(archive, name)
            if samples.dtype != np.int16:
                raise ValueError(f"a sound of {samples.dtype}, expected int16")
            return Sound(np.maximum(samples.astype(np.float32) / 32767, -1), entry["rate"], caption)
        case "Text":
            lines = [[Mark(*part) if isinstance(part, list) else part for part in line] for line in entry["lines"]]
            return Text(lines, caption)
        case "Table":
            return Table(entry["columns"], entry["rows"], caption)
    raise ValueError(f"it shows a {kind!r}, which this version does not know")


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    array: np.ndarray = np.lib.format.read_array(io.BytesIO(_bytes(archive, name)), allow_pickle=False)
    return array


def _bytes(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size  # never more is unpacked than the archive announces
    if size > _LARGEST:
        raise ValueError(f"{name} holds {size:,} bytes")
    return archive.read(name)
