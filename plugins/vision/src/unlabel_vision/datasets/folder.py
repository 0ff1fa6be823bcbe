"""Folder: any folder of images, a zip archive of one, or an .npz of images. Labels are never needed.

Files may lie in any nesting. Folder names that look like parts (``train``, ``test`` ...) or classes become
splits and labels for probes, see `unlabel.data.sources.layout`. What is no image is ignored, and counted in `info()`.
"""

from __future__ import annotations

from pathlib import Path

from unlabel.data.sources import listing
from unlabel_vision import images
from unlabel_vision.datasets.stored import IMAGES, StoredImages

__all__ = ["Folder"]


class Folder(StoredImages):
    """Images of a folder, a zip archive, or an .npz file.

    Args:
        path: the folder (a folder holding nothing but one zip archive, or .npz files, stands for these), the
            ``.zip``, or the ``.npz``: uint8 arrays ``images`` (N, H, W) or (N, H, W, 3) with optional ``labels``,
            or ``jpeg`` (files one after another) with ``offsets``; names may carry a part, as in ``train_images``.
        holdout: share of each class held out for testing where classes are known but no test folder exists.
        shortest: the short side that is needed; larger JPEGs are decoded at 1/2, 1/4 or 1/8 size, much faster.
        min_size: images with a shorter short side are set aside as bad samples.
        max_pixels: images of more pixels are set aside as bad samples, before they are decoded.

    Raises:
        UsageError: the path is missing, unreadable, or holds no images; says what was found instead.
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
        path = Path(path).expanduser()
        files = listing.find(path, IMAGES)
        super().__init__(path, files, holdout=holdout, shortest=shortest, min_size=min_size, max_pixels=max_pixels)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A zip with an image, an .npz with images, or a folder whose first thousand files are mostly images."""
        return listing.claims(path, IMAGES)
