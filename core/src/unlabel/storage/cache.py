"""What can be computed again, kept by what it depends on: under one folder, a folder an owner, a file an entry.

An entry's name is a hash of everything it depends on (a file, options, a version), so that nothing which is not the
same is ever taken for it. Entries are written whole: a computation that was killed goes on where it stood, and one that
is damaged is made again, which is said in one line. A cache that cannot be written costs time, never a run.

The folder is ``UNLABEL_CACHE``, or ``unlabel`` in ``XDG_CACHE_HOME``, or ``~/.cache/unlabel``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from safetensors import SafetensorError

from unlabel.errors import one_line
from unlabel.storage import files

__all__ = ["Usage", "clear", "entry", "file", "folder", "get", "key", "load", "of_file", "report", "root", "saving"]

_VERSION = 1  # of keys of files; raise it when they come to mean something else
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, SafetensorError)

_Value = TypeVar("_Value")


class Usage(NamedTuple):
    """How much is kept for one owner.

    Attributes:
        owner: name of its folder.
        entries: number of files.
        size: of all of them, in bytes.
    """

    owner: str
    entries: int
    size: int


def root() -> Path:
    """The folder of all that is kept; it need not exist."""
    if configured := os.environ.get("UNLABEL_CACHE"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unlabel"


def folder(owner: str) -> Path:
    """The folder of one owner; ValueError if that is no plain name."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", owner):
        raise ValueError(f"owner {owner!r}: expected small letters, digits, _ and -")
    return root() / owner


def key(*parts: str) -> str:
    """32 hexadecimal digits for what an entry depends on; the order counts."""
    return hashlib.sha256(os.fsencode("\0".join(parts))).hexdigest()[:32]


def of_file(path: Path, *details: str) -> str:
    """The key of what is derived from a file: by path, size and time of change, so that a changed one finds nothing."""
    status = path.stat()
    return key(str(_VERSION), str(path.resolve()), str(status.st_size), str(status.st_mtime_ns), *details)


def entry(owner: str, key: str, suffix: str = "") -> Path:
    """Where an owner's entry of this key lies, or would."""
    return folder(owner) / f"{key}{suffix}"


def load(entry: Path, read: Callable[[Path], _Value]) -> _Value | None:
    """What is kept.

    Args:
        entry: its file.
        read: makes the value of the file; raises ValueError (or what reading raises) if it is not whole.

    Returns:
        The value, or None if there is none, or if it is damaged, of which a warning tells.
    """
    try:
        return read(entry)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except _UNREADABLE as error:
        warnings.warn(f"{entry} is damaged and is made again ({one_line(error)})", stacklevel=2)
        return None


@contextlib.contextmanager
def saving(entry: Path) -> Iterator[Path]:
    """As `files.writing`, in a folder that is made where it is missing."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with files.writing(entry) as aside:
        yield aside


def get(
    entry: Path,
    *,
    read: Callable[[Path], _Value],
    make: Callable[[], _Value],
    write: Callable[[_Value, Path], object],
) -> _Value:
    """What is kept, or else made and kept from now on.

    Args:
        entry: its file.
        read: see `load`.
        make: computes the value.
        write: writes it to a path that it is given; what cannot be written is done without.
    """
    value = load(entry, read)
    if value is None:
        value = make()
        with contextlib.suppress(OSError, SafetensorError), saving(entry) as aside:
            write(value, aside)
    return value


def file(entry: Path, *, read: Callable[[Path], object], write: Callable[[Path], object]) -> Path:
    """The file that is kept, written first if there is none or it is damaged: for what others are given as a file.

    Args:
        entry: its file.
        read: see `load`; returns anything but None.
        write: makes it at a path that it is given.

    Returns:
        `entry`, or a file of that name that lives as long as this process where the cache cannot be written.
    """
    if load(entry, read) is not None:
        return entry
    try:
        with saving(entry) as aside:
            write(aside)
    except OSError:
        entry = _passing() / entry.name
        write(entry)
    return entry


@functools.cache
def _passing() -> Path:
    """A folder that goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="unlabel-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def report() -> list[Usage]:
    """What is kept, owner by owner in the order of their names."""
    owners = root().iterdir() if root().is_dir() else ()
    return [_usage(owner) for owner in sorted(owners) if owner.is_dir() and not owner.is_symlink()]


def clear(owner: str) -> Usage:
    """Remove all that is kept for an owner.

    Returns:
        What was removed.

    Raises:
        OSError: something cannot be removed. ValueError: the owner is no plain name.
    """
    place = folder(owner)
    usage = _usage(place)
    if place.exists():
        shutil.rmtree(place)
    return usage


def _usage(place: Path) -> Usage:
    sizes = []
    for where, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                sizes.append(os.lstat(os.path.join(where, name)).st_size)
    return Usage(place.name, len(sizes), sum(sizes))
