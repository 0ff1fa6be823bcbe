"""All randomness as a function of position, never of history.

A training step draws from torch's global generator after `seed(run, stage, step, rank)`. A sample
draws from numbers hashed from `key = (seed, epoch, index)`. So there is no random state to save:
resuming at step *n* gives the numbers step *n* would have had, with any number of workers, and the
per-sample draws do not depend on how samples are spread over processes either.

The hash is SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014),
written for Python integers, and for whole tensors of keys at once on any device.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["generator", "key", "keys", "mix", "normal", "permutation", "seed", "uniform"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLY_1 = 0xBF58476D1CE4E5B9
_MULTIPLY_2 = 0x94D049BB133111EB


def _signed(value: int) -> int:
    """The same 64 bits as a signed integer, which is what int64 tensors hold."""
    return value - (1 << 64) if value >= (1 << 63) else value


def _scramble(value: int) -> int:
    value = (value + _GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MULTIPLY_1) & _MASK
    value = ((value ^ (value >> 27)) * _MULTIPLY_2) & _MASK
    return value ^ (value >> 31)


def mix(*numbers: int) -> int:
    """Hash integers into one integer in [0, 2**63); order matters, and every bit of input counts."""
    state = 0
    for number in numbers:
        state = _scramble(state ^ (number & _MASK))
    return state >> 1


def seed(*numbers: int) -> None:
    """Seed torch's global generators (CPU, and every initialised accelerator) and Python's `random`.

    `torch.manual_seed` costs 90 us a call on a CUDA build because it also queues work for devices that
    were never used; the default generator alone costs 1 us.
    """
    value = mix(*numbers)
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed(value)
    random.seed(value)


def generator(*numbers: int) -> np.random.Generator:
    """A NumPy generator for these numbers alone: what a sample's transform draws from."""
    return np.random.Generator(np.random.Philox(key=mix(*numbers)))


def key(run: int, epoch: int, index: int) -> int:
    """The key of one sample in one epoch, in [0, 2**63); the loader puts it into every batch as `"key"`."""
    return mix(run, epoch, index, 0x5A)


def keys(run: int, epochs: Tensor, indices: Tensor) -> Tensor:
    """`key` of many samples at once: int64, (N,), from int64 (N,) epochs and indices, on their device."""
    state = _scramble_tensor(epochs ^ _signed(_scramble(run & _MASK)))
    return _shift(_scramble_tensor(_scramble_tensor(state ^ indices) ^ 0x5A), 1)


def permutation(count: int, *numbers: int) -> np.ndarray:
    """A random order of ``range(count)``: int64, shape (count,)."""
    return generator(*numbers).permutation(count)


def _shift(value: Tensor, bits: int) -> Tensor:
    """Logical (not sign-extending) right shift of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _scramble_tensor(value: Tensor) -> Tensor:
    value = value + _signed(_GOLDEN)
    value = (value ^ _shift(value, 30)) * _signed(_MULTIPLY_1)
    value = (value ^ _shift(value, 27)) * _signed(_MULTIPLY_2)
    return value ^ _shift(value, 31)


def _bits(keys: Tensor, shape: Sequence[int], stream: int) -> Tensor:
    """Hash every (key, position) pair: int64, shape (N, *shape)."""
    count = math.prod(shape)
    position = torch.arange(count, device=keys.device, dtype=torch.int64)
    start = _scramble_tensor(keys ^ _signed(_scramble(stream)))
    return _scramble_tensor(start[:, None] + position * _signed(_GOLDEN)).reshape(len(keys), *shape)


def uniform(keys: Tensor, shape: Sequence[int] = (), stream: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) that depend on each sample's key alone.

    Args:
        keys: int64, (N,): the batch's ``"key"``.
        shape: shape per sample.
        stream: another number gives independent draws for the same keys (masks, colours, ...).

    Returns:
        float32, (N, *shape), on the device of `keys`; 24 random bits each.
    """
    return _shift(_bits(keys, shape, stream), 40).to(torch.float32) * 2.0**-24


def normal(keys: Tensor, shape: Sequence[int] = (), stream: int = 0) -> Tensor:
    """Standard normal numbers that depend on each sample's key alone; see `uniform`."""
    pair = uniform(keys, (2, *shape), stream)
    radius = torch.sqrt(-2.0 * torch.log1p(-pair[:, 0]))  # 1 - u is in (0, 1], so the log is finite
    return radius * torch.cos(2.0 * math.pi * pair[:, 1])
