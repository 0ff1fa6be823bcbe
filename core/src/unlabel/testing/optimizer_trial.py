"""How an optimizer is tried: on a small regression, without and with a break in which its state is saved and loaded."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlabel import checkpoint, optim, signature
from unlabel.checkpoint import Position
from unlabel.engine import Engine
from unlabel.optim import offers
from unlabel.recipe import Ref, Stage
from unlabel.task import Task
from unlabel.testing.checks.promise import NotApplicable
from unlabel.testing.compare import difference
from unlabel.testing.component import Component

__all__ = ["OptimizerTrial"]


class OptimizerTrial(Component):
    """An optimizer with its defaults."""

    UPDATES = 40

    def losses(self) -> tuple[float, float]:
        """The first loss and the last of a whole run."""
        task, optimizer = self._made()
        return _updated(task, optimizer, range(self.UPDATES))

    def resumed(self) -> str:
        """Where a run with a break ends elsewhere than a whole one, in words."""
        whole, optimizer = self._made()
        _updated(whole, optimizer, range(self.UPDATES))

        first, before = self._made()
        _updated(first, before, range(self.UPDATES // 2))
        engine, folder = Engine("cpu", "fp32"), self.room()
        path = checkpoint.save(folder, first, {"main": before}, engine, Position("kit", 0, 1, 1))
        again = self._restored(path, engine)
        return difference(whole.state_dict(), again.state_dict())

    def _restored(self, path: Path, engine: Engine) -> Task:
        task, optimizer = self._made()
        checkpoint.load_task(path, task, engine)
        checkpoint.load_optimizers(path, task, {"main": optimizer}, engine)
        _updated(task, optimizer, range(self.UPDATES // 2, self.UPDATES))
        return task

    def _made(self) -> tuple[Task, Optimizer]:
        needed = set(signature.required(self.target)) - {"params", "lr", "weight_decay"}
        if needed:
            raise NotApplicable(f"its {', '.join(sorted(needed))} only a user knows")
        stage = Stage(steps=self.UPDATES, optimizer=Ref(self.name), lr=0.01, weight_decay=0.0)
        offers.check(stage, "stages.0", self.catalog)
        task = _Regression()
        return task, optim.build(task, stage)


class _Regression(Task):
    """Fits a linear map; of matrices alone, as some optimizers want them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 4, bias=False), nn.Linear(4, 3, bias=False)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def error(self, step: int) -> Tensor:
        """The loss of an update's samples, which follow from its number."""
        inputs = torch.randn(32, 5, generator=torch.Generator().manual_seed(step % 4))
        error: Tensor = (self.second(torch.tanh(self.first(inputs))) - inputs[:, :3]).square().mean()
        return error


def _updated(task: Task, optimizer: Optimizer, steps: Iterable[int]) -> tuple[float, float]:
    """Train in place; the mean losses of all four batches before and after."""
    assert isinstance(task, _Regression)
    before = sum(task.error(step).item() for step in range(4)) / 4
    for step in steps:
        task.error(step).backward()
        optimizer.step()
        optimizer.zero_grad()
    return before, sum(task.error(step).item() for step in range(4)) / 4
