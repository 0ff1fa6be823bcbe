"""Files that are whole or not there: written aside, flushed, renamed. The one home of that.

Under a name is always all of the old or all of the new, whatever happens in between: an error, a full disk, a kill.
What is being written lies beside its target, as ``.NAME.HOST-PROCESS-NUMBER.writing``, so that no two writers share it
and renaming never crosses file systems. What a killed process left is removed when the next process writes there.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import platform
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["sha256", "write_whole", "writing", "writing_folder"]

_HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:6]
_ASIDE = re.compile(r"(?s)\.(?P<name>.+)\.(?P<host>[0-9a-f]{6})-(?P<process>\d+)-\d+\.(?P<state>writing|replaced)")
_LONGEST = 200  # bytes of a target's name that fit into an aside's: file systems take 255
_DAY = 86_400.0  # seconds

_numbers = itertools.count()
_mine: set[str] = set()
"""Names of what this process is writing; another one with our number and host is of a process that is dead."""
_swept: set[str] = set()
"""Folders that this process has cleared: once is enough, and a cache's folder may hold very many files."""


def write_whole(path: Path, content: str | bytes, *, sync: bool = False) -> None:
    """Write a file that is either all there or as it was; text as UTF-8.

    Args:
        path: the file; its folder exists.
        content: all of it.
        sync: whether it must outlive a loss of power: it is on the disk when this returns.

    Raises:
        OSError: it cannot be written; what was there is untouched.
    """
    with writing(path, sync=sync) as aside:
        if isinstance(content, bytes):
            aside.write_bytes(content)
        else:
            aside.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def writing(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well; else nothing is left of it.

    It ends in ``.writing``: libraries that go by a name's ending, or add one, are given an open file instead.

    Args:
        path: the file; its folder exists.
        sync: as `write_whole`.
    """
    with _aside(path) as aside:
        yield aside
        if sync:
            _flush(aside)
        os.replace(aside, path)
        if sync:
            _flush(path.parent)


@contextlib.contextmanager
def writing_folder(path: Path, *, replace: bool = False, sync: bool = False) -> Iterator[Path]:
    """A new folder to write to, which becomes `path` when the block ends well; else nothing is left of it.

    Args:
        path: the folder; the one it lies in exists.
        replace: whether a folder that is there gives way, and not before the new one is whole.
        sync: as `write_whole`, for everything in it.

    Raises:
        FileExistsError: `path` is there, and is not to be replaced.
    """
    with _aside(path) as aside:
        aside.mkdir()
        yield aside
        if sync:
            for entry in [*aside.rglob("*"), aside]:
                _flush(entry)
        if not os.path.lexists(path):
            os.rename(aside, path)
        elif replace:
            _exchange(aside, path)
        else:
            raise FileExistsError(f"{path} is already there")
        if sync:
            _flush(path.parent)


def _exchange(aside: Path, path: Path) -> None:
    """Put a folder in another's place. A kill between the two renames leaves the old one whole, see `_sweep`."""
    old = aside.with_suffix(".replaced")
    os.rename(path, old)
    try:
        os.rename(aside, path)
    except BaseException:
        os.rename(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """Hexadecimal hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A name beside `path` that nobody else has; what is under it at the end is removed."""
    _sweep(path.parent)
    name = path.name if len(os.fsencode(path.name)) <= _LONGEST else path.name[-40:]
    aside = path.with_name(f".{name}.{_HOST}-{os.getpid()}-{next(_numbers)}.writing")
    _remove(aside)  # of a process that had our number, in a container where all have the same
    _mine.add(aside.name)
    try:
        yield aside
    finally:
        _remove(aside)
        _mine.discard(aside.name)


def _sweep(folder: Path) -> None:
    """Remove what dead processes left half written in a folder; put back what one was about to replace."""
    place = os.path.abspath(folder)
    if place in _swept:
        return
    _swept.add(place)
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            match = _ASIDE.fullmatch(entry.name)
            if match is None or not _abandoned(entry, match):
                continue
            target = folder / match["name"]
            if match["state"] == "replaced" and not os.path.lexists(target):
                os.rename(entry.path, target)
            else:
                _remove(Path(entry.path))


def _abandoned(entry: os.DirEntry[str], match: re.Match[str]) -> bool:
    """Whether the process that was writing is dead. Of other hosts that cannot be known: a day has to pass."""
    process = int(match["process"])
    if match["host"] != _HOST or os.name == "nt":  # there, asking for a process may end it
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY
    if process == os.getpid():
        return Path(entry.name).with_suffix(".writing").name not in _mine
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:  # there, and another user's
        return False
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _flush(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk; Windows does the second by itself."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
