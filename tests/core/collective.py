"""What two processes compute together, in a module that they can import."""

from __future__ import annotations

import torch
import torch.distributed as dist


def summed(value: float) -> tuple[int, int, float]:
    """Rank, number of processes, and the sum of `value` plus rank over all of them."""
    total = torch.tensor(value + dist.get_rank())
    dist.all_reduce(total)
    return dist.get_rank(), dist.get_world_size(), float(total)


def failing() -> float:
    """Raises in the second process, while the first waits for it."""
    if dist.get_rank() == 1:
        raise KeyError("no second")
    return summed(0.0)[2]
