"""Numbers that a loss multiplies by, on the device of what it multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["constant"]


def constant(values: Sequence[Any] | float, like: Tensor) -> Tensor:
    """Numbers (or nested lists of them) as a tensor of the type and on the device of another one.

    The numbers are those of ``like.new_tensor(values)``, which would first wait until a GPU has done all that it was
    asked for: that costs an update the time in which the next operations could have been queued.
    """
    return torch.tensor(values, dtype=like.dtype).to(like.device, non_blocking=like.device.type != "cpu")
