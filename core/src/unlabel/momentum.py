"""Momentum copies of networks, how their momentum changes over a run, and queues of past features."""

from __future__ import annotations

import copy
import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel.errors import UsageError

__all__ = ["Queue", "cosine", "teacher", "update"]


def teacher(student: nn.Module) -> nn.Module:
    """A copy of a network with equal weights, none of them trainable: what `update` moves."""
    return copy.deepcopy(student).requires_grad_(False)


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, momentum: float, *, buffers: bool = True) -> None:
    """Move the teacher towards the student, in place: ``t = m * t + (1 - m) * s``.

    Args:
        teacher: a copy of the student's networks: same modules in the same order.
        student: where the weights come from; not changed.
        momentum: m in [0, 1]; 1 leaves the weights as they are, 0 copies them, both exactly.
        buffers: copy buffers (running statistics, counters); False leaves the teacher's own.

    Raises:
        UsageError: if `momentum` is outside [0, 1] or the networks have not as many tensors.
    """
    if not 0.0 <= momentum <= 1.0:
        raise UsageError(f"momentum {momentum} is outside [0, 1]; published values lie between 0.99 and 1")
    slow: list[Tensor] = list(teacher.parameters())
    fast: list[Tensor] = list(student.parameters())
    if len(slow) != len(fast):
        raise UsageError(
            f"the teacher has {len(slow)} parameters and the student {len(fast)}: is one a copy of the other?"
        )
    if slow:
        torch._foreach_lerp_(slow, fast, 1.0 - momentum)  # He et al. (1911.05722), eq. 2
    if buffers:
        pairs = list(zip(teacher.buffers(), student.buffers(), strict=True))
        for dtype in {mine.dtype for mine, _ in pairs}:  # one kernel a dtype, instead of one a buffer
            same = [pair for pair in pairs if pair[0].dtype == dtype]
            torch._foreach_copy_([mine for mine, _ in same], [theirs for _, theirs in same])


def cosine(
    step: int, steps: int, start: float, end: float = 1.0, *, reached: Literal["after", "at_last"] = "after"
) -> float:
    """Momentum that rises from `start` to `end` along half a cosine (Grill et al., arXiv 2006.07733, section 3.2).

    Args:
        step: k, from 0.
        steps: K, length of the run.
        start: momentum at step 0.
        end: momentum at the end.
        reached: whether `end` is reached after the last step, k = K, as published ("after"), or at the
            last step, k = K - 1 ("at_last"), as some libraries have it.

    Returns:
        ``end - (end - start) * (1 + cos(pi * k / K)) / 2``; `end` beyond.
    """
    last = steps if reached == "after" else steps - 1
    if step >= last:
        return end
    return end - (end - start) * (1.0 + math.cos(math.pi * step / last)) / 2.0


class Queue(nn.Module):
    """The features of the last batches, oldest overwritten first (He et al., arXiv 1911.05722).

    Starts with random directions, from torch's global generator. Everything is a buffer, so a resumed
    run continues with the same queue.

    Args:
        size: number of rows.
        dim: width of a row.
        indexed: remember the sample of each row, so that a contrast can leave a sample's own rows out.

    Attributes:
        rows: float32, (size, dim), each of length 1 to begin with.
        pointer: int64, (1,): where the next row goes.
        index: int64, (size,), of an indexed queue: the sample of each row, -1 to begin with.
    """

    rows: Tensor
    pointer: Tensor
    index: Tensor

    def __init__(self, size: int, dim: int, *, indexed: bool = False) -> None:
        super().__init__()
        self.register_buffer("rows", functional.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.int64))
        if indexed:
            self.register_buffer("index", torch.full((size,), -1))

    @torch.no_grad()
    def enqueue(self, features: Tensor, index: Tensor | None = None) -> None:
        """Write features over the oldest rows, as they are, going on at the start when the end is reached.

        Args:
            features: float, (N, dim), gathered from all processes if there are several. Of more than
                `size` rows the last ones stay.
            index: int64, (N,): the sample of each row; for an indexed queue.
        """
        size, count = len(self.rows), len(features)
        skipped = max(0, count - size)
        place = torch.arange(skipped, count, device=self.rows.device)
        row = (self.pointer + place) % size
        self.rows.index_copy_(0, row, features[skipped:].to(self.rows.dtype))
        if index is not None:
            self.index.index_copy_(0, row, index[skipped:])
        self.pointer.add_(count).remainder_(size)

    def extra_repr(self) -> str:
        """Size and width, for printing."""
        return f"size={len(self.rows)}, dim={self.rows.shape[1]}"
