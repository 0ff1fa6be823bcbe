"""What the folders around files mean: parts (train, validation, test) and classes.

Nothing has to be laid out in any way; what is recognised serves probes only:

- single wrapping folders are stepped into;
- ``train`` beside ``val``, ``valid``, ``validation``, ``dev``, ``test`` or ``testing`` are parts;
- two or more folders that hold every file are classes, named by the first folder inside the part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["PARTS", "Layout", "numbered", "part_in", "part_of", "read"]

PARTS = ("train", "val", "test")
"""Names of the parts; their position is the number used in arrays."""

_WORDS = {
    "train": 0,
    "training": 0,
    "val": 1,
    "valid": 1,
    "validation": 1,
    "dev": 1,
    "test": 2,
    "testing": 2,
}


def part_of(word: str) -> int | None:
    """The part a folder name or array name stands for, as an index into `PARTS`, or None."""
    return _WORDS.get(word.lower())


def part_in(name: str) -> int | None:
    """The part named anywhere in a file name such as ``cats-train-0003.tar``, or None."""
    return next((_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in _WORDS), None)


@dataclass(frozen=True)
class Layout:
    """How M of the N given files are used.

    Attributes:
        keep: int64, (M,): which of the given files, in their order.
        parts: uint8, (M,): index into `PARTS`, or None if there are no part folders.
        labels: int64, (M,), or None.
        classes: names of the labels, or None.
        notes: what a user may want to know about the above.
    """

    keep: np.ndarray
    parts: np.ndarray | None
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    notes: tuple[str, ...]


def read(names: Sequence[str], many: str = "files") -> Layout:
    """Recognise parts and classes in relative paths with forward slashes, e.g. ``train/cat/001.txt``.

    Args:
        names: of the files.
        many: what they are called in notes.
    """
    numbers: dict[str, int] = {}
    folder_of = np.array([numbers.setdefault(name.rpartition("/")[0], len(numbers)) for name in names], np.int64)
    folders = [tuple(folder.split("/")) if folder else () for folder in numbers]  # few, unlike the files
    counts = np.bincount(folder_of, minlength=len(folders))

    depth = _wrapping(folders)
    parts, notes = _parts(folders, counts, depth, many)
    place = depth if parts is None else depth + 1
    classes, more = _classes(folders, counts, place, parts, many)
    labels = None
    if classes is not None:
        index = {name: number for number, name in enumerate(classes)}
        labels = np.array([index.get(folder[place], -1) if len(folder) > place else -1 for folder in folders])
        if parts is not None:
            parts, dropped = _without_unlabelled(parts, labels, counts, many)
            more += dropped

    keep = np.arange(len(folder_of)) if parts is None else np.flatnonzero(parts[folder_of] >= 0)
    folder_of_sample = folder_of[keep]
    return Layout(
        keep,
        None if parts is None or not np.any(parts > 0) else parts[folder_of_sample].astype(np.uint8),
        None if labels is None else labels[folder_of_sample],
        classes,
        (*notes, *more),
    )


def _wrapping(folders: list[tuple[str, ...]]) -> int:
    """How many leading folders all files share."""
    depth = 0
    while all(len(folder) > depth for folder in folders) and len({folder[depth] for folder in folders}) == 1:
        depth += 1
    return depth


def _parts(
    folders: list[tuple[str, ...]], counts: np.ndarray, depth: int, many: str
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """The part of each folder (-1: in none), or None if the folders at `depth` are not parts."""
    numbers = [part_of(folder[depth]) if len(folder) > depth else None for folder in folders]
    parts = np.array([-1 if part is None else part for part in numbers])
    if not (np.any(parts == 0) and np.any(parts > 0)):
        return None, ()
    outside = int(counts[parts < 0].sum())
    return parts, (f"{outside} {many} lie outside the train and test folders and are left out",) if outside else ()


def _classes(
    folders: list[tuple[str, ...]], counts: np.ndarray, place: int, parts: np.ndarray | None, many: str
) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The class names if the folders at `place` are classes of every training file, or None."""
    training = [number for number in range(len(folders)) if parts is None or parts[number] == 0]
    inside = [number for number in training if len(folders[number]) > place]
    names = sorted({folders[number][place] for number in inside})
    if len(names) < 2 or counts[inside].sum() < 2 * len(names):  # a folder for each file says nothing
        return None, ()
    loose = int(counts[training].sum() - counts[inside].sum())
    if loose:
        return None, (f"{loose} {many} lie beside the {len(names)} folders, so these are not taken as classes",)
    return tuple(names), ()


def _without_unlabelled(
    parts: np.ndarray, labels: np.ndarray, counts: np.ndarray, many: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Leave out held-out parts whose files have no known class: nothing could be tested on them."""
    notes: tuple[str, ...] = ()
    for number in (1, 2):
        in_part = parts == number
        if np.any(labels[in_part] < 0):
            notes += (
                f"the {counts[in_part].sum()} {many} of {PARTS[number]} are not in class folders and are left out",
            )
            parts = np.where(in_part, -1, parts)
    return parts, notes


def numbered(
    labels: Sequence[np.ndarray | None], names: tuple[str, ...] | None
) -> tuple[np.ndarray | None, tuple[str, ...] | None]:
    """Labels of several files of data as class numbers.

    Args:
        labels: of each, as they stand there, (N,), or None.
        names: of the classes, where they are known.

    Returns:
        int64, (sum of N,), and the classes' names; None and None unless all have labels, of two kinds.
    """
    known = [some for some in labels if some is not None]
    if len(known) < len(labels):
        return None, None
    raw = np.concatenate(known)
    if names is not None and raw.dtype.kind in "iu" and raw.min() >= 0 and raw.max() < len(names):
        return raw.astype(np.int64), names
    values, numbers = np.unique(raw, return_inverse=True)
    if len(values) < 2:
        return None, None
    return numbers.astype(np.int64), tuple(str(value) for value in values)
