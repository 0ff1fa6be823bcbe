"""Dropout whose random numbers cost little on a CPU.

Torch draws one number for each value there, in sequence, which took a seventh of a training step here. Sixteen random
bits decide a value just as well: four values share a draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["dropout", "scaled_mask"]

_LEVELS = 1 << 16


def dropout(values: Tensor, probability: float, training: bool) -> Tensor:
    """Set values to zero at random and scale the others up, as torch's function of that name does.

    On a CPU, the probability is rounded to a multiple of 2^-16 and the scale belongs to the rounded one, so the
    expectation is exact. Elsewhere, and under compilation, this is torch's own.

    Args:
        values: any shape.
        probability: of a zero, in [0, 1).
        training: leave everything as it is if not.
    """
    if not training or probability == 0:
        return values
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return functional.dropout(values, probability)
    return values * scaled_mask(values.shape, probability).to(values.dtype)


def scaled_mask(shape: Sequence[int], probability: float) -> Tensor:
    """What values are multiplied by: 0 with (about) that probability, else the scale. float32, on the CPU."""
    dropped = round(probability * _LEVELS)
    # compared straight into float32: a mask of bool, converted, took eight times as long
    keeps = torch.ge(_bits(shape), dropped - _LEVELS // 2, out=torch.empty(shape))
    return keeps.mul_(_LEVELS / (_LEVELS - dropped))


def _bits(shape: Sequence[int]) -> Tensor:
    """Random int16 of that shape, uniform over all of them."""
    count = math.prod(shape)
    draws = torch.randint(-(2**63), 2**63 - 1, ((count + 3) // 4,))
    return draws.view(torch.int16)[:count].view(shape)
