"""Segmentation: images with a mask each, in a folder or a zip archive of one. Training sees the images alone.

Layouts, recognised by the names of folders, at any depth, beside or above ``train``, ``val`` and ``test``:

- ``images/`` beside ``masks/`` (or ``annotations``, ``SegmentationClass`` ...), files paired by their names;
- CamVid's: ``train/`` beside ``trainannot/``, and so on; class 11 is unlabelled;
- COCO panoptic's, with one byte a pixel: ``images/`` beside ``panoptic/``, and next to them ``annotations.json``, which
  gives for each image of ``splits`` the ``segments`` that the numbers 1, 2, ... of its mask stand for, each with the
  ``category_id`` of one of the ``categories``; 0 is unlabelled.

A mask holds a class number for each pixel of its image, as PNG, TIFF or BMP of one channel or with a palette. Names of
classes come from ``classes.txt`` beside the folders, one a line; without, classes are numbered up to the largest
number in any mask.
"""

from __future__ import annotations

import functools
import json
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unlabel import data
from unlabel.data import Dataset, Subset
from unlabel.data.sources import layout
from unlabel.data.sources.folders import missing
from unlabel.data.sources.listing import Listing, Tree
from unlabel.data.sources.names import counted, ending, is_hidden
from unlabel.errors import BadSample, UsageError
from unlabel_vision import images
from unlabel_vision.datasets.stored import IMAGES, StoredImages

__all__ = ["CAMVID", "Segmentation"]

CAMVID = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
"""The 11 classes in which CamVid is usually scored (Badrinarayanan et al. 2015, arXiv 1511.00561), in their order."""

_IMAGES = {"image", "images", "img", "imgs", "jpegimages"}
_MASKS = {"annotation", "annotations", "label", "labels", "mask", "masks", "panoptic", "segmentation"}
_MASKS |= {"segmentationclass", "segmentations"}
_LOSSLESS = {".png", ".tif", ".tiff", ".bmp"}
_UNLABELLED = {"masks": 255, "camvid": len(CAMVID), "panoptic": 0}  # 255 is what most data sets write


@dataclass(frozen=True)
class _Layout:
    """Which files belong together: paths of images and of their masks, and the part of each."""

    kind: Literal["masks", "camvid", "panoptic"]
    pictures: list[str]
    masks: list[str]
    parts: np.ndarray
    lone: list[str]  # images without a mask


class Segmentation(StoredImages):
    """Images of a folder or a zip archive, with a mask each for dense evaluations.

    Args:
        path: the folder (one that holds nothing but a zip archive and small files stands for it), or the ``.zip``.
        ignore: the number of unlabelled pixels; by default 255, in CamVid's layout 11. COCO panoptic's is 0.
        categories: COCO panoptic: classes are the categories, or the supercategories they belong to.
        maskless: what to do about images without a mask: refuse them, or leave them out. COCO panoptic's are left out.
        holdout: share of the images held out for testing where there is no folder of that name.
        shortest: the short side that is needed; larger JPEGs are decoded at 1/2, 1/4 or 1/8 size. Masks stay whole.
        min_size: images with a shorter short side are bad samples.
        max_pixels: images and masks of more pixels are bad samples.

    Raises:
        UsageError: no images with masks there, or images without a mask; names the first.
    """

    per_sample = ("label_map",)
    per_dataset = ("map_classes",)

    def __init__(
        self,
        path: str | Path,
        *,
        ignore: int | None = None,
        categories: Literal["category", "supercategory"] = "category",
        maskless: Literal["refuse", "skip"] = "refuse",
        holdout: float = 0.2,
        shortest: int | None = None,
        min_size: int = 8,
        max_pixels: int = images.MAX_PIXELS,
    ):
        path = Path(path).expanduser()
        if not path.exists():
            missing(path)
        files = _tree(path)
        pairs = _paired(files.names)
        if not pairs.pictures:
            raise UsageError(
                f"no images with masks in {path}: expected e.g. images/ and masks/ with files of the same names, "
                "train/ and trainannot/, or images/, panoptic/ and annotations.json"
            )
        self.segments = _Segments.of(files, categories) if pairs.kind == "panoptic" else None
        if self.segments is not None:
            listed = np.array([name in self.segments.classes_of for name in pairs.pictures])
            lone = [*pairs.lone, *(name for name, known in zip(pairs.pictures, listed, strict=True) if not known)]
        else:
            listed, lone = np.ones(len(pairs.pictures), dtype=bool), pairs.lone
            if lone and maskless == "refuse":
                others = f" and {len(lone) - 1} others have" if len(lone) > 1 else " has"
                raise UsageError(
                    f"{path}/{lone[0]}{others} no mask of the same name: put it there, or leave images without a mask "
                    "out with --set dataset.maskless=skip"
                )
        usable = np.flatnonzero(listed).tolist()
        self.pictures = [pairs.pictures[index] for index in usable]
        self.masks = files.source([pairs.masks[index] for index in usable])
        self.ignore = _UNLABELLED[pairs.kind] if ignore is None else ignore
        self._named = self.segments.names if self.segments else CAMVID if pairs.kind == "camvid" else _classes(files)
        parts = pairs.parts[listed]
        listing = Listing(
            f"segmentation ({pairs.kind})",
            files.source(self.pictures),
            labels=None,
            classes=None,
            parts=parts if {0} < set(parts.tolist()) else None,
            formats=counted(map(ending, self.pictures)),
            notes=(f"{len(lone)} images have no mask and are left out",) if lone else (),
        )
        super().__init__(path, listing, holdout=holdout, shortest=shortest, min_size=min_size, max_pixels=max_pixels)

    def split(self, name: str) -> Dataset | None:
        """``"train"`` and ``"test"``: the folders of that name (validation where there is no test), or a share."""
        if name not in ("train", "test"):
            return None
        if self.parts is not None:
            held_out = 2 if np.any(self.parts == 2) else 1
            indices = np.flatnonzero(self.parts == (0 if name == "train" else held_out))
        else:
            train, test = data.holdout(None, len(self), self.holdout)
            indices = train if name == "train" else test
        return Subset(self, indices) if len(indices) else None

    @functools.cached_property
    def map_classes(self) -> tuple[str, ...]:
        """Names of the classes; where nothing names them, their numbers up to the largest in any mask."""
        if self._named:
            return self._named
        largest = -1
        for index in range(len(self.masks)):
            numbers = self._stored(index)
            numbers = numbers[numbers != self.ignore]
            largest = max(largest, int(numbers.max(initial=-1)))
        if largest < 0:
            raise UsageError(f"every pixel of every mask in {self.path} is {self.ignore}, which is unlabelled")
        return tuple(str(number) for number in range(largest + 1))

    def label_map(self, index: int) -> np.ndarray:
        """int64, (H, W), in [0, classes), -1 where unlabelled.

        Raises:
            UsageError: the mask is damaged, of another size than its image, or has a number beyond the classes; names
                the file, and the place.
        """
        numbers, name = self._stored(index), self.masks.name(index)
        header = images.header(self.source.read(index), max_pixels=self.max_pixels)
        if numbers.shape != (header.height, header.width):
            raise UsageError(
                f"{name} is a mask of {numbers.shape[1]} x {numbers.shape[0]} pixels, and its image "
                f"{self.source.name(index)} has {header.width} x {header.height}: expected one number a pixel"
            )
        if self.segments is not None:
            table = self.segments.classes_of[self.pictures[index]]
            _within(numbers, len(table), name, f"the {len(table) - 1} segments that annotations.json lists", "")
            classes: np.ndarray = table[numbers]
            return classes
        labels = np.where(numbers == self.ignore, -1, numbers)
        advice = (
            f"; unlabelled pixels have {self.ignore}, another number is set with --set dataset.ignore=NUMBER (in "
            "`unlabel evaluate`: train with --data on these data, or rename it in the masks)"
        )
        _within(labels, len(self.map_classes), name, f"the {len(self.map_classes)} classes from 0 on", advice)
        return labels

    def _stored(self, index: int) -> np.ndarray:
        """The numbers of a mask as they are stored: int64, (H, W)."""
        try:
            return images.class_numbers(self.masks.read(index), max_pixels=self.max_pixels)
        except (BadSample, OSError) as error:
            raise UsageError(f"{self.masks.name(index)} cannot be used as a mask: {error}") from error

    def info(self) -> dict[str, Any]:
        """As of any stored images, and the classes of the masks."""
        return {**super().info(), "mask classes": list(self.map_classes), "unlabelled": self.ignore}

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A folder or a zip archive in which folders of images have folders of masks beside them."""
        try:
            return (path.is_dir() or path.suffix.lower() == ".zip") and bool(_paired(_tree(path).names).pictures)
        except (UsageError, OSError):
            return False


def _within(numbers: np.ndarray, count: int, name: str, what: str, advice: str) -> None:
    beyond = np.argwhere(numbers >= count)
    if len(beyond):
        row, column = beyond[0].tolist()
        raise UsageError(f"{name}: {numbers[row, column]} at row {row}, column {column} is beyond {what}{advice}")


def _tree(path: Path) -> Tree:
    """The images and masks at a path; none if neither folders nor the one archive look as if they were paired."""
    if path.is_file():
        if path.suffix.lower() == ".zip":
            return Tree.of_zip(path, IMAGES)
        raise UsageError(f"{path} is a file; expected a folder of images and masks, or a .zip archive of one")
    if any(_looks_paired(path)):
        return Tree.of_folder(path, IMAGES)
    archives = sorted(entry for entry in path.glob("*.zip") if not is_hidden(entry.name))
    return Tree.of_zip(archives[0], IMAGES) if len(archives) == 1 else Tree(path, None, [], {})


def _classes(files: Tree) -> tuple[str, ...] | None:
    """The lines of classes.txt."""
    text = files.text("classes.txt")
    return tuple(line.strip() for line in text.splitlines() if line.strip()) if text else None


def _looks_paired(path: Path) -> Iterator[bool]:
    """Whether folders up to two levels below have names of images and masks; reads no further: folders may be huge."""
    below = [path, *(entry for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name))]
    for here in below:
        names = {entry.name.lower() for entry in here.iterdir() if entry.is_dir()}
        yield bool(names & _IMAGES and names & _MASKS) or any(f"{name}annot" in names for name in names)


def _key(name: str) -> tuple[str, str, int]:
    """What is common to an image and its mask; ``"image"``, ``"mask"``, ``"camvid"``, ``"panoptic"`` or ``""``; the
    part's number."""
    *folders, file = name.split("/")
    kind, common, part = "", [], 0
    for word in folders:
        lower = word.lower()
        if not kind and lower in _IMAGES | _MASKS:
            kind = "image" if lower in _IMAGES else "panoptic" if lower == "panoptic" else "mask"
            continue
        if not kind and lower.endswith("annot") and lower != "annot":
            kind, word = "camvid", word[: -len("annot")]
        common.append(word)
        part = layout.part_of(word) or part
    stem = posixpath.splitext(file)[0]
    if kind in ("mask", "camvid", "panoptic") and ending(file) not in _LOSSLESS:
        kind = "other"
    return "/".join([*common, stem]), kind, part


def _paired(names: Sequence[str]) -> _Layout:
    pictures: dict[str, str] = {}
    masks: dict[str, tuple[str, str]] = {}
    parts: dict[str, int] = {}
    for name in names:
        key, role, part = _key(name)
        if role in ("image", ""):
            pictures[key] = name
            parts[key] = part
        elif role != "other":
            masks[key] = (name, role)
    both = sorted(pictures.keys() & masks.keys())
    kinds = {masks[key][1] for key in both}
    kind: Literal["masks", "camvid", "panoptic"] = (
        "panoptic" if kinds == {"panoptic"} else "camvid" if kinds == {"camvid"} else "masks"
    )
    return _Layout(
        kind,
        [pictures[key] for key in both],
        [masks[key][0] for key in both],
        np.array([parts[key] for key in both], dtype=np.uint8),
        sorted(pictures[key] for key in pictures.keys() - masks.keys()),
    )


@dataclass(frozen=True)
class _Segments:
    """COCO panoptic's annotations: names of the classes; image -> class of each segment number, int64, -1 at 0."""

    names: tuple[str, ...]
    classes_of: dict[str, np.ndarray]

    @classmethod
    def of(cls, files: Tree, categories: Literal["category", "supercategory"]) -> _Segments:
        text = files.text("annotations.json")
        if text is None:
            raise UsageError(f"{files.root} has panoptic masks and no annotations.json that says what they mean")
        try:
            annotations = json.loads(text)
            name = "name" if categories == "category" else "supercategory"
            names = tuple(dict.fromkeys(entry[name] for entry in annotations["categories"]))
            number = {entry["id"]: names.index(entry[name]) for entry in annotations["categories"]}
            return cls(
                names,
                {
                    image["file"]: np.array([-1, *(number[segment["category_id"]] for segment in image["segments"])])
                    for images_ in annotations["splits"].values()
                    for image in images_
                    if "panoptic" in image
                },
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{files.root}/annotations.json: expected splits, each a list of images with file, panoptic and "
                f"segments, and categories with id, name and supercategory ({type(error).__name__}: {error})"
            ) from error
