"""HuggingFace: images of a `datasets` folder on disk or of Parquet files, through pyarrow alone.

Nothing is downloaded and no code of the dataset is run; see `unlabel.data.sources.columns`.
"""

from __future__ import annotations

from pathlib import Path

from unlabel.data.sources import columns
from unlabel_vision import images
from unlabel_vision.datasets.stored import IMAGES, StoredImages

__all__ = ["HuggingFace"]


class HuggingFace(StoredImages):
    """Images of a folder written by ``datasets``' ``save_to_disk``, or of one or many ``.parquet`` or ``.arrow`` files.

    Args:
        path: the folder or file.
        split: use this split alone, undivided; by default train, validation and test become the parts.
        image: column of the images: encoded bytes, ``{"bytes", "path"}``, or nested 0 to 255; by default found.
        label: column of the labels, numbers or words; by default found.
        holdout: share of each class held out for testing where classes are known but no test split exists.
        shortest: the short side that is needed; larger JPEGs are decoded at 1/2, 1/4 or 1/8 size, much faster.
        min_size: images with a shorter short side are set aside as bad samples.
        max_pixels: images of more pixels are set aside as bad samples, before they are decoded.

    Raises:
        UsageError: pyarrow is not installed, the path is missing or damaged, or a column is not there or of no use.
    """

    fallback = True

    def __init__(
        self,
        path: str | Path,
        *,
        split: str | None = None,
        image: str | None = None,
        label: str | None = None,
        holdout: float = 0.2,
        shortest: int | None = None,
        min_size: int = 8,
        max_pixels: int = images.MAX_PIXELS,
    ):
        path = Path(path).expanduser()
        rows = columns.find(path, IMAGES, split=split, column=image, label=label)
        super().__init__(path, rows, holdout=holdout, shortest=shortest, min_size=min_size, max_pixels=max_pixels)
        self.kind = "huggingface"

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A ``save_to_disk`` folder, or Parquet or Arrow files, with a column of images. Says yes to such files when
        pyarrow is missing, so that the user learns of it."""
        return columns.claims(path, IMAGES)
