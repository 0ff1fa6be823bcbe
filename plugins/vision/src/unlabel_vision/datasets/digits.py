"""Digits: the 1,797 handwritten digits that scikit-learn carries, 8 x 8 pixels, in ten classes.

Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998 (its test part). Small enough to overfit in seconds; raw pixels already classify it, so a better
encoder shows little: for seeing that everything runs, not for comparing methods.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from PIL import Image

from unlabel import data
from unlabel.data import Dataset, Subset
from unlabel.errors import UsageError
from unlabel.task import Sample
from unlabel_vision.datasets.image_dataset import ImageDataset

__all__ = ["Digits"]


class Digits(ImageDataset):
    """Handwritten digits as grey RGB images, with labels.

    Args:
        image_size: side in pixels; the 8 x 8 originals are enlarged by bilinear interpolation.
        holdout: share of each class held out for testing.
    """

    labels: np.ndarray
    classes = tuple("0123456789")

    def __init__(self, *, image_size: int = 32, holdout: float = 0.2):
        if image_size < 8:
            raise UsageError(f"image_size {image_size} is smaller than the digits, which are 8 x 8")
        if not 0 < holdout < 1:
            raise UsageError(f"holdout {holdout} is outside (0, 1): 0.2 keeps a fifth of the digits for testing")
        self.image_size, self.holdout = image_size, holdout
        self.labels = _load(image_size)[1]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Sample:
        pictures, labels = _load(self.image_size)
        return {"image": pictures[index].copy(), "label": int(labels[index])}

    def name_of(self, index: int) -> str:
        return f"digit {index}"

    def split(self, name: str) -> Dataset | None:
        train, test = data.holdout(self.labels, len(self), self.holdout)
        return {"train": Subset(self, train), "test": Subset(self, test)}.get(name)

    def info(self) -> dict[str, Any]:
        counts = np.bincount(self.labels).tolist()
        return {
            "kind": "digits",
            "samples": len(self),
            "classes": dict(zip(self.classes, counts, strict=True)),
            "sizes": {"count": len(self), "width": [self.image_size] * 3, "height": [self.image_size] * 3},
        }


@functools.lru_cache(maxsize=2)
def _load(image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """All images, uint8 (1797, S, S, 3), and labels, int64 (1797,); once per process."""
    from sklearn.datasets import load_digits

    digits, labels = load_digits(return_X_y=True)
    grey = np.rint(digits.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    side = (image_size, image_size)
    large = np.stack([np.asarray(Image.fromarray(digit).resize(side, Image.Resampling.BILINEAR)) for digit in grey])
    return large[..., None].repeat(3, axis=3), labels.astype(np.int64)
