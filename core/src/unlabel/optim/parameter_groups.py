"""Parameter groups: which of a task's parameters are trained, at which share of the rate, with which weight decay."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from unlabel.errors import UsageError, nearest
from unlabel.recipe import Ref

if TYPE_CHECKING:
    from unlabel.recipe import Group, Stage
    from unlabel.task import Task

__all__ = ["Layered", "groups", "layer_scale"]


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
        the task's parameters, with the tensors under ``params``; with ``scheduled_decay`` those whose weight decay
        follows a schedule of the stage.

    Raises:
        UsageError: if a pattern matches nothing, nothing is trainable, or the task knows no layers but
            the stage wants `layer_decay`.
    """
    named = dict(task.named_parameters())
    _check_patterns(stage.groups, named)
    scale_of = _layer_scales(task, stage.layer_decay)
    scheduled = isinstance(stage.weight_decay, Ref)
    parameters_of: dict[tuple[float, float, bool, bool], list[Tensor]] = {}
    for name, parameter in named.items():
        rules = [rule for rule in stage.groups if fnmatch.fnmatchcase(name, rule.pattern)]
        rule = rules[-1] if rules else None
        if not parameter.requires_grad or (rule is not None and rule.freeze):
            continue
        own = rule.weight_decay if rule is not None else None
        decay, follows = (stage.first_weight_decay, scheduled) if own is None else (own, False)
        if not stage.decay_vectors and _spared(name, parameter):
            decay, follows = 0.0, False
        scale = scale_of(name) * (rule.lr_scale if rule is not None else 1.0)
        fixed = rule is not None and rule.fixed_lr
        parameters_of.setdefault((scale, decay, fixed, follows), []).append(parameter)
    if not parameters_of:
        raise UsageError(f"{type(task).__name__} has no trainable parameter in stage {stage.name!r}")
    return [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay, "fixed_lr": fixed}
        | ({"scheduled_decay": True} if follows else {})
        for (scale, decay, fixed, follows), parameters in parameters_of.items()
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
