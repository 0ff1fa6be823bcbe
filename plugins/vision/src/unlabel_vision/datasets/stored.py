"""Images stored as encoded files, whatever holds them: what an image file is, and how it becomes a sample."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.data.sources import columns
from unlabel.data.sources.kind import ArrayForm, ColumnForm, Kind
from unlabel.data.sources.listing import Listing
from unlabel.data.sources.stored import Stored
from unlabel.errors import BadSample, UsageError
from unlabel.task import Sample, Transform
from unlabel_vision import images, views
from unlabel_vision.datasets.image_dataset import ImageDataset

__all__ = ["IMAGES", "StoredImages", "check_limits", "check_size", "pixels", "summary"]

_SAMPLED = 64  # headers read for the summary of sizes


def _recognises(head: bytes) -> bool:
    return images.sniff(head) is not None


def _fits(shape: tuple[int, ...]) -> bool:
    """(N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)."""
    return 0 not in shape and (len(shape) == 3 or (len(shape) == 4 and not {1, 3}.isdisjoint((shape[1], shape[3]))))


def _usable(kind: Any) -> bool:
    """Encoded files, or lists of lists of integers."""
    from pyarrow import types

    depth, innermost = columns.nesting(kind)
    return columns.holds_files(kind) or bool(depth >= 2 and types.is_integer(innermost))


IMAGES = Kind(
    "image",
    "images",
    images.SUFFIXES,
    ".jpg, .png, .webp, .gif, .bmp or .tif",
    _recognises,
    ArrayForm(
        stacked=("images", "image", "x", "data"),
        files=("jpeg", "jpg", "png", "webp", "files"),
        expected="an array `images` of uint8 (N, H, W) or (N, H, W, 3), or `jpeg` with `offsets`",
        fits=_fits,
        dtype=np.dtype(np.uint8),
        values="uint8 from 0 to 255",
    ),
    ColumnForm(
        usable=_usable,
        expected="encoded bytes, {bytes, path}, or lists of integers",
        extra="unlabel-vision[hf]",
    ),
)
"""How images are kept in files."""


class StoredImages(Stored, ImageDataset):
    """A dataset of images kept as files.

    Samples are ``{"image": uint8 (H, W, 3), "label": int}``, the label only if there are labels.

    Args:
        path: where the images are, for messages.
        listing: what is there.
        holdout: share of an undivided, labelled set that is held out for testing, class by class.
        shortest: see `images.decode`; by default what the task's transform needs, see `for_transform`.
        min_size: images with a shorter short side are bad samples.
        max_pixels: images of more pixels are bad samples.
    """

    def __init__(
        self,
        path: Path,
        listing: Listing,
        *,
        holdout: float,
        shortest: int | None,
        min_size: int,
        max_pixels: int,
    ):
        super().__init__(path, listing, holdout)
        check_limits(shortest, min_size, max_pixels)
        self.shortest, self.min_size, self.max_pixels = shortest, min_size, max_pixels
        self.fewest: int | None = None

    def read(self, index: int) -> bytes | np.ndarray:
        """The image as it is stored: the bytes of its file, or uint8 pixels (H, W), (H, W, 1) or (H, W, 3)."""
        stored: bytes | np.ndarray = super().read(index)
        return stored if isinstance(stored, bytes) else _array(stored)

    def decode(self, stored: bytes | np.ndarray) -> np.ndarray:
        """What `read` returned as uint8 RGB (H, W, 3); BadSample if that cannot be."""
        if isinstance(stored, bytes):
            return images.decode(stored, shortest=self.shortest, fewest=self.fewest, max_pixels=self.max_pixels)
        return pixels(stored)

    def decode_sample(self, stored: bytes | np.ndarray) -> Sample:
        image = self.decode(stored)
        check_size(image.shape[1], image.shape[0], self.min_size)
        return {"image": image}

    def for_transform(self, transform: Transform | None) -> StoredImages:
        """For random crops: JPEGs are decoded at 1/2, 1/4 or 1/8 of their size where even the smallest part that may
        be cut out is not enlarged by that. At 32 pixels, from photographs of twice the size needed, views differ by
        0.7 of 255 grey levels (root mean square); JPEG itself changes more. A given `shortest` stays as it is."""
        if self.shortest is not None or not isinstance(transform, views.RandomResizedCrop | views.TwoViews):
            return self
        reduced = copy.copy(self)
        side, reduced.fewest = transform.needs()
        reduced.shortest = max(side, self.min_size)
        return reduced

    def info(self) -> dict[str, Any]:
        """Kind, counts per part, class and file ending, and sizes from the headers of a few images."""
        return {**super().info(), "sizes": sizes(self)}

    def inspect(self, verify: bool = True) -> dict[str, Any]:
        """`info`, and with `verify` what reading every file shows: see `unlabel_vision.inspection.report`."""
        from unlabel_vision import inspection  # it imports this file

        return inspection.report(self) if verify else self.info()


def check_limits(shortest: int | None, min_size: int, max_pixels: int) -> None:
    """Raise UsageError if a limit is below 1."""
    if min_size < 1 or max_pixels < 1 or (shortest is not None and shortest < 1):
        raise UsageError(f"min_size {min_size}, max_pixels {max_pixels} and shortest {shortest} must be at least 1")


def check_size(width: int, height: int, min_size: int) -> None:
    """Raise BadSample if the short side is below `min_size`."""
    if min(width, height) < min_size:
        raise BadSample(f"{width} x {height} pixels, smaller than min_size={min_size}")


def _array(stored: np.ndarray) -> np.ndarray:
    """Numbers from 0 to 255 as uint8, with (1 or 3, H, W) as (H, W, 1 or 3); BadSample for other numbers."""
    if stored.dtype != np.uint8:
        if stored.dtype.kind not in "iu" or (stored.size and (stored.min() < 0 or stored.max() > 255)):
            raise BadSample("values outside 0 to 255")
        stored = stored.astype(np.uint8)
    first = stored.ndim == 3 and stored.shape[0] in (1, 3) and stored.shape[2] not in (1, 3)
    return np.moveaxis(stored, 0, 2) if first else stored


def pixels(stored: np.ndarray) -> np.ndarray:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) as a writable, contiguous (H, W, 3); BadSample for other shapes."""
    if stored.ndim == 2:
        stored = stored[..., None]
    if stored.ndim != 3 or stored.shape[2] not in (1, 3):
        raise BadSample(f"an array of shape {stored.shape}, not (H, W), (H, W, 1) or (H, W, 3)")
    return np.array(np.broadcast_to(stored, (*stored.shape[:2], 3)), order="C")


def sizes(dataset: StoredImages) -> dict[str, Any]:
    """`summary` of up to 64 images spread over the set; unusable ones are skipped."""
    pairs = []
    for index in np.unique(np.linspace(0, len(dataset) - 1, _SAMPLED).astype(int)).tolist():
        try:
            stored = dataset.read(index)
            if isinstance(stored, bytes):
                header = images.header(stored)
                pairs.append((header.width, header.height))
            else:
                pairs.append((stored.shape[1], stored.shape[0]))
        except (BadSample, OSError):
            continue
    return summary(pairs)


def summary(pairs: list[tuple[int, int]]) -> dict[str, Any]:
    """``{"count": n, "width": [min, median, max], "height": [min, median, max]}`` of (width, height) pairs."""
    if not pairs:
        return {"count": 0}
    width, height = np.array(pairs).T
    spread = {
        name: [int(side.min()), int(np.median(side)), int(side.max())]
        for name, side in (("width", width), ("height", height))
    }
    return {"count": len(pairs), **spread}
