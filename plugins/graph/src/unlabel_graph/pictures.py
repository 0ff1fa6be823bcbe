"""Pictures of representations."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unlabel.show import drawing

__all__ = ["scatter"]


def scatter(points: Tensor, labels: Tensor) -> np.ndarray:
    """A map of representations: their first two principal components, one dot a node; hubs lie far out, on the edge.

    Args:
        points: float (N, D).
        labels: int64 (N,): colour; -1 is grey, and drawn below the others.

    Returns:
        uint8 (480, 480, 3).
    """
    centred = (points - points.mean(dim=0)).double().cpu()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return drawing.scatter((centred @ vectors[:, -2:].flip(1)).numpy(), labels.cpu().numpy())
