"""Shapes: ten silhouettes in photographic clutter, drawn on demand; endless, labelled, and of no use to raw pixels.

Each sample shows one silhouette, turned, stretched and shifted at random, filled with one photograph's texture
on another's, under patches and noise; the label is the silhouette. Position, pose, brightness and polarity
(dark on light or light on dark) vary so much that neither pixels nor the features of an untrained network
tell the classes apart, whereas the shape is plain to an encoder that has learnt to see: what a
self-supervised task gains in a few minutes shows. Every image also has a label map: the silhouette's class where it
is, background elsewhere, no label under a patch that hides what is behind. Textures are the pictures of `photos`,
training images from their training regions and test images from their test regions.
"""

from __future__ import annotations

import functools

import numpy as np
from PIL import Image, ImageFilter

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel.task import Sample
from unlabel_vision.datasets import photos
from unlabel_vision.datasets.drawn import Drawn, Part

__all__ = ["CLASSES", "Shapes", "render", "silhouettes"]

CLASSES = ("disk", "ring", "triangle", "square", "star", "cross", "crescent", "heart", "bar", "angle")

_RESOLUTION = 128  # of the silhouettes, in pixels across
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_CHROMA = 30.0  # how far a base colour strays from grey: with more, colour alone would identify an image
_CONTRAST = 70.0  # least difference between a silhouette and what is behind it


class Shapes(Drawn):
    """Drawn silhouettes before photographic textures.

    Args:
        count: number of training images; there are a fifth as many test images.
        image_size: side in pixels.
        seed: another number gives other images.
    """

    labels: np.ndarray
    classes = CLASSES
    kind, for_a_test = "shapes", 5
    map_classes = ("background", *CLASSES)
    per_sample = ("label_map",)
    per_dataset = ("map_classes",)

    def __init__(self, *, count: int = 5000, image_size: int = 32, seed: int = 0):
        if count < 2 * len(CLASSES):
            raise UsageError(f"count {count} is less than {2 * len(CLASSES)}, two images of each class")
        if not 16 <= image_size <= 128:
            raise UsageError(f"image_size {image_size} is outside 16 to 128")
        super().__init__(image_size, count, seed)

    def __getitem__(self, index: int) -> Sample:
        label = int(self.labels[index])
        rng = seeds.generator(self.seed, self.part == "test", index)
        return {"image": render(rng, label, self.side, self.part), "label": label}

    def label_map(self, index: int) -> np.ndarray:
        """int64, (S, S): 0 background, 1 + the label on the silhouette, -1 where a patch hides it."""
        label = int(self.labels[index])
        _, cover, hidden = _drawn(seeds.generator(self.seed, self.part == "test", index), label, self.side, self.part)
        found = np.where(cover[..., 0] > 0.5, 1 + label, 0)
        if hidden is not None:
            found[hidden] = -1
        return found

    def name_of(self, index: int) -> str:
        return f"{CLASSES[self.labels[index]]} {index}"


def render(rng: np.random.Generator, label: int, size: int, part: Part) -> np.ndarray:
    """Draw one image.

    Args:
        rng: all randomness comes from here.
        label: index into `CLASSES`.
        size: side in pixels.
        part: ``"train"`` or ``"test"``: which regions of the photographs the textures come from.

    Returns:
        uint8, (size, size, 3).
    """
    return _drawn(rng, label, size, part)[0]


def _drawn(
    rng: np.random.Generator, label: int, size: int, part: Part
) -> tuple[np.ndarray, np.ndarray, tuple[slice, slice] | None]:
    """The image; how much of each pixel the silhouette covers, (S, S, 1); and where a patch hides both."""
    behind, before = _colours(rng)
    image = behind + 18 * rng.uniform(0.3, 1) * _texture(rng, size, part)
    for _ in range(rng.integers(2)):
        rows, columns = _patch(rng, size, size // 3)
        image[rows, columns] = 0.5 * (image[rows, columns] + _grey(rng))

    cover = _cover(rng, label, size)
    fill = before + 12 * rng.uniform(0, 1) * _texture(rng, size, part)
    image += (fill - image) * cover
    hidden = None
    if rng.random() < 0.2:
        hidden = _patch(rng, size, size // 4)
        image[hidden] = _grey(rng)

    image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, 6))
    image.clip(0, 255, out=image)
    return image.astype(np.uint8, order="C"), cover, hidden  # a turned texture is laid out otherwise


def _grey(rng: np.random.Generator) -> np.ndarray:
    """A greyish colour, float32 (3,)."""
    return (rng.uniform(50, 205) + rng.uniform(-_CHROMA, _CHROMA, 3)).astype(np.float32)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two greyish colours far enough apart for a silhouette to be seen."""
    behind = _grey(rng)
    while True:
        before = _grey(rng)
        difference = before - behind
        if abs(difference @ _LUMA) + abs(difference).sum() / 6 > _CONTRAST:
            return behind, before


def _patch(rng: np.random.Generator, size: int, largest: int) -> tuple[slice, slice]:
    """A random rectangle inside the image, of sides from 2 to `largest` pixels."""
    height, width = rng.integers(2, largest, 2)
    top, left = rng.integers(0, size - largest, 2)
    return slice(top, top + height), slice(left, left + width)


@functools.cache
def _relief(name: str, part: Part) -> np.ndarray:
    """A photograph's region of that part: grey values about their local mean, in units of their deviation, float32."""
    top, left, bottom, right = photos.region(name, part)
    grey = photos.photo(name)[top:bottom, left:right] @ _LUMA
    blurred = Image.fromarray(grey.astype(np.uint8)).filter(ImageFilter.GaussianBlur(24))
    detail = grey - np.asarray(blurred, np.float32)
    relief: np.ndarray = np.clip(detail / detail.std(), -2.5, 2.5)
    return relief


def _texture(rng: np.random.Generator, size: int, part: Part) -> np.ndarray:
    """A window of a photograph, one to three times as large as the image, mirrored or turned: float32, (S, S, 1)."""
    relief = _relief(photos.TEXTURES[rng.integers(len(photos.TEXTURES))], part)
    height, width = relief.shape
    side = min(int(size * rng.uniform(1, 3)), height, width)
    steps = np.arange(size) * side // size
    rows, columns = steps + rng.integers(height - side + 1), steps + rng.integers(width - side + 1)
    window = relief[rows[:, None], columns]
    turn = rng.integers(8)  # the eight ways to lay a square
    window = window[:: 1 if turn & 1 else -1, :: 1 if turn & 2 else -1]
    return np.expand_dims(window.T if turn & 4 else window, 2)


def _cover(rng: np.random.Generator, label: int, size: int) -> np.ndarray:
    """How much of each pixel the silhouette covers after a random affine map: float32 in [0, 1], (size, size, 1)."""
    angle, radius = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.3, 0.46)
    stretch, shear = np.exp(rng.uniform(-0.25, 0.25)), rng.uniform(-0.2, 0.2)
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius
    points = (np.arange(2 * size, dtype=np.float32) + 0.5) / 2 - size / 2  # two by two in each pixel
    shift_x, shift_y = size * rng.uniform(-0.2, 0.2, 2)
    x, y = points[None, :] - np.float32(shift_x), points[:, None] - np.float32(shift_y)

    u = x * np.float32(cos * stretch) + y * np.float32(sin * stretch)
    v = x * np.float32(-sin / stretch) + y * np.float32(cos / stretch) + np.float32(shear) * u
    masks = _masks()
    half, last = _RESOLUTION / 2, masks.shape[1] - 1
    column = (u * half + (half + 1)).clip(0, last).astype(np.intp)
    row = (v * half + (half + 1)).clip(0, last).astype(np.intp)
    inside = masks[label][row, column]
    whole: np.ndarray = inside[::2, ::2] + inside[1::2, ::2] + inside[::2, 1::2] + inside[1::2, 1::2]
    return 0.25 * whole[..., None]


@functools.cache
def _masks() -> np.ndarray:
    """The silhouettes within a margin of zeros: float32, (10, R + 2, R + 2)."""
    axis = (np.arange(_RESOLUTION) + 0.5) / (_RESOLUTION / 2) - 1
    x, y = np.meshgrid(axis, axis)
    return np.pad(silhouettes(x, y), ((0, 0), (1, 1), (1, 1))).astype(np.float32)


def silhouettes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which points lie inside each of `CLASSES`: bool, (10, *x.shape); x and y run from -1 to 1, y downwards."""
    radius, angle = np.hypot(x, y), np.arctan2(x, -y)
    heart_x, heart_y = 1.15 * x, 0.1 - 1.15 * y
    heart_r = heart_x**2 + heart_y**2 - 0.45
    return np.stack(
        [
            radius < 0.8,
            (radius > 0.5) & (radius < 0.85),
            radius * np.cos(angle % (2 * np.pi / 3) - np.pi / 3) < 0.95 * np.cos(np.pi / 3),
            np.maximum(abs(x), abs(y)) < 0.68,
            _star(radius, angle, points=5, inner=0.38),
            (np.minimum(abs(x), abs(y)) < 0.28) & (np.maximum(abs(x), abs(y)) < 0.9),
            (radius < 0.85) & (np.hypot(x - 0.42, y) > 0.62),
            heart_r**3 < heart_x**2 * heart_y**3,
            (abs(x) < 0.92) & (abs(y) < 0.25),
            ((abs(x + 0.5) < 0.25) & (abs(y) < 0.8)) | ((abs(y - 0.55) < 0.25) & (abs(x) < 0.75)),
        ]
    )


def _star(radius: np.ndarray, angle: np.ndarray, points: int, inner: float) -> np.ndarray:
    """Inside a star with tips at radius 0.95, one of them at angle 0, and notches at radius `inner`."""
    half = np.pi / points
    from_tip = abs((angle + half) % (2 * half) - half)  # 0 at a tip, `half` at a notch
    x, y = radius * np.cos(from_tip), radius * np.sin(from_tip)
    notch_x, notch_y = inner * np.cos(half), inner * np.sin(half)
    inside: np.ndarray = (x - 0.95) * notch_y < (notch_x - 0.95) * y  # on the inner side of the line from tip to notch
    return inside
