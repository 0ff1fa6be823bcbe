"""What datasets share whose samples are drawn on demand: as many as asked for, and a test part of other samples."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal, Self

import numpy as np

from unlabel_vision.datasets.image_dataset import ImageDataset

__all__ = ["Drawn", "Part"]

Part = Literal["train", "test"]


class Drawn(ImageDataset):
    """Square samples made from their index, the seed and the part they belong to.

    A subclass defines `__getitem__`, which draws from `part`, `seed` and the index alone.

    Args:
        side: of the samples in pixels.
        count: number of training samples.
        seed: another number gives other samples.

    Attributes:
        part: ``"train"`` or ``"test"``.
        size: number of samples of this part.
        labels: with `classes`, these in turn.
    """

    kind: ClassVar[str]
    """What ``unlabel inspect`` calls such data."""

    for_a_test: ClassVar[int] = 4
    """Training samples for each test sample."""

    def __init__(self, side: int, count: int, seed: int):
        self.side, self.count, self.seed = side, count, seed
        self.take("train", count)

    def take(self, part: Part, size: int) -> None:
        """Become `size` samples of `part`."""
        self.part, self.size = part, size
        if self.classes is not None:
            self.labels = np.arange(size, dtype=np.int64) % len(self.classes)

    def __len__(self) -> int:
        return self.size

    @property
    def tests(self) -> int:
        """Number of test samples."""
        return self.count // self.for_a_test

    def split(self, name: str) -> Self | None:
        if name == "train":
            return self
        if name != "test":
            return None
        other = copy.copy(self)
        other.take("test", self.tests)
        return other

    def info(self) -> dict[str, Any]:
        found = {
            "kind": self.kind,
            "samples": len(self),
            "splits": {"train": self.count, "test": self.tests},
            "sizes": {"count": len(self), "width": [self.side] * 3, "height": [self.side] * 3},
        }
        if self.classes is not None and self.labels is not None:
            counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
            found["classes"] = dict(zip(self.classes, counts, strict=True))
        return found
