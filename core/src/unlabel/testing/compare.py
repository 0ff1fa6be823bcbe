"""Telling whether two things are the same, and if not, where they differ most."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["difference", "digests", "distance", "relative", "saved_tensors"]


def difference(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> str:
    """Where two named sets of tensors differ, in words; empty if they are the same to the bit."""
    if left.keys() != right.keys():
        return f"{', '.join(sorted(left.keys() ^ right.keys())[:3])} is in one of them only"
    differing = {name: largest(left[name], right[name]) for name in left if not same(left[name], right[name])}
    if not differing:
        return ""
    worst = max(differing, key=lambda name: differing[name])
    return f"{len(differing)} of {len(left)} differ, most of all {worst} (by {differing[worst]:.2g})"


def same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are the same to the bit; NaN is the same as NaN."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(left, right) or bool(((left == right) | (left.isnan() & right.isnan())).all())


def largest(left: Tensor, right: Tensor) -> float:
    """The largest absolute difference; infinite if the shapes differ."""
    if left.shape != right.shape:
        return float("inf")
    return float((left.double() - right.double()).abs().nan_to_num(float("inf")).max()) if left.numel() else 0.0


def relative(left: Tensor, right: Tensor) -> float:
    """The largest absolute difference, as a share of the largest absolute value of the first."""
    return largest(left, right) / max(float(left.abs().max()), 1e-30)


def distance(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """Euclidean distance of two named sets of arrays as a share of the length of the first, and where it is largest.

    Lengths below a thousandth an entry count as that: the rounding of next to nothing is no difference.
    """
    apart = {name: float(np.square(value.astype(np.float64) - right[name]).sum()) for name, value in left.items()}
    length = sum(float(np.square(value.astype(np.float64)).sum()) for value in left.values())
    floor = 1e-6 * sum(value.size for value in left.values())
    worst = max(apart, key=lambda name: apart[name], default="")
    return math.sqrt(sum(apart.values()) / max(length, floor, 1e-30)), worst


def digests(value: Any) -> dict[str, str]:
    """A fingerprint of each leaf of nested dictionaries, lists, arrays, tensors and numbers: path -> fingerprint."""
    if isinstance(value, Mapping):
        parts = {str(key): digests(entry) for key, entry in value.items()}
    elif isinstance(value, list | tuple):
        parts = {str(number): digests(entry) for number, entry in enumerate(value)}
    elif isinstance(value, Tensor) and value.layout != torch.strided:
        coordinates: Tensor = value.to_sparse().coalesce()
        parts = {"indices": digests(coordinates.indices()), "values": digests(coordinates.values())}
    else:
        return {"": _digest(value)}
    return {f"{name}.{rest}" if rest else name: digest for name, part in parts.items() for rest, digest in part.items()}


def saved_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """Task and optimizers of a checkpoint: file and name -> tensor."""
    files = {file: load_file(checkpoint / f"{file}.safetensors") for file in ("task", "optimizers")}
    return {f"{file}: {name}": value for file, state in files.items() for name, value in state.items()}


def _digest(value: Any) -> str:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).contiguous().numpy()
    if isinstance(value, np.ndarray | np.generic):
        content = f"{value.dtype} {value.shape} ".encode() + np.ascontiguousarray(value).tobytes()
    else:
        content = repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]
