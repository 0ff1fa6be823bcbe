"""Optimizers as a stage asks for them: parameter groups, layer-wise rates, LARS, schedules.

A schedule is a function of the step alone, so that resuming needs no scheduler state: the loop calls
`set_lr` before every update.
"""

from __future__ import annotations

import fnmatch
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from unlabel.errors import UsageError, nearest

if TYPE_CHECKING:
    from unlabel.recipe import Group, Stage
    from unlabel.task import Task

__all__ = [
    "LARS",
    "Layered",
    "build",
    "constant",
    "groups",
    "layer_scale",
    "learning_rate",
    "linear",
    "polynomial",
    "set_lr",
    "step_decay",
    "warmup_cosine",
]


@runtime_checkable
class Layered(Protocol):
    """What a task offers if `Stage.layer_decay` may be used with it.

    Attributes:
        layers: number of blocks of the encoder.
    """

    layers: int

    def layer_of(self, name: str) -> int:
        """Layer of a parameter: 0 for what comes before block 0, i + 1 for block i, `layers` + 1 for the rest."""
        ...


# --- schedules: pure functions of the step -------------------------------------------------------


def _warm(step: float, warmup: float, start: float, peak: float) -> float:
    return start + (peak - start) * step / warmup


def _done(step: float, horizon: float, warmup: float) -> float:
    """How much of what follows the warm-up is over, in [0, 1]."""
    return 1.0 if step >= horizon else (step - warmup) / (horizon - warmup)


def warmup_cosine(
    step: float, horizon: float, warmup: float = 0, start: float = 0.0, end: float = 0.0, peak: float = 1.0
) -> float:
    """Linear from `start` to `peak` over `warmup` steps, then half a cosine down to `end` at `horizon`.

    Args:
        step: updates done, from 0 (fractions allowed; any unit, if it is the same for all three).
        horizon: where the schedule ends; `end` beyond.
        warmup: length of the warm-up.
        start: value at step 0 if there is a warm-up.
        end: value at `horizon`.
        peak: value after the warm-up.
    """
    if step < warmup:
        return _warm(step, warmup, start, peak)
    return end + (peak - end) * 0.5 * (1.0 + math.cos(math.pi * _done(step, horizon, warmup)))


def constant(step: float, warmup: float = 0, start: float = 0.0, peak: float = 1.0) -> float:
    """Linear from `start` to `peak` over `warmup` steps, then `peak`; arguments as in `warmup_cosine`."""
    return _warm(step, warmup, start, peak) if step < warmup else peak


def linear(
    step: float, horizon: float, warmup: float = 0, start: float = 0.0, end: float = 0.0, peak: float = 1.0
) -> float:
    """Linear warm-up, then linear down to `end` at `horizon`; arguments as in `warmup_cosine`."""
    return polynomial(step, horizon, warmup, start, end, peak, power=1.0)


def polynomial(
    step: float,
    horizon: float,
    warmup: float = 0,
    start: float = 0.0,
    end: float = 0.0,
    peak: float = 1.0,
    *,
    power: float,
) -> float:
    """Linear warm-up, then ``end + (peak - end) * (1 - done) ** power``; arguments as in `warmup_cosine`."""
    if step < warmup:
        return _warm(step, warmup, start, peak)
    return float(end + (peak - end) * (1.0 - _done(step, horizon, warmup)) ** power)


def step_decay(
    step: float,
    horizon: float,
    warmup: float = 0,
    start: float = 0.0,
    peak: float = 1.0,
    *,
    milestones: Iterable[float],
    gamma: float,
) -> float:
    """Linear warm-up, then `peak` times `gamma` for every milestone passed; arguments as in `warmup_cosine`.

    Args:
        milestones: fractions of `horizon` (warm-up included); rounded to whole steps.
        gamma: factor at each milestone.
    """
    if step < warmup:
        return _warm(step, warmup, start, peak)
    return float(peak * gamma ** sum(step >= round(fraction * horizon) for fraction in milestones))


def learning_rate(stage: Stage, step: int) -> float:
    """The learning rate of a resolved stage at a step, for groups whose scale is 1.

    Between 0, `Stage.warmup_start_lr`, `Stage.peak_lr` and `Stage.min_lr` as the stage's schedule says;
    only the peak is scaled with the batch size.
    """
    horizon = cast(int, stage.horizon)  # the loop resolves stages before anything is built
    warm: dict[str, float] = {"warmup": stage.warmup, "start": stage.warmup_start_lr, "peak": stage.peak_lr}
    if stage.warmup_inclusive and step < stage.warmup:
        return _warm(step, max(1, stage.warmup - 1), stage.warmup_start_lr, stage.peak_lr)
    match stage.schedule:
        case "cosine":
            return warmup_cosine(step, horizon, end=stage.min_lr, **warm)
        case "constant":
            return constant(step, **warm)
        case "linear":
            return linear(step, horizon, end=stage.min_lr, **warm)
        case "polynomial":
            return polynomial(step, horizon, end=stage.min_lr, power=stage.power, **warm)
        case "step":
            return step_decay(step, horizon, milestones=stage.milestones, gamma=stage.gamma, **warm)


def set_lr(optimizers: Mapping[str, Optimizer], stage: Stage, step: int) -> None:
    """Set the learning rate of every group of every optimizer for the update after `step` updates.

    A group may hold ``"lr_scale"`` (multiplies the rate; 1 without) and ``"fixed_lr"`` (keeps the peak:
    no warm-up, no decay; False without), as those that `groups` makes do.
    """
    rate = learning_rate(stage, step)
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            base = stage.peak_lr if group.get("fixed_lr", False) else rate
            group["lr"] = base * group.get("lr_scale", 1.0)


# --- parameter groups ----------------------------------------------------------------------------


def layer_scale(layer: int, layers: int, decay: float) -> float:
    """Factor of a layer's learning rate: ``decay ** (layers + 1 - layer)`` (Bao et al., arXiv 2106.08254).

    Args:
        layer: 0 for what comes before block 0, i + 1 for block i, layers + 1 for what comes after.
        layers: number of blocks.
        decay: in (0, 1].
    """
    return float(decay ** (layers + 1 - layer))


def groups(task: Task, stage: Stage) -> list[dict[str, Any]]:
    """Sort the trainable parameters of a task into the groups an optimizer takes.

    Weight decay spares biases and everything of at most one dimension, unless `Stage.decay_vectors`.
    Among `Stage.groups` the last whose pattern matches a parameter's name counts; its weight decay
    replaces the stage's, and spares the same parameters. A shared parameter is taken once, under its
    first name. Frozen ones, and those with ``requires_grad=False``, are left out.

    Returns:
        One dict for each combination of ``lr_scale``, ``weight_decay`` and ``fixed_lr``, in the order of
        the task's parameters, with the tensors under ``params``.

    Raises:
        UsageError: if a pattern matches nothing, nothing is trainable, or the task knows no layers but
            the stage wants `layer_decay`.
    """
    named = dict(task.named_parameters())
    _check_patterns(stage.groups, named)
    scale_of = _layer_scales(task, stage.layer_decay)
    found: dict[tuple[float, float, bool], list[Tensor]] = {}
    for name, parameter in named.items():
        rules = [rule for rule in stage.groups if fnmatch.fnmatchcase(name, rule.pattern)]
        rule = rules[-1] if rules else None
        if not parameter.requires_grad or (rule is not None and rule.freeze):
            continue
        decay = stage.weight_decay if rule is None or rule.weight_decay is None else rule.weight_decay
        if not stage.decay_vectors and _spared(name, parameter):
            decay = 0.0
        scale = scale_of(name) * (rule.lr_scale if rule is not None else 1.0)
        fixed = rule is not None and rule.fixed_lr
        found.setdefault((scale, decay, fixed), []).append(parameter)
    if not found:
        raise UsageError(f"{type(task).__name__} has no trainable parameter in stage {stage.name!r}")
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay, "fixed_lr": fixed}
        for (scale, decay, fixed), parameters in found.items()
    ]


def _spared(name: str, parameter: Tensor) -> bool:
    """Whether weight decay leaves the parameter alone: vectors, scalars, and biases of any shape."""
    return parameter.ndim <= 1 or name.rpartition(".")[2] == "bias"


def _check_patterns(rules: Iterable[Group], named: Iterable[str]) -> None:
    names = list(named)
    for rule in rules:
        if not fnmatch.filter(names, rule.pattern):
            hint = nearest(rule.pattern, names) or f"; the first are {', '.join(names[:3])}"
            raise UsageError(f"pattern {rule.pattern!r} matches no parameter{hint}")


def _layer_scales(task: Task, decay: float | None) -> Callable[[str], float]:
    if decay is None:
        return lambda name: 1.0
    if not isinstance(task, Layered):
        raise UsageError(
            f"layer_decay={decay}: {type(task).__name__} does not say which layer a parameter belongs to "
            "(it has no `layers` and `layer_of`); leave layer_decay out"
        )
    return lambda name: layer_scale(task.layer_of(name), task.layers, decay)


# --- optimizers ----------------------------------------------------------------------------------


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
        chosen = [i for i, p in enumerate(parameters) if _adapted(p, group)]
        if chosen:
            adapted = _adapt([parameters[i] for i in chosen], [steps[i] for i in chosen], group)
            for i, step in zip(chosen, adapted, strict=True):
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


def _adapted(parameter: Tensor, group: Mapping[str, Any]) -> bool:
    if group["adapt"] == "matrices":
        return parameter.ndim > 1
    return bool(group["adapt"] == "all" or group["weight_decay"] > 0)


def _adapt(parameters: list[Tensor], gradients: list[Tensor], group: Mapping[str, Any]) -> list[Tensor]:
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


def _choices() -> dict[str, type[Optimizer]]:
    """Optimizer classes by lower-case name: LARS, and those of torch.optim with a rate and weight decay."""
    classes: dict[str, type[Optimizer]] = {"lars": LARS}
    for name, value in vars(torch.optim).items():
        if (
            isinstance(value, type)
            and issubclass(value, Optimizer)
            and {"lr", "weight_decay"} <= set(inspect.signature(value).parameters)
        ):
            classes[name.lower()] = value
    return classes


def build(task: Task, stage: Stage) -> Optimizer:
    """The optimizer a stage asks for, over the trainable parameters of a task.

    Adam, AdamW and SGD use fused kernels where they exist (CPU and CUDA). "lars" adapts and decays
    matrices only, with the joint denominator; `Stage.decay_vectors` extends both to every tensor. Another
    class of torch.optim gets those of the stage's fields that its constructor has a keyword for.

    Args:
        task: the module; see `groups` for which parameters count.
        stage: optimizer, lr, weight_decay, betas, eps, momentum, nesterov, trust_coefficient, groups,
            layer_decay and decay_vectors are used.

    Returns:
        Optimizer at the peak learning rate; `set_lr` sets it for a step.

    Raises:
        UsageError: unknown optimizer (with the nearest names), and what `groups` raises.
    """
    choices = _choices()
    name = stage.optimizer.lower()
    if name not in choices:
        hint = nearest(name, choices) or f"; there are {', '.join(choices)}"
        raise UsageError(f"optimizer {stage.optimizer!r} is unknown{hint}")
    parameter_groups = groups(task, stage)
    options: dict[str, Any] = {
        "lr": stage.peak_lr,
        "weight_decay": stage.weight_decay,
        "betas": stage.betas,
        "eps": stage.eps,
        "momentum": stage.momentum,
        "nesterov": stage.nesterov,
        "trust_coefficient": stage.trust_coefficient,
    }
    if name == "lars":
        # The denominator has no eps in this variant: 1e-8 would already move the ratio of small gradients.
        options |= {"eps": 0.0, "adapt": "all" if stage.decay_vectors else "matrices"}
    if name in ("adam", "adamw", "sgd"):
        options["fused"] = _fusible(p for group in parameter_groups for p in group["params"]) or None
    accepted = inspect.signature(choices[name]).parameters
    return choices[name](parameter_groups, **{key: value for key, value in options.items() if key in accepted})


def _fusible(parameters: Iterable[Tensor]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
