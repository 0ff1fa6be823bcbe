"""What all datasets of images have in common."""

from __future__ import annotations

from unlabel.data import Dataset
from unlabel.show.media import Picture
from unlabel.task import Sample

__all__ = ["ImageDataset"]


class ImageDataset(Dataset):
    """A dataset whose samples hold ``image``: uint8, (H, W, 3)."""

    def show(self, sample: Sample) -> Picture:
        """The image, of several the first."""
        return Picture(sample["image"])
