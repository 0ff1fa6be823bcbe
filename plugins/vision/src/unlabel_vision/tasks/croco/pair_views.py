"""Two views of a scene as a task sees them: random crops for training, central ones for evaluation.

A pair is a sample with ``"image"`` (first view) and ``"second"``, uint8 (H, W, 3) each. Tasks on single images may be
trained on the first view of pairs as on any image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unlabel.data import Draw
from unlabel.errors import UsageError
from unlabel.task import Sample
from unlabel_vision import views

__all__ = ["DENSE", "CentralPair", "PairCrop"]

DENSE = ("depth", "flow", "visible")
"""Fields with a value for each pixel of the first view, (H, W) or (H, W, 2)."""


@dataclass(frozen=True)
class PairCrop:
    """Replace a pair by a crop of each view, ``"view1"`` and ``"view2"``, and leave out everything else.

    Both are cut from the same place of their images, up to a random shift of each by itself: a window, `ratio` times
    as large as the crop, lies at the same relative position in both. Nothing is mirrored, nor stretched.

    Attributes:
        size: side of the crops in pixels.
        ratio: side of the window / side of the crop.
        window: smallest and largest side of the window, as a share of each image's shorter side; all of it for images
            that were made for this, less where few photographs must give many pairs.
    """

    size: int
    ratio: float = 256 / 224
    window: tuple[float, float] = (1.0, 1.0)

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        if "second" not in sample:
            raise UsageError(
                "this task needs pairs of views, and these data are single images; give --data vision/rooms, "
                "vision/stereo, or photographs in pairs (see `unlabel show vision/pairs`); two crops of one image do "
                "not teach the same, but for comparison there is vision/overlaps"
            )
        share, *place = draw.rng.random(3).tolist()
        share = self.window[0] + (self.window[1] - self.window[0]) * share
        first = self._crop(sample["image"], share, place, draw.rng)
        return {"view1": first, "view2": self._crop(sample["second"], share, place, draw.rng)}

    def _crop(self, image: np.ndarray, share: float, place: list[float], rng: np.random.Generator) -> np.ndarray:
        height, width = image.shape[:2]
        window = share * min(height, width)
        whole = round(self.size * self.ratio)  # side of the window, in pixels of the crop
        shift = rng.integers(whole - self.size + 1, size=2) * window / whole
        side = max(1, round(window * self.size / whole))
        top = min(round(place[0] * (height - window) + shift[0]), height - side)
        left = min(round(place[1] * (width - window) + shift[1]), width - side)
        return views.resize(image, (top, left, side, side), (self.size, self.size))


@dataclass(frozen=True)
class CentralPair:
    """For evaluation: the centre of both views, and of what is known of the first view's pixels.

    Where depth or flow are known, nothing is resampled, and views must be as large as `size` at least; otherwise views
    are resized as single images are. Samples without a second view pass as single images.

    Attributes:
        size: side of the result in pixels.
    """

    size: int

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        dense = [name for name in DENSE if name in sample]
        if not dense:
            resized = views.ResizeCenterCrop(self.size)
            shown: Sample = {
                name: resized({"image": sample[name]}, draw)["image"] for name in ("image", "second") if name in sample
            }
            return {**sample, **shown}
        height, width = sample["image"].shape[:2]
        if min(height, width) < self.size:
            raise UsageError(
                f"views of {width} x {height} pixels with known depth or flow are smaller than the encoder's "
                f"{self.size}: give larger ones (--set dataset.size={round(self.size * 256 / 224)})"
            )
        rows, columns = (slice((n - self.size) // 2, (n - self.size) // 2 + self.size) for n in (height, width))
        cut = {name: np.ascontiguousarray(sample[name][rows, columns]) for name in ("image", "second", *dense)}
        return {**sample, **cut}
