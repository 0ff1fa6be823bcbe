"""LARS: momentum SGD in which the step of each tensor is proportional to the length of the tensor itself.

You, Gitman, Ginsburg, "Large Batch Training of Convolutional Networks", 2017, arXiv 1708.03888.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from unlabel.errors import UsageError

__all__ = ["LARS"]


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling (You et al., arXiv 1708.03888): momentum SGD in which the step of
    each tensor is proportional to the length of the tensor itself.

    For an adapted tensor w with gradient g and weight decay b::

        u = g + b * w;   u *= trust * |w| / denominator;   v = momentum * v + u;   w -= lr * v

    Published code differs in which tensors are adapted and in the denominator, and a recipe's learning
    rate belongs to one variant, so each choice is explicit. Where |w| or the denominator is zero the
    factor is 1.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: of the velocity; the learning rate is applied outside of it.
        weight_decay: b.
        trust_coefficient: `trust` above; 0.001 mostly, 0.02 with `clip_lr`.
        adapt: which tensors: "matrices": those of two or more dimensions, while the others get neither
            adaptation nor weight decay (He et al., arXiv 2111.06377); "decayed": every tensor of a group
            with weight decay (Grill et al., arXiv 2006.07733, and most libraries); "all": every tensor.
        denominator: "joint": ``|g + b * w|``; "sum": ``|g| + b * |w|``; they are the same without decay.
        eps: added to the denominator.
        clip_lr: never step further than plain SGD would: the factor is at most 1 after division by the
            learning rate (``min(factor / lr, 1)``).
        nesterov: look ahead along the velocity.

    Raises:
        UsageError: an unknown `adapt` or `denominator`.
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt: Literal["matrices", "decayed", "all"] = "matrices",
        denominator: Literal["joint", "sum"] = "joint",
        eps: float = 0.0,
        clip_lr: bool = False,
        nesterov: bool = False,
    ) -> None:
        if adapt not in ("matrices", "decayed", "all"):
            raise UsageError(f"adapt {adapt!r} is unknown: expected 'matrices', 'decayed' or 'all'")
        if denominator not in ("joint", "sum"):
            raise UsageError(f"denominator {denominator!r} is unknown: expected 'joint' or 'sum'")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt": adapt,
            "denominator": denominator,
            "eps": eps,
            "clip_lr": clip_lr,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure`, if given, computes the loss anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group)
        return loss

    def _update(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        steps = [cast(Tensor, p.grad) for p in parameters]
        adapting = [i for i, p in enumerate(parameters) if _is_adapted(p, group)]
        if adapting:
            scaled = _scaled([parameters[i] for i in adapting], [steps[i] for i in adapting], group)
            for i, step in zip(adapting, scaled, strict=True):
                steps[i] = step

        velocities = []
        for parameter in parameters:
            state = self.state[parameter]
            if "velocity" not in state:
                state["velocity"] = torch.zeros_like(parameter)
            velocities.append(state["velocity"])
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, steps)
        if group["nesterov"]:
            steps = list(torch._foreach_add(steps, velocities, alpha=group["momentum"]))
        torch._foreach_add_(parameters, steps if group["nesterov"] else velocities, alpha=-group["lr"])


def _is_adapted(parameter: Tensor, group: Mapping[str, Any]) -> bool:
    if group["adapt"] == "matrices":
        return parameter.ndim > 1
    return bool(group["adapt"] == "all" or group["weight_decay"] > 0)


def _scaled(parameters: list[Tensor], gradients: list[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
    """Gradients with weight decay, scaled by the trust ratio; nothing is read back from the device."""
    decay = group["weight_decay"]
    weight = torch.stack(list(torch._foreach_norm(parameters)))
    steps = list(torch._foreach_add(gradients, parameters, alpha=decay))
    if group["denominator"] == "joint":
        below = torch.stack(list(torch._foreach_norm(steps)))
    else:
        below = torch.stack(list(torch._foreach_norm(gradients))) + decay * weight
    ratio = group["trust_coefficient"] * weight / (below + group["eps"])
    if group["clip_lr"]:
        ratio = (ratio / group["lr"]).clamp(max=1.0)
    ratio = torch.where((weight > 0) & (below > 0), ratio, 1.0)
    torch._foreach_mul_(steps, list(ratio.unbind()))
    return steps
