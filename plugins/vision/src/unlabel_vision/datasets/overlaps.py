"""Overlaps: two crops of one photograph that share a known part. No parallax: for comparison, and for tests.

Such pairs teach a network to undo the crop, and little geometry (reported by the authors of CroCo, Weinzaepfel et al.
2022, arXiv 2210.10716); pairs of real views are `unlabel_vision.datasets.pairs`. Embedded photographs are those of
`unlabel_vision.datasets.photos`, divided into training and test parts as there.
"""

from __future__ import annotations

import numpy as np

from unlabel import data, seeds
from unlabel.errors import BadSample, UsageError
from unlabel.task import Sample
from unlabel_vision import views
from unlabel_vision.datasets import photos
from unlabel_vision.datasets.drawn import Drawn, Part
from unlabel_vision.datasets.folder import Folder

__all__ = ["Overlaps", "draw_windows", "shift_of"]

Window = tuple[float, float, float]
"""Top, left and side of a square, in pixels."""


def draw_windows(
    rng: np.random.Generator, height: int, width: int, size: int, overlap: tuple[float, float], zoom: float
) -> tuple[Window, Window]:
    """Two squares in an image, of which the second covers a share of the first.

    Args:
        rng: source of everything.
        height, width: of the image.
        size: smallest side; the largest is twice that, or what fits.
        overlap: smallest and largest share of the first square that is in the second too.
        zoom: largest ratio of the two sides, either way.
    """
    least = min(size, height, width)
    side = rng.uniform(least, max(least, min(2 * size, height, width)))
    for _ in range(100):
        top, left = rng.uniform(0, height - side), rng.uniform(0, width - side)
        other = min(side * zoom ** rng.uniform(-1, 1), height, width)
        reach = (side + other) / 2
        middle = np.array([top, left]) + side / 2 + rng.uniform(-reach, reach, 2)
        below, right = middle - other / 2
        if not (0 <= below <= height - other and 0 <= right <= width - other):
            continue
        common = [max(0.0, min(a + side, b + other) - max(a, b)) for a, b in ((top, below), (left, right))]
        if overlap[0] <= common[0] * common[1] / side**2 <= overlap[1]:
            return (top, left, side), (float(below), float(right), other)
    return (top, left, side), (top, left, side)


def shift_of(first: Window, second: Window, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel of the first window is in the second, both resized to `size` pixels.

    Returns:
        float64, (size, size, 2), to the right and down; and bool, (size, size): whether it is inside.
    """
    line = np.arange(size) + 0.5
    moved = []
    for axis in (1, 0):
        places = (first[axis] + line * first[2] / size - second[axis]) * size / second[2]
        moved.append(places)
    x, y = np.meshgrid(*moved, indexing="xy")
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    return np.stack([x - line[None, :], y - line[:, None]], axis=-1), inside


class Overlaps(Drawn):
    """Pairs of overlapping crops of single photographs.

    Samples are ``{"image", "second", "flow", "visible"}``, see `unlabel_vision.datasets.rooms.Rooms`.

    Args:
        path: a folder, archive or .npz of images; None takes the embedded photographs.
        size: side of the crops in pixels.
        count: number of training pairs; there are a quarter as many test pairs, of other images or parts of images.
        overlap: smallest and largest share of the first crop that the second shows too.
        zoom: largest ratio of the sides of the two squares before they are resized.
        seed: another number gives other crops.
    """

    kind = "pairs, crops"

    def __init__(
        self,
        path: str | None = None,
        *,
        size: int = 73,
        count: int = 4000,
        overlap: tuple[float, float] = (0.3, 0.7),
        zoom: float = 1.25,
        seed: int = 0,
    ):
        if size < 8 or count < 4:
            raise UsageError(f"size {size} must be 8 or more, and count {count} 4 or more")
        if not 0 <= overlap[0] <= overlap[1] <= 1 or zoom < 1:
            raise UsageError(f"overlap {list(overlap)}: expected two shares from 0 to 1; zoom {zoom}: 1 or more")
        self.overlap, self.zoom = (overlap[0], overlap[1]), zoom
        self.folder = None if path is None else Folder(path, holdout=0.0)
        super().__init__(size, count, seed)

    def take(self, part: Part, size: int) -> None:
        super().take(part, size)
        self.chosen = np.arange(0)
        if self.folder is not None:
            groups = data.holdout(None, len(self.folder), 0.2)
            self.chosen = groups[part == "test"] if all(len(group) for group in groups) else np.arange(len(self.folder))

    def _picture(self, index: int) -> tuple[np.ndarray, str]:
        if self.folder is None:
            name = photos.NAMES[index % len(photos.NAMES)]
            top, left, bottom, right = photos.region(name, self.part)
            return photos.photo(name)[top:bottom, left:right], name
        number = int(self.chosen[index % len(self.chosen)])
        return self.folder[number]["image"], self.folder.name_of(number)

    def __getitem__(self, index: int) -> Sample:
        picture, _ = self._picture(index)
        height, width = picture.shape[:2]
        if min(height, width) < 8:
            raise BadSample(f"{width} x {height} pixels, smaller than 8")
        rng = seeds.generator(self.seed, self.part == "test", index, 0x0E)
        windows = draw_windows(rng, height, width, self.side, self.overlap, self.zoom)
        # whole pixels, of which the flow is then exact
        first, second = ((round(top), round(left), max(1, int(side))) for top, left, side in windows)
        cut = [views.resize(picture, (w[0], w[1], w[2], w[2]), (self.side, self.side)) for w in (first, second)]
        shift, inside = shift_of(first, second, self.side)
        return {
            "image": np.array(cut[0]),
            "second": np.array(cut[1]),
            "flow": shift.astype(np.float32),
            "visible": inside.astype(np.uint8),
        }

    def name_of(self, index: int) -> str:
        return f"{self.part} crops {index} of {self._picture(index)[1]}"
