"""Optimizers as a stage asks for them: which class, over which parameter groups, at which rate and weight decay.

`build` makes one, `set_schedules` sets what an update is due. What there is, is in `unlabel.optim.offers`; the rest is
in a module each: `parameter_groups`, `schedules` (the stage's), `with_warmup` (the same as functions), `lars`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from unlabel.errors import UsageError, nearest, one_line
from unlabel.optim import offers
from unlabel.optim.lars import LARS
from unlabel.optim.parameter_groups import Layered, groups, layer_scale
from unlabel.optim.schedules import learning_rate, set_lr, set_schedules, weight_decay
from unlabel.optim.with_warmup import constant, linear, polynomial, step_decay, warmup_cosine
from unlabel.recipe import Ref

if TYPE_CHECKING:
    from unlabel.recipe import Stage
    from unlabel.task import Task

__all__ = [
    "LARS",
    "Layered",
    "build",
    "check_names",
    "constant",
    "groups",
    "layer_scale",
    "learning_rate",
    "linear",
    "polynomial",
    "set_lr",
    "set_schedules",
    "step_decay",
    "warmup_cosine",
    "weight_decay",
]

_KERNELS = {"fused", "foreach", "capturable", "differentiable"}
"""Options that choose how an update is computed."""


def build(task: Task, stage: Stage, name: str = "main") -> Optimizer:
    """The optimizer a stage asks for, over the trainable parameters of a task.

    Adam, AdamW and SGD use fused kernels where they exist (CPU and CUDA), unless the stage's options say which to
    use. "lars" adapts and decays matrices only, with the joint denominator and no eps; `Stage.decay_vectors` extends
    both to every tensor.

    Args:
        task: the module; see `groups` for which parameters count.
        stage: optimizer, optimizers, lr, weight_decay, groups, layer_decay and decay_vectors are used.
        name: which optimizer it is, for a task with several: what `Stage.optimizers` has under this name is built,
            else `Stage.optimizer`.

    Returns:
        Optimizer at the peak learning rate; `set_schedules` sets rate and weight decay for a step.

    Raises:
        UsageError: unknown optimizer (with the nearest names), options or parameters that it refuses, and what
            `groups` raises.
    """
    ref = stage.optimizer_ref(name)
    kind = offers.own_optimizers().get(ref.name.lower()) or stage.third_party.get(ref.name)
    if kind is None:
        raise offers.not_looked_up(ref.name)
    parameter_groups = groups(task, stage)
    options = {"lr": stage.peak_lr, "weight_decay": stage.first_weight_decay, **_own_options(ref, stage), **ref.options}
    if kind in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD) and not options.keys() & _KERNELS:
        options["fused"] = _fusible(p for group in parameter_groups for p in group["params"]) or None
    if "weight_decay" not in inspect.signature(kind).parameters:
        del options["weight_decay"]
    try:
        return cast(Optimizer, kind(parameter_groups, **options))
    except (TypeError, ValueError, RuntimeError) as error:  # they check their numbers, and some their parameters
        raise UsageError(f"stage {stage.name!r}: {_reason(error)}") from error


def _own_options(ref: Ref, stage: Stage) -> dict[str, Any]:
    """What an optimizer gets unless the recipe says otherwise, where that is not its class's default."""
    if ref.name.lower() != "lars":
        return {}
    # The denominator has no eps in this variant: 1e-8 would already move the ratio of small gradients.
    return {"eps": 0.0, "adapt": "all" if stage.decay_vectors else "matrices"}


def _reason(error: Exception) -> str:
    text = one_line(error).partition(": ")[2]
    if "only supports 2D parameters" not in text:
        return text
    return f"{text}; give the others to another optimizer: a task with several builds each over its own parameters"


def _fusible(parameters: Iterable[Tensor]) -> bool:
    return all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)


def check_names(stage: Stage, optimizers: Mapping[str, Optimizer]) -> None:
    """UsageError if the stage says something of an optimizer that the task does not have."""
    for name in stage.optimizers:
        if name not in optimizers:
            hint = nearest(name, optimizers) or f"; it has {', '.join(optimizers)}"
            raise UsageError(f"stage {stage.name!r}: the task has no optimizer {name!r}{hint}")
