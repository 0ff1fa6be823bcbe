"""Drawing with arrays alone, for what is shown while a run trains."""

from __future__ import annotations

import numpy as np

__all__ = ["halved"]


def halved(picture: np.ndarray) -> np.ndarray:
    """Half as many rows and columns, each the mean of two by two; an odd last one is left out.

    Args:
        picture: uint8, (H, W, 3), H and W at least 2.
    """
    rows, columns = picture.shape[0] // 2, picture.shape[1] // 2
    sums = picture[: 2 * rows : 2, : 2 * columns].astype(np.uint16) + picture[1 : 2 * rows : 2, : 2 * columns]
    means: np.ndarray = ((sums[:, ::2] + sums[:, 1::2] + 2) // 4).astype(np.uint8)
    return means
