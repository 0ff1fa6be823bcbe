"""Pairs: photographs of the same scene from two places, from a folder or a list of files.

What a pair is, is said in one of four ways, tried in this order unless keywords say otherwise:

- a list: a ``.txt`` or ``.csv`` file (or ``pairs.txt``, ``pairs.csv`` in the folder) with two paths a line, relative to
  the list, separated by a comma, a tab or a space; lines that begin with ``#`` are passed over;
- two folders side by side, such as ``left/`` and ``right/``, in which files of the same name belong together;
- names that differ in their ending, such as ``street_left.jpg`` and ``street_right.jpg``, ``aloeL`` and ``aloeR``;
- with ``neighbours=1``, each image and the next one by name: frames of a camera that moves.

Two crops of one image are no pair: see `unlabel_vision.datasets.overlaps`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unlabel import data
from unlabel.data import Dataset, Subset
from unlabel.data.sources import folders as files
from unlabel.data.sources.names import ending, natural
from unlabel.errors import BadSample, UsageError
from unlabel.task import Batch, Sample
from unlabel_vision import images
from unlabel_vision.datasets import stored
from unlabel_vision.datasets.image_dataset import ImageDataset
from unlabel_vision.datasets.stored import IMAGES

__all__ = ["WORDS", "Pairs", "by_ending", "by_folder", "by_order", "from_list"]

WORDS = (
    ("left", "right"),
    ("Left", "Right"),
    ("first", "second"),
    ("view1", "view2"),
    ("view0", "view1"),
    ("im0", "im1"),
    ("im1", "im2"),
    ("img1", "img2"),
    ("image_2", "image_3"),
    ("image_0", "image_1"),
    ("cam0", "cam1"),
    ("L", "R"),
    ("l", "r"),
    ("A", "B"),
    ("a", "b"),
    ("1", "2"),
    ("0", "1"),
)
"""What folders of first and second views are called, and how names of first and second views end."""

_PLAIN = 11  # the first of these say by themselves that there are pairs; the others may be anything
_LISTS = ("pairs.txt", "pairs.csv")
_HELP = (
    "give a list of pairs (a .txt or .csv file, two paths a line), two folders such as left/ and right/ with the same "
    "file names, names that end in _left and _right (or --set dataset.endings=[_a,_b]), or --set dataset.neighbours=1 "
    "for frames in the order of their names"
)

Names = list[tuple[str, str]]


def from_list(path: Path) -> Names:
    """The pairs of a list file, as paths relative to its folder; absolute ones are made so.

    Raises:
        UsageError: a line that is not two paths, or a file without pairs.
    """
    pairs: list[tuple[str, str]] = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text: expected a list of pairs, two paths a line ({error})") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        separator = next((mark for mark in (",", "\t") if mark in text), None)
        parts = [part.strip().strip('"') for part in text.split(separator)]
        if len(parts) != 2 or not all(parts):
            raise UsageError(
                f"{path}, line {number}: expected two paths separated by a comma, tab or space, got {text!r}"
            )
        if not pairs and not any(ending(part) in images.SUFFIXES for part in parts):
            continue  # names of the columns
        first, second = (os.path.relpath(part, path.parent) if os.path.isabs(part) else part for part in parts)
        pairs.append((first, second))
    if not pairs:
        raise UsageError(f"{path} holds no pairs: expected two paths of images a line")
    return pairs


def by_folder(names: Sequence[str], words: Sequence[tuple[str, str]] = WORDS) -> Names:
    """Files of the same name, whatever their type, in two folders side by side that are called by a pair of words."""
    by_stem = {_stem(name): name for name in names}
    pairs = []
    for stem, name in by_stem.items():
        parts = stem.split("/")
        for depth, folder in enumerate(parts[:-1]):
            for first, second in words:
                other = "/".join([*parts[:depth], second, *parts[depth + 1 :]])
                if folder == first and other in by_stem:
                    pairs.append((name, by_stem[other]))
    return sorted(set(pairs))


def by_ending(names: Sequence[str], words: Sequence[tuple[str, str]] = WORDS) -> Names:
    """Files in one folder whose names differ in a pair of endings; the words that pair most files are meant.

    A number is an ending only after something that is no digit: frames 11 and 12 are no pair.
    """
    by_stem = {_stem(name): name for name in names}
    best: Names = []
    for first, second in words:
        pairs = []
        for stem, name in by_stem.items():
            start = stem.removesuffix(first)
            digits = first[:1].isdigit() and start[-1:].isdigit()
            if stem.endswith(first) and start and not digits and start + second in by_stem:
                pairs.append((name, by_stem[start + second]))
        if len(pairs) > len(best):
            best = pairs
    return sorted(best)


def by_order(names: Sequence[str], neighbours: int) -> Names:
    """Each image and the next `neighbours` ones of its folder, numbers in names counting as numbers."""
    folders: dict[str, list[str]] = {}
    for name in sorted(names, key=natural):
        folders.setdefault(name.rpartition("/")[0], []).append(name)
    return [
        (inside[index], inside[index + step])
        for inside in folders.values()
        for index in range(len(inside))
        for step in range(1, neighbours + 1)
        if index + step < len(inside)
    ]


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


class Pairs(ImageDataset):
    """Pairs of photographs; no labels, and nothing is known of their geometry.

    Samples are ``{"image": uint8 (H, W, 3), "second": uint8 (H2, W2, 3)}``. A pair of which one file cannot be read is
    one bad sample.

    Args:
        path: a folder of images, or a list of pairs.
        folders: names of two folders, of first and second views, instead of the usual ones.
        endings: how names (without type) of first and second views end, instead of the usual ways.
        neighbours: pair each image with so many that follow it by name; 0 looks for pairs in the other ways.
        holdout: share of the pairs, the last ones, held out for testing; pairs that share an image with them train
            nothing.
        shortest: the short side that is needed; larger JPEGs are decoded at 1/2, 1/4 or 1/8 size, much faster.
        min_size: pairs with an image with a shorter short side are set aside as bad samples.
        max_pixels: pairs with an image of more pixels are set aside as bad samples, before it is decoded.

    Raises:
        UsageError: the path is missing, holds no images, or does not say what belongs together.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        folders: tuple[str, str] | None = None,
        endings: tuple[str, str] | None = None,
        neighbours: int = 0,
        holdout: float = 0.0,
        shortest: int | None = None,
        min_size: int = 8,
        max_pixels: int = images.MAX_PIXELS,
    ):
        path = Path(path).expanduser()
        if not 0 <= holdout < 1 or neighbours < 0:
            raise UsageError(f"holdout {holdout} must be in [0, 1), and neighbours {neighbours} 0 or more")
        stored.check_limits(shortest, min_size, max_pixels)
        if not path.exists():
            files.missing(path)
        self.path, self.holdout = path, holdout
        self.shortest, self.min_size, self.max_pixels = shortest, min_size, max_pixels
        self.kind, root, names, self.unpaired = find(path, folders, endings, neighbours)
        self.first = files.Files(root, [first for first, _ in names])
        self.second = files.Files(root, [second for _, second in names])

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self._read(self.first, index), "second": self._read(self.second, index)}

    def _read(self, source: files.Files, index: int) -> np.ndarray:
        try:
            image = images.decode(source.read(index), shortest=self.shortest, max_pixels=self.max_pixels)
            stored.check_size(image.shape[1], image.shape[0], self.min_size)
        except (BadSample, OSError) as error:
            which = "first" if source is self.first else "second"
            raise BadSample(f"{which} view, {source.name(index)}: {data.reason(error)}") from error
        return image

    def name_of(self, index: int) -> str:
        return f"{self.first.name(index)} + {self.second.name(index)}"

    def collate(self, samples: list[Sample]) -> Batch:
        """Stacked; raw second views of several sizes, which a task on single images left as they were, are left out."""
        if len({sample["second"].shape for sample in samples if "second" in sample}) > 1:
            samples = [{name: value for name, value in sample.items() if name != "second"} for sample in samples]
        return data.collate(samples)

    def split(self, name: str) -> Dataset | None:
        if name not in ("train", "test"):
            return None
        held_out = round(self.holdout * len(self))
        if not held_out:
            return self if name == "train" else None
        border = len(self) - held_out
        if name == "test":
            return Subset(self, np.arange(border, len(self)))
        used = {source.name(index) for index in range(border, len(self)) for source in (self.first, self.second)}
        train = [n for n in range(border) if not {self.first.name(n), self.second.name(n)} & used]
        return Subset(self, np.array(train, dtype=np.int64))

    def info(self) -> dict[str, Any]:
        notes = [f"{self.unpaired} images belong to no pair and are left out"] if self.unpaired else []
        return {"kind": f"pairs, {self.kind}", "path": str(self.path), "samples": len(self), "notes": notes}

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A list of images that are there, or a folder with such a list or whose names say left and right or the like.

        Folders or names that may mean anything else (1 and 2, a and b) are not claimed; a list makes them pairs.
        """
        try:
            if path.is_file():
                return path.suffix.lower() in (".txt", ".csv") and _lists(path)
            if not path.is_dir():
                return False
            if any((path / name).is_file() for name in _LISTS):
                return True
            names, _ = files.scan(path, IMAGES)
            plain = WORDS[:_PLAIN]
            return any(2 * len(way(names, plain)) > 0.8 * len(names) for way in (by_folder, by_ending))
        except (UsageError, OSError, UnicodeDecodeError):
            return False


def _lists(path: Path) -> bool:
    """Whether a text file begins as a list of pairs of images that are there."""
    with path.open(encoding="utf-8") as file:
        beginning = file.read(4096).lower()
    if not any(suffix in beginning for suffix in images.SUFFIXES):
        return False
    return all((path.parent / name).is_file() for name in from_list(path)[0])


def find(
    path: Path, folders: tuple[str, str] | None, endings: tuple[str, str] | None, neighbours: int
) -> tuple[str, Path, Names, int]:
    """How pairs are told apart, where their names begin, the names, and how many images are in none.

    Raises:
        UsageError: nothing says what belongs together; lists what would.
    """
    asked = folders is not None or endings is not None or neighbours > 0
    if path.is_file():
        return "a list", path.parent, from_list(path), 0
    for name in _LISTS:
        if not asked and (path / name).is_file():
            return "a list", path, from_list(path / name), 0
    names, _ = files.scan(path, IMAGES)
    if not names:
        raise UsageError(f"no images in {path}: {_HELP}")
    if neighbours:
        pairs, kind = by_order(names, neighbours), f"of {neighbours} neighbours by name"
    elif folders is not None:
        pairs, kind = by_folder(names, [folders]), f"in folders {folders[0]} and {folders[1]}"
    elif endings is not None:
        pairs, kind = by_ending(names, [endings]), f"of names that end in {endings[0]} and {endings[1]}"
    else:
        ways = {"in two folders": by_folder(names), "of names with two endings": by_ending(names)}
        kind = max(ways, key=lambda way: len(ways[way]))
        pairs = ways[kind]
        kind = kind if pairs else "in a folder beside theirs, or by the ends of their names"
    paired = len({name for pair in pairs for name in pair})
    if not pairs or (not asked and 2 * paired < len(names)):
        raise UsageError(
            f"{path}: {paired} of {len(names)} images ({names[0]}, ...) have a partner {kind}, so what belongs "
            f"together is not clear: {_HELP}"
        )
    return kind, path, pairs, len(names) - paired
