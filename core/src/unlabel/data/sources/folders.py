"""Files below a folder: walked without circles, hidden ones left out, read by index."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NoReturn

from unlabel.data.sources.kind import Kind
from unlabel.data.sources.names import Names, counted, ending, is_hidden, printable
from unlabel.data.sources.reading import contents
from unlabel.errors import UsageError, nearest

__all__ = ["Files", "endings", "inside", "missing", "scan", "walk"]


class Files:
    """A source: files below a folder, by their names in it."""

    def __init__(self, root: Path, names: Sequence[str]):
        self.root, self.names = str(root), Names(names)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Of the file, for what reads files by themselves."""
        return f"{self.root}/{self.names[index]}"

    def name(self, index: int) -> str:
        return printable(self.path(index))

    def read(self, index: int) -> bytes:
        return contents(self.path(index))

    def prepare(self) -> None:
        """Nothing has to be."""


def missing(path: Path) -> NoReturn:
    """Raise the UsageError for a path that does not exist: where it stops existing, and the nearest name there."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    name = path.absolute().relative_to(there).parts[0]
    listing = os.listdir(there) if there.is_dir() and os.access(there, os.R_OK) else []
    hints = nearest(name, [entry for entry in listing if not is_hidden(entry)])
    raise UsageError(f"{path} does not exist: there is no {name!r} in {there}{hints}")


def inside(root: Path, name: str) -> Path | None:
    """The path that a name found in a file stands for, if it lies below `root`; None if it leads out of it.

    Links that the user made in there are followed, as everywhere.
    """
    path = os.path.join(root, name)
    for resolved in (os.path.abspath, os.path.realpath):  # an absolute name may know the folder by another path
        below = os.path.relpath(resolved(path), resolved(root))
        if below.split(os.sep)[0] not in (os.pardir, os.curdir):
            return root / below
    return None


def scan(root: Path, kind: Kind) -> tuple[list[str], dict[str, int]]:
    """All files of a kind below a folder.

    Hidden entries are skipped. Links are followed, but no folder is entered twice, so loops end; real folders
    come before links to them. Files without an ending are of the kind if their first bytes say so.

    Returns:
        Relative paths with forward slashes, sorted; and the number of other files by ending, commonest first.

    Raises:
        UsageError: a folder cannot be read.
    """
    names: list[str] = []
    others: list[str] = []
    for name, entry in walk(root):
        suffix = ending(name)
        if suffix in kind.endings or (not suffix and _recognised(entry.path, kind)):
            names.append(name)
        else:
            others.append(suffix)
    return sorted(names), counted(others)


def endings(root: Path, most: int) -> list[str]:
    """Endings of the first files below a folder, as many as `most`."""
    return [ending(name) for name, _ in islice(walk(root), most)]


def _recognised(path: str, kind: Kind) -> bool:
    if kind.recognises is None:
        return False
    try:
        with open(path, "rb") as file:
            return kind.recognises(file.read(32))
    except OSError:
        return False


def walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(relative path, entry) of the files below `root`, folder by folder, nearest first; see `scan`."""
    entered: set[tuple[int, int]] = set()
    folders: list[str] = [""]
    links: list[str] = []
    while folders or links:
        prefix = folders.pop(0) if folders else links.pop(0)
        folder = os.path.join(root, prefix)
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:
                continue
            entered.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"the folder {folder} cannot be read: {error.strerror}") from error
        for entry in entries:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, entry
