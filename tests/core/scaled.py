"""An engine with the loss scaler of fp16, on a CPU, and weights whose gradients are known."""

from __future__ import annotations

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

from unlabel.engine import Engine
from unlabel.task import Task

SCALE = 1024.0


def engine(growth_interval: int = 2000) -> Engine:
    """Its scale starts at `SCALE`, is halved by an infinite gradient, and doubled after `growth_interval` good ones."""
    made = Engine("cpu", "fp32")  # fp16 itself is refused on a CPU
    made.precision = "fp16"
    made.scaler = GradScaler("cpu", init_scale=SCALE, growth_interval=growth_interval)
    return made


class Weights(Task):
    """Vectors of ones."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.ones(2)) for _ in range(count))
