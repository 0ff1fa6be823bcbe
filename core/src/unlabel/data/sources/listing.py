"""What lies at a path: files of a folder, members of a zip archive, or arrays, with what their names say about them.

Files may lie in any nesting; folder names that look like parts (``train``, ``test`` ...) or classes become splits and
labels, see `layout`. What is not of the kind that is looked for is left out, and counted.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np

from unlabel.data.sources import arrays, folders, layout
from unlabel.data.sources.archives import ZipMembers, zip_members
from unlabel.data.sources.arrays import Arrays, Table
from unlabel.data.sources.folders import Files
from unlabel.data.sources.kind import Kind
from unlabel.data.sources.names import counted, ending, is_hidden
from unlabel.errors import UsageError

__all__ = ["Listing", "Source", "Tree", "claims", "find"]

_SIDECARS = {".csv", ".html", ".json", ".jsonl", ".log", ".md", ".pdf", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
_LOOKED_AT = 1000  # files by which a folder is recognised


class Source(Protocol):
    """Samples by index. Cheap to copy into loader processes, for a million of them too."""

    def __len__(self) -> int:
        """How many."""
        ...

    def name(self, index: int) -> str:
        """What the user calls it, printable."""
        ...

    def read(self, index: int) -> Any:
        """As it is stored: the bytes of a file, or an array; raises BadSample or OSError if it cannot be read."""
        ...

    def prepare(self) -> None:
        """Offline precomputation: idempotent."""
        ...


@dataclass(frozen=True)
class Listing:
    """N samples at a path, and what is known of them before any is read.

    Attributes:
        form: how they are kept: ``"folder"``, ``"zip"``, ``"npz"``, ``"shards"``, ``"columns"``.
        source: reads them.
        labels: int64, (N,), or None.
        classes: names of the labels, or None.
        parts: uint8, (N,): index into `layout.PARTS`, or None if they come undivided.
        formats: ending of a file's name -> count.
        ignored: the same, of files that are something else.
        notes: what a user may want to know about the above.
    """

    form: str
    source: Source
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    parts: np.ndarray | None
    formats: dict[str, int]
    ignored: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tree:
    """The files of one kind in a folder or in a zip archive, whichever it is, by relative paths with slashes.

    Attributes:
        root: the folder, or the one that the archive lies in.
        archive: the archive, or None.
        names: of the files of the kind, sorted.
        others: ending of other files' names -> count.
        members: name -> member of the archive, of all kinds.
    """

    root: Path
    archive: Path | None
    names: list[str]
    others: dict[str, int]
    members: dict[str, zipfile.ZipInfo] = field(default_factory=dict)

    @classmethod
    def of_folder(cls, path: Path, kind: Kind) -> Tree:
        """The files below a folder; UsageError if one of its folders cannot be read."""
        names, others = folders.scan(path, kind)
        return cls(path, None, names, others)

    @classmethod
    def of_zip(cls, path: Path, kind: Kind) -> Tree:
        """The members of an archive; UsageError if it cannot be read."""
        members = {member.filename: member for member in zip_members(path)}
        names = [name for name in members if ending(name) in kind.endings]
        others = counted(ending(name) for name in members if ending(name) not in kind.endings)
        return cls(path.parent, path, names, others, members)

    def source(self, names: Sequence[str]) -> Files | ZipMembers:
        """Reads these files."""
        if self.archive is None:
            return Files(self.root, names)
        return ZipMembers(self.archive, [self.members[name] for name in names])

    def text(self, name: str) -> str | None:
        """A small file beside the archive, or in the folder or the archive; None if there is none."""
        path = self.root / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
        return self.source([name]).read(0).decode("utf-8") if name in self.members else None


def find(path: Path, kind: Kind) -> Listing:
    """What of a kind is at a path: in a folder (one that holds nothing but a zip archive, or ``.npz`` files, stands for
    these), a zip archive, or an ``.npz``.

    Raises:
        UsageError: the path is missing, unreadable, or holds nothing of the kind; says what is there instead.
    """
    if not path.exists():
        folders.missing(path)
    if path.suffix.lower() == ".zip":
        return _of_tree(Tree.of_zip(path, kind), kind)
    if path.suffix.lower() == ".npz":
        return _of_arrays([path], kind)
    if not path.is_dir():
        npz = " or an .npz file" if kind.arrays else ""
        raise UsageError(f"{path} is a file; expected a folder of {kind.many}, a .zip archive{npz}")

    tree = Tree.of_folder(path, kind)
    if tree.names:
        return _of_tree(tree, kind)
    if kind.arrays is not None and (npzs := _visible(path, "*.npz")):
        return _of_arrays(npzs, kind)
    archives = _visible(path, "*.zip")
    if len(archives) == 1:
        return _of_tree(Tree.of_zip(archives[0], kind), kind)
    _nothing(path, tree.others, kind)


def claims(path: Path, kind: Kind) -> bool:
    """Whether a path is of this kind: a zip with one of its files, an ``.npz`` with samples, or a folder whose first
    thousand files are mostly its own."""
    try:
        if path.suffix.lower() == ".zip":
            return any(ending(member.filename) in kind.endings for member in zip_members(path))
        if path.suffix.lower() == ".npz":
            return bool(arrays.tables(path, kind))
        return path.is_dir() and _mostly(path, kind)
    except (UsageError, OSError):
        return False


def _visible(path: Path, pattern: str) -> list[Path]:
    return sorted(entry for entry in path.glob(pattern) if not is_hidden(entry.name))


def _nothing(path: Path, others: dict[str, int], kind: Kind) -> NoReturn:
    listed = [f"{count} {suffix or 'nameless'} file{'s' * (count > 1)}" for suffix, count in others.items()]
    there = ", ".join(listed[:5]) + (" and others" if len(listed) > 5 else "") if listed else "no files at all"
    npz = " or .npz" if kind.arrays else ""
    raise UsageError(
        f"no {kind.many} in {path}: expected {kind.examples} files in it or in folders below it, "
        f"or one .zip{npz} of {kind.many}; found {there}"
    )


def _mostly(path: Path, kind: Kind) -> bool:
    """Whether at least half of the first files that are neither notes nor labels of others are of the kind."""
    sidecars = _SIDECARS - kind.endings
    endings = [suffix for suffix in folders.endings(path, _LOOKED_AT) if suffix not in sidecars]
    usable = sum(suffix in kind.endings for suffix in endings)
    if usable:
        return 2 * usable >= len(endings)
    return bool(endings) and set(endings) <= {".npz", ".zip", ""} and bool(find(path, kind))


def _of_tree(tree: Tree, kind: Kind) -> Listing:
    if not tree.names:
        _nothing(tree.archive or tree.root, tree.others, kind)
    meaning = layout.read(tree.names, kind.many)
    names = [tree.names[index] for index in meaning.keep]
    return Listing(
        "folder" if tree.archive is None else "zip",
        tree.source(names),
        meaning.labels,
        meaning.classes,
        meaning.parts,
        counted(map(ending, names)),
        tree.others,
        meaning.notes,
    )


def _of_arrays(paths: list[Path], kind: Kind) -> Listing:
    tables: list[Table] = []
    classes: tuple[str, ...] | None = None
    for path in paths:
        some, names = arrays.tables(path, kind)
        for table in some:
            table.part = layout.part_in(path.stem) if table.part is None else table.part
        tables += some
        classes = names or classes

    notes: tuple[str, ...] = ()
    divided = {table.part for table in tables} >= {0} and any(table.part for table in tables)
    if divided:
        labelled = all(table.labels is not None for table in tables if table.part == 0)
        used = [t for t in tables if t.part is not None and (not labelled or t.labels is not None)]
        dropped = sum(table.count for table in tables) - sum(table.count for table in used)
        notes = (f"{dropped} {kind.many} without a part or without labels are left out",) if dropped else ()
        tables = used
    labels, classes = layout.numbered([table.labels for table in tables], classes)
    parts = np.repeat([table.part or 0 for table in tables], [table.count for table in tables]).astype(np.uint8)
    return Listing(
        "npz",
        Arrays(tables),
        labels,
        classes,
        parts if np.any(parts > 0) and divided else None,
        {".npz": sum(table.count for table in tables)},
        notes=notes,
    )
