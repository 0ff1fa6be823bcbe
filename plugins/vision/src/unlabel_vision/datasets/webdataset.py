"""WebDataset: images in tar shards, read at random positions and without unpacking.

A shard is a tar file whose members of one sample share a key: ``0001.jpg``, ``0001.cls``, ``0001.json``; see
`unlabel.data.sources.shards`.
"""

from __future__ import annotations

from pathlib import Path

from unlabel.data.sources import shards
from unlabel_vision import images
from unlabel_vision.datasets.stored import IMAGES, StoredImages

__all__ = ["WebDataset"]


class WebDataset(StoredImages):
    """Images of tar shards, in the order of shard names and of members.

    Labels come from ``.cls`` (a number or a word) or the ``"label"`` of ``.json``, if every sample has one.
    Shards named, or lying in folders named, train, val, test are parts.

    Args:
        path: a ``.tar``, a folder of them, or a pattern such as ``shards/train-{000..146}.tar`` or ``{a,b}.tar``.
        holdout: share of each class held out for testing where classes are known but no test shards exist.
        shortest: the short side that is needed; larger JPEGs are decoded at 1/2, 1/4 or 1/8 size, much faster.
        min_size: images with a shorter short side are set aside as bad samples.
        max_pixels: images of more pixels are set aside as bad samples, before they are decoded.

    Raises:
        UsageError: a shard is missing, compressed or damaged, or no shard holds an image.
    """

    fallback = True

    def __init__(
        self,
        path: str | Path,
        *,
        holdout: float = 0.2,
        shortest: int | None = None,
        min_size: int = 8,
        max_pixels: int = images.MAX_PIXELS,
    ):
        members = shards.find(path, IMAGES)
        super().__init__(
            Path(path), members, holdout=holdout, shortest=shortest, min_size=min_size, max_pixels=max_pixels
        )
        self.kind = "webdataset"

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A ``.tar``, a pattern of them, or a folder of them, the first of which begins with samples with an image."""
        return shards.claims(path, IMAGES)
