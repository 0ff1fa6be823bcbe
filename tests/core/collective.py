"""What two processes compute together, in a module that they can import."""

from __future__ import annotations

import torch
import torch.distributed as dist
from contrast import Pairs, Tower
from scaled import Weights, engine
from torch.optim import SGD

from unlabel.engine import Engine, average
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


def contrasted(chunk: int | None) -> list[float]:
    """The averaged gradient of a contrastive loss of eight samples, of which each process has its part."""
    task, here = Pairs(Tower(dropout=0.0), chunk=chunk).double(), Engine("cpu", "fp32")
    samples = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    task.loss({"x": samples.chunk(here.world)[here.rank]})["loss"].backward()
    gradients = [parameter.grad for parameter in task.parameters()]
    average(gradients, here.world)
    return torch.cat([gradient.flatten() for gradient in gradients]).tolist()
