"""Images stored as encoded files, whatever holds them: decoding, labels, parts and facts in one place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from unlabel import data
from unlabel.data import Dataset, Subset
from unlabel.errors import BadSample, UsageError
from unlabel.task import Sample, Transform
from unlabel_vision import images, views
from unlabel_vision.datasets import layout
from unlabel_vision.datasets.image_dataset import ImageDataset

__all__ = ["Stored", "check_size", "pixels", "summary"]

_SAMPLED = 64  # headers read for the summary of sizes


class Stored(ImageDataset):
    """A dataset of images kept as files. Subclasses define `read`, `name_of` and `__len__`, and describe themselves.

    Samples are ``{"image": uint8 (H, W, 3), "label": int}``, the label only if there are labels.

    Args:
        path: where the images are, for messages.
        labels: int64, (N,), or None.
        classes: names of the labels, or None.
        parts: uint8, (N,): index into `layout.PARTS`, or None if the set comes undivided.
        holdout: share of an undivided, labelled set that is held out for testing, class by class.
        shortest: see `images.decode`; by default what the task's transform needs, see `for_transform`.
        min_size: images with a shorter short side are bad samples.
        max_pixels: images of more pixels are bad samples.
    """

    kind: str
    formats: dict[str, int]  # file name ending -> count
    ignored: dict[str, int]  # of files that are no images
    notes: tuple[str, ...]

    def __init__(
        self,
        path: Path,
        *,
        labels: np.ndarray | None,
        classes: tuple[str, ...] | None,
        parts: np.ndarray | None,
        holdout: float,
        shortest: int | None,
        min_size: int,
        max_pixels: int,
    ):
        if not 0 <= holdout < 1:
            raise UsageError(f"holdout {holdout} is outside [0, 1): 0.2 keeps a fifth of the images for testing")
        if min_size < 1 or max_pixels < 1 or (shortest is not None and shortest < 1):
            raise UsageError(f"min_size {min_size}, max_pixels {max_pixels} and shortest {shortest} must be at least 1")
        self.path, self.labels, self.classes, self.parts = path, labels, classes, parts
        self.holdout, self.shortest, self.min_size, self.max_pixels = holdout, shortest, min_size, max_pixels
        self.fewest: int | None = None

    def read(self, index: int) -> bytes | np.ndarray:
        """The image as it is stored: the bytes of its file, or uint8 pixels (H, W), (H, W, 1) or (H, W, 3)."""
        raise NotImplementedError(f"{type(self).__name__} must define read(index)")

    def raw(self, index: int) -> bytes | np.ndarray:
        return self.read(index)

    def decode(self, stored: bytes | np.ndarray) -> np.ndarray:
        """What `read` returned as uint8 RGB (H, W, 3); BadSample if that cannot be."""
        if isinstance(stored, bytes):
            return images.decode(stored, shortest=self.shortest, fewest=self.fewest, max_pixels=self.max_pixels)
        return pixels(stored)

    def __getitem__(self, index: int) -> Sample:
        image = self.decode(self.read(index))
        check_size(image.shape[1], image.shape[0], self.min_size)
        return {"image": image} if self.labels is None else {"image": image, "label": int(self.labels[index])}

    def for_transform(self, transform: Transform | None) -> Stored:
        """For random crops: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where even the smallest part that may
        be cut out is not enlarged by that. At 32 pixels, from photographs of twice the size needed, views differ by
        0.7 of 255 grey levels (root mean square); JPEG itself changes more. A given `shortest` stays as it is."""
        if self.shortest is not None or not isinstance(transform, views.RandomResizedCrop | views.TwoViews):
            return self
        suited = copy.copy(self)
        side, suited.fewest = transform.needs()
        suited.shortest = max(side, self.min_size)
        return suited

    def split(self, name: str) -> Dataset | None:
        """``"train"`` and ``"test"``: the folders of that name (validation where there is no test), or the
        held-out share of a labelled set; without labels everything trains and nothing is held out."""
        if name not in ("train", "test"):
            return None
        if self.parts is not None:
            held_out = 2 if np.any(self.parts == 2) else 1
            return Subset(self, np.flatnonzero(self.parts == (0 if name == "train" else held_out)))
        if self.labels is None or self.holdout == 0:
            return self if name == "train" else None
        train, test = data.holdout(self.labels, len(self), self.holdout)
        chosen = train if name == "train" else test
        return Subset(self, chosen) if len(chosen) else None

    def info(self) -> dict[str, Any]:
        """Kind, counts per part, class and file ending, and sizes from the headers of a few images."""
        facts: dict[str, Any] = {"kind": self.kind, "path": str(self.path), "samples": len(self)}
        if self.parts is not None:
            counts = np.bincount(self.parts, minlength=len(layout.PARTS)).tolist()
            facts["splits"] = {part: count for part, count in zip(layout.PARTS, counts, strict=True) if count}
        if self.labels is not None and self.classes is not None:
            counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
            facts["classes"] = dict(zip(self.classes, counts, strict=True))
        return facts | {
            "formats": self.formats,
            "ignored": self.ignored,
            "notes": list(self.notes),
            "sizes": sizes(self),
        }

    def inspect(self, verify: bool = True) -> dict[str, Any]:
        """`info`, and with `verify` what reading every file shows: see `unlabel_vision.inspection.report`."""
        from unlabel_vision import inspection  # it imports this file

        return inspection.report(self) if verify else self.info()


def check_size(width: int, height: int, min_size: int) -> None:
    """Raise BadSample if the short side is below `min_size`."""
    if min(width, height) < min_size:
        raise BadSample(f"{width} x {height} pixels, smaller than min_size={min_size}")


def pixels(stored: np.ndarray) -> np.ndarray:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) as a writable, contiguous (H, W, 3); BadSample for other shapes."""
    if stored.ndim == 2:
        stored = stored[..., None]
    if stored.ndim != 3 or stored.shape[2] not in (1, 3):
        raise BadSample(f"an array of shape {stored.shape}, not (H, W), (H, W, 1) or (H, W, 3)")
    return np.array(np.broadcast_to(stored, (*stored.shape[:2], 3)), order="C")


def sizes(dataset: Stored) -> dict[str, Any]:
    """`summary` of up to 64 images spread over the set; unusable ones are skipped."""
    found = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, _SAMPLED).astype(int)).tolist():
        try:
            stored = dataset.read(index)
            if isinstance(stored, bytes):
                header = images.header(stored)
                found.append((header.width, header.height))
            else:
                found.append((stored.shape[1], stored.shape[0]))
        except (BadSample, OSError):
            continue
    return summary(found)


def summary(found: list[tuple[int, int]]) -> dict[str, Any]:
    """``{"count": n, "width": [min, median, max], "height": [min, median, max]}`` of (width, height) pairs."""
    if not found:
        return {"count": 0}
    width, height = np.array(found).T
    spread = {
        name: [int(side.min()), int(np.median(side)), int(side.max())]
        for name, side in (("width", width), ("height", height))
    }
    return {"count": len(found), **spread}
