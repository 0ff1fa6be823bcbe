"""Heavy ball: an optimizer that rolls on."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer


class HeavyBall(Optimizer):
    """Gradient descent that rolls on.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        friction: what is lost of the velocity in an update.
        weight_decay: added to the gradient.
    """

    def __init__(self, params: Any, lr: float = 0.01, *, friction: float = 0.5, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "friction": friction, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                velocity = state.setdefault("velocity", torch.zeros_like(parameter)).mul_(1 - group["friction"])
                velocity.add_(parameter.grad).add_(parameter, alpha=group["weight_decay"])
                parameter.sub_(group["lr"] * velocity)
