"""Photos: small crops of the photographs and textures that scikit-image and scikit-learn carry.

A tiny but real natural-image set that needs no download. Sample *i* is a crop at a place and of a size hashed
from *i*, and its label is which picture it comes from. Training crops come from the first 70 % of each
picture's longer axis, test crops from the rest: no pixel is in both.

Pictures: scikit-image's astronaut, brick, camera, cell, chelsea, coffee, coins, grass, gravel, Hubble deep field,
immunohistochemistry, moon, page, retina, rocket (CC0 or public domain) and scikit-learn's china and flower
(CC BY 2.0, by Robert W. Layton-Jones and dany13).
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel.task import Sample
from unlabel_vision.datasets.drawn import Drawn, Part

__all__ = ["NAMES", "TEXTURES", "Photos", "photo", "region"]

NAMES = (
    "astronaut",
    "brick",
    "camera",
    "cell",
    "chelsea",
    "china",
    "coffee",
    "coins",
    "flower",
    "grass",
    "gravel",
    "hubble_deep_field",
    "immunohistochemistry",
    "moon",
    "page",
    "retina",
    "rocket",
)
"""The pictures, which are the classes."""

_NO_SURFACE = ("cell", "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina")

TEXTURES = tuple(name for name in NAMES if name not in _NO_SURFACE)
"""Those that cover a surface: no frame, no black sky."""

_TRAIN_SHARE = 0.7
_LARGEST = 2.0  # side of the largest window, in crops
_FLAT = 6.0  # a window whose grey values deviate less than this is sky or paper: look elsewhere


class Photos(Drawn):
    """Crops of photographs, without end; labels say which photograph.

    Args:
        crop: side of the samples in pixels. Windows of one to two times that are cut out and reduced.
        count: number of training crops; there are a quarter as many test crops.
        seed: another number gives other crops.
    """

    labels: np.ndarray
    classes = NAMES
    kind = "photos"

    def __init__(self, *, crop: int = 64, count: int = 4000, seed: int = 0):
        if not 8 <= crop <= 96:
            raise UsageError(f"crop {crop} is outside 8 to 96, where the smallest picture ends")
        if count < 4:
            raise UsageError(f"count {count} is less than 4, which leaves nothing for testing")
        super().__init__(crop, count, seed)

    def __getitem__(self, index: int) -> Sample:
        label = int(self.labels[index])
        top, left, side = self.window(index)
        window = photo(NAMES[label])[top : top + side, left : left + side]
        image = Image.fromarray(window).resize((self.side, self.side), Image.Resampling.BOX)
        return {"image": np.array(image), "label": label}

    def window(self, index: int) -> tuple[int, int, int]:
        """Top, left and side of what sample `index` shows of its picture; the least flat of a few places."""
        name = NAMES[self.labels[index]]
        top, left, bottom, right = region(name, self.part)
        rng = seeds.generator(self.seed, self.part == "test", index)
        largest = min(int(_LARGEST * self.side), bottom - top, right - left)
        for _ in range(4):
            side = int(rng.integers(self.side, largest + 1))
            y, x = int(rng.integers(top, bottom - side + 1)), int(rng.integers(left, right - side + 1))
            if photo(name)[y : y + side : 4, x : x + side : 4].std() > _FLAT:
                break
        return y, x, side

    def name_of(self, index: int) -> str:
        return f"{NAMES[self.labels[index]]} at {self.window(index)}"


@functools.cache
def photo(name: str) -> np.ndarray:
    """One picture, uint8 (H, W, 3), read-only; loaded once per process."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        picture: np.ndarray = load_sample_image(f"{name}.jpg")
    else:
        import skimage.data

        picture = getattr(skimage.data, name)()
    if picture.ndim == 2:
        picture = picture[..., None].repeat(3, axis=2)
    picture.setflags(write=False)
    return picture


def region(name: str, part: Part) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of what the part ``"train"`` or ``"test"`` may show of a picture."""
    height, width = photo(name).shape[:2]
    first, last = (0.0, _TRAIN_SHARE) if part == "train" else (_TRAIN_SHARE, 1.0)
    if height > width:
        return round(first * height), 0, round(last * height), width
    return 0, round(first * width), height, round(last * width)
