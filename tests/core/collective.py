"""What two processes compute together, in a module that they can import."""

from __future__ import annotations

import torch
import torch.distributed as dist
from scaled import Weights, engine
from torch.optim import SGD

from unlabel.recipe import Stage


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


def scaled(factors: list[float]) -> tuple[list[float], float]:
    """A weight and the loss scale after an update whose gradient is this process's factor, under the fp16 scaler."""
    task, scaling = Weights(1), engine()
    optimizer = SGD(task.parameters(), lr=1.0)
    scaling.backward((task.weights[0] * factors[dist.get_rank()]).sum())
    scaling.update(task, optimizer, Stage(steps=1))
    return task.weights[0].tolist(), scaling.scaler.get_scale()
