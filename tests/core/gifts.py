"""Optimizers and schedules as somebody else's package has them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Adan(Optimizer):
    """Three momenta (Xie et al., arXiv 2208.06677), and a counter that is a number of Python.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        betas: shares of the new in each momentum.
        eps: added to the denominator.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float, float] = (0.02, 0.08, 0.01),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state |= {"step": 0, "first": torch.zeros_like(parameter), "change": torch.zeros_like(parameter)}
            state |= {"second": torch.zeros_like(parameter), "before": gradient.clone(), "scale": 1.0 / 3.0}
        state["step"] += 1
        b1, b2, b3 = group["betas"]
        change = gradient - state["before"]
        state["first"].lerp_(gradient, b1)
        state["change"].lerp_(change, b2)
        state["second"].lerp_((gradient + (1 - b2) * change).square(), b3)
        state["before"].copy_(gradient)
        state["scale"] = math.sqrt(1 - (1 - b3) ** state["step"])
        along = (state["first"] + (1 - b2) * state["change"]) / (state["second"].sqrt() / state["scale"] + group["eps"])
        parameter.sub_(group["lr"] * along).div_(1 + group["lr"] * group["weight_decay"])


def sawtooth(step: float, horizon: float, *, start: float, warmup: float = 0, teeth: int = 4) -> float:
    """Falls to nothing, and starts again."""
    return start * (1 - (step - warmup) * teeth / (horizon - warmup) % 1)


def without_start(step: float, horizon: float) -> float:
    """No schedule."""
    return 1.0


def failing(step: float, horizon: float, *, start: float, warmup: float = 0) -> float:
    """Divides by what is left."""
    return start / (horizon - step)


class Plain(Optimizer):
    """Has no weight decay."""

    def __init__(self, params: Any, lr: float = 1e-3) -> None:
        super().__init__(params, {"lr": lr})
