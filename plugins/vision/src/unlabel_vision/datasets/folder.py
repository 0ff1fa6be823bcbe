"""Folder: any folder of images, a zip archive of one, or an .npz of images. Labels are never needed.

Files may lie in any nesting. Folder names that look like parts (``train``, ``test`` ...) or classes become
splits and labels for probes, see `layout`. What is no image is ignored, and counted in `info()`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np

from unlabel.errors import UsageError, nearest
from unlabel_vision import images
from unlabel_vision.datasets import layout, sources
from unlabel_vision.datasets.stored import Stored

__all__ = ["Folder", "missing", "numbered", "scan"]

_SIDECARS = {".csv", ".html", ".json", ".jsonl", ".log", ".md", ".pdf", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
_LOOKED_AT = 1000  # files by which a folder is recognised


class Folder(Stored):
    """Images of a folder, a zip archive, or an .npz file.

    Args:
        path: the folder (a folder holding nothing but one zip archive, or .npz files, stands for these), the
            ``.zip``, or the ``.npz``: uint8 arrays ``images`` (N, H, W) or (N, H, W, 3) with optional ``labels``,
            or ``jpeg`` (files one after another) with ``offsets``; names may carry a part, as in ``train_images``.
        holdout: share of each class held out for testing where classes are known but no test folder exists.
        shortest: the short side that is needed; larger JPEGs are decoded at 1/2, 1/4 or 1/8 size, much faster.
        min_size: images with a shorter short side are set aside as bad samples.
        max_pixels: images of more pixels are set aside as bad samples, before they are decoded.

    Raises:
        UsageError: the path is missing, unreadable, or holds no images; says what was found instead.
    """

    fallback = True

    def __init__(
        self,
        path: str | Path,
        *,
        holdout: float = 0.2,
        shortest: int | None = None,
        min_size: int = 8,
        max_pixels: int = images.MAX_PIXELS,
    ):
        path = Path(path).expanduser()
        found = find(path)
        super().__init__(
            path,
            labels=found.labels,
            classes=found.classes,
            parts=found.parts,
            holdout=holdout,
            shortest=shortest,
            min_size=min_size,
            max_pixels=max_pixels,
        )
        self.source, self.kind = found.source, found.kind
        self.formats, self.ignored, self.notes = found.formats, found.ignored, found.notes

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> bytes | np.ndarray:
        return self.source.read(index)

    def name_of(self, index: int) -> str:
        return self.source.name(index)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A zip with an image, an .npz with images, or a folder whose first thousand files are mostly images."""
        try:
            if path.suffix.lower() == ".zip":
                return any(_suffix(member.filename) in images.SUFFIXES for member in sources.zip_members(path))
            if path.suffix.lower() == ".npz":
                return bool(sources.tables(path))
            return path.is_dir() and _mostly_images(path)
        except (UsageError, OSError):
            return False


@dataclass
class Found:
    """What is at a path, before it becomes a dataset."""

    kind: str
    source: sources.Files | sources.ZipMembers | sources.Arrays
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    parts: np.ndarray | None
    formats: dict[str, int]
    ignored: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find(path: Path) -> Found:
    """Recognise what is at `path`; UsageError if it is nothing a Folder can be."""
    if not path.exists():
        missing(path)
    if path.suffix.lower() == ".zip":
        return _zip(path)
    if path.suffix.lower() == ".npz":
        return _npz([path])
    if not path.is_dir():
        raise UsageError(f"{path} is a file; expected a folder of images, a .zip archive or an .npz file")

    names, others = scan(path)
    if names:
        return _files(path, names, others)
    arrays = sorted(entry for entry in path.glob("*.npz") if not sources.is_hidden(entry.name))
    if arrays:
        return _npz(arrays)
    archives = sorted(entry for entry in path.glob("*.zip") if not sources.is_hidden(entry.name))
    if len(archives) == 1:
        return _zip(archives[0])
    _no_images(path, others)


def missing(path: Path) -> NoReturn:
    """Raise the UsageError for a path that does not exist: where it stops existing, and the nearest name there."""
    there = next(parent for parent in path.absolute().parents if parent.exists())
    name = path.absolute().relative_to(there).parts[0]
    listing = os.listdir(there) if there.is_dir() and os.access(there, os.R_OK) else []
    hints = nearest(name, [entry for entry in listing if not sources.is_hidden(entry)])
    raise UsageError(f"{path} does not exist: there is no {name!r} in {there}{hints}")


def _no_images(path: Path, others: dict[str, int]) -> NoReturn:
    endings = [f"{count} {ending or 'nameless'} file{'s' * (count > 1)}" for ending, count in others.items()]
    found = ", ".join(endings[:5]) + (" and others" if len(endings) > 5 else "") if endings else "no files at all"
    raise UsageError(
        f"no images in {path}: expected .jpg, .png, .webp, .gif, .bmp or .tif files in it or in folders below it, "
        f"or one .zip or .npz of images; found {found}"
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _counted(suffixes: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(suffixes).items(), key=lambda pair: (-pair[1], pair[0])))


def scan(root: Path) -> tuple[list[str], dict[str, int]]:
    """All images below a folder.

    Hidden entries are skipped. Links are followed, but no folder is entered twice, so loops end; real folders
    come before links to them. Files without an ending are images if their first bytes say so.

    Returns:
        Relative paths with forward slashes, sorted; and the number of other files by ending, commonest first.

    Raises:
        UsageError: a folder cannot be read.
    """
    names: list[str] = []
    others: list[str] = []
    for name, entry in _walk(root):
        ending = _suffix(name)
        if ending in images.SUFFIXES or (not ending and _is_image(entry.path)):
            names.append(name)
        else:
            others.append(ending)
    return sorted(names), _counted(others)


def _is_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return images.sniff(file.read(32)) is not None
    except OSError:
        return False


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(relative path, entry) of the files below `root`, folder by folder, nearest first."""
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
            if sources.is_hidden(entry.name):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, entry


def _mostly_images(path: Path) -> bool:
    """Whether images are at least half of the first files that are neither notes nor labels of images."""
    endings: list[str] = []
    for name, _ in _walk(path):
        endings.append(_suffix(name))
        if len(endings) == _LOOKED_AT:
            break
    found = [ending for ending in endings if ending not in _SIDECARS]
    usable = sum(ending in images.SUFFIXES for ending in found)
    if usable:
        return 2 * usable >= len(found)
    return bool(found) and set(found) <= {".npz", ".zip", ""} and bool(find(path))


def _files(path: Path, names: list[str], others: dict[str, int]) -> Found:
    seen = layout.read(names)
    kept = [names[index] for index in seen.keep]
    return Found(
        "folder",
        sources.Files(path, kept),
        seen.labels,
        seen.classes,
        seen.parts,
        _counted(_suffix(name) for name in kept),
        others,
        seen.notes,
    )


def _zip(path: Path) -> Found:
    members = sources.zip_members(path)
    usable = [member for member in members if _suffix(member.filename) in images.SUFFIXES]
    others = _counted(_suffix(m.filename) for m in members if _suffix(m.filename) not in images.SUFFIXES)
    if not usable:
        _no_images(path, others)
    seen = layout.read([member.filename for member in usable])
    kept = [usable[index] for index in seen.keep]
    return Found(
        "zip",
        sources.ZipMembers(path, kept),
        seen.labels,
        seen.classes,
        seen.parts,
        _counted(_suffix(member.filename) for member in kept),
        others,
        seen.notes,
    )


def _npz(paths: list[Path]) -> Found:
    tables: list[sources.Table] = []
    classes: tuple[str, ...] | None = None
    for path in paths:
        found, names = sources.tables(path)
        for table in found:
            table.part = layout.part_in(path.stem) if table.part is None else table.part
        tables += found
        classes = names or classes

    notes: tuple[str, ...] = ()
    divided = {table.part for table in tables} >= {0} and any(table.part for table in tables)
    if divided:
        labelled = all(table.labels is not None for table in tables if table.part == 0)
        used = [t for t in tables if t.part is not None and (not labelled or t.labels is not None)]
        dropped = sum(table.count for table in tables) - sum(table.count for table in used)
        notes = (f"{dropped} images without a part or without labels are left out",) if dropped else ()
        tables = used
    labels, classes = numbered([table.labels for table in tables], classes)
    parts = np.repeat([table.part or 0 for table in tables], [table.count for table in tables]).astype(np.uint8)
    formats = {".npz": sum(table.count for table in tables)}
    return Found(
        "npz",
        sources.Arrays(tables),
        labels,
        classes,
        parts if np.any(parts > 0) and divided else None,
        formats,
        notes=notes,
    )


def numbered(
    found: Sequence[np.ndarray | None], names: tuple[str, ...] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels as int64 class numbers with the classes' names; None and None unless all have labels, of two kinds."""
    given = [labels for labels in found if labels is not None]
    if len(given) < len(found):
        return None, None
    raw = np.concatenate(given)
    if names is not None and raw.dtype.kind in "iu" and raw.min() >= 0 and raw.max() < len(names):
        return raw.astype(np.int64), names
    values, numbers = np.unique(raw, return_inverse=True)
    if len(values) < 2:
        return None, None
    return numbers.astype(np.int64), tuple(str(value) for value in values)
