"""An engine that remembers the gradients it is asked to update with, and a short run under it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from unlabel import build, loop
from unlabel.catalog.plugins import Catalog
from unlabel.engine import Engine, average
from unlabel.recipe import Recipe, Stage
from unlabel.task import Task

__all__ = ["Recording", "first_updates", "members"]


class Recording(Engine):
    """An engine on one CPU, or on two under a process group, that remembers what it is asked to update with.

    Attributes:
        names: parameter -> its name in the task.
        gradients: of each update: name -> averaged gradient, or None, for the parameters its optimizers hold.
        learning: names of the parameters that an update found trainable.
        reached: names of frozen parameters that had a gradient nevertheless.
    """

    def __init__(self) -> None:
        super().__init__("cpu", "fp32")
        self.names: dict[Tensor, str] = {}
        self.gradients: list[dict[str, Tensor | None]] = []
        self.learning: set[str] = set()
        self.reached: set[str] = set()

    def prepare(self, task: Task) -> None:
        super().prepare(task)
        self.names = {parameter: name for name, parameter in task.named_parameters()}

    def update(self, task: Task, optimizers: Optimizer | Mapping[str, Optimizer], stage: Stage) -> Tensor:
        given = optimizers.values() if isinstance(optimizers, Mapping) else [optimizers]
        updated = [parameter for optimizer in given for parameter in members(optimizer)]
        # averaging twice changes nothing: what all processes have is their average
        average([p.grad for p in updated if p.grad is not None], self.world)
        self.gradients.append(
            {self.names[p]: None if p.grad is None else p.grad.clone() for p in updated if p.requires_grad}
        )
        self.learning |= {name for parameter, name in self.names.items() if parameter.requires_grad}
        self.reached |= {name for p, name in self.names.items() if not p.requires_grad and p.grad is not None}
        return super().update(task, optimizers, stage)


def members(optimizer: Optimizer) -> list[nn.Parameter]:
    """The parameters that an optimizer holds."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def first_updates(chosen: Recipe, catalog: Catalog) -> dict[str, dict[str, np.ndarray]]:
    """The gradients of each update of a short run, and each buffer it ends with; under a process group, of all.

    Args:
        chosen: short, and with steps so small that weights hardly move.
        catalog: what is installed.
    """
    engine = Recording()
    task = build.build(chosen, catalog, engine)
    dataset = build.build_dataset(chosen.dataset, catalog)
    dataset.prepare()
    with tempfile.TemporaryDirectory() as folder:
        loop.train(loop.Training(chosen, task, dataset.split("train") or dataset, engine, Path(folder), []))
    updates = {
        f"update {number}": {name: gradient.numpy() for name, gradient in gradients.items() if gradient is not None}
        for number, gradients in enumerate(engine.gradients)
    }
    buffers = {name: value.numpy() for name, value in task.named_buffers() if value.is_floating_point()}
    return updates | {f"buffer {name}": {name: value} for name, value in buffers.items()}
