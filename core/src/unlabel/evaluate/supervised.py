"""Training with labels, for evaluations that learn more than a line on features: the one loop of it.

An evaluation brings a model, a `Stage` (optimizer, rates, length), its batches and a loss. Every process does all of
it, so nothing is averaged, and evaluating on one process alone does not hang.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from unlabel import optim, seeds
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Stage
from unlabel.task import Task

__all__ = ["fit", "orders"]

_Batch = TypeVar("_Batch")


def orders(indices: np.ndarray, size: int, epochs: int, seed: int) -> Iterator[tuple[int, np.ndarray]]:
    """In which order each epoch takes the samples: as many as fill batches, the others left out of that epoch.

    Args:
        indices: int64, (N,): the samples.
        size: of a batch, at most N.
        epochs: how many.
        seed: of the order, see `unlabel.seeds.permutation`.

    Yields:
        The epoch's number, from 0, and a random order: int64, (N // size * size,).
    """
    whole = len(indices) // size * size
    for epoch in range(epochs):
        yield epoch, indices[seeds.permutation(len(indices), seed, epoch)][:whole]


def fit(
    model: nn.Module,
    frozen: Frozen,
    stage: Stage,
    batches: Iterable[_Batch],
    loss: Callable[[_Batch], Tensor],
    *,
    after_first: Callable[[], None] | None = None,
) -> Tensor:
    """Train a model in place, an update a batch, until the batches or the stage's updates end.

    Args:
        model: every parameter of it that needs a gradient learns; in training mode from now on.
        frozen: what is judged: its engine (precision) and seed are used.
        stage: resolved: optimizer, rates by update, groups, number of updates. Gradients are not clipped.
        batches: whatever `loss` takes; read in step with the updates.
        loss: scalar of a batch, by the model. It is not under autocast: ``with frozen.engine.autocast():`` is for the
            part of it that may be. Torch's generator is seeded before, from the number of the update.
        after_first: called after the first backward pass: what is wrong can be seen from the gradients, and raised.

    Returns:
        The losses: (updates,), on the device.
    """
    optimizer = optim.build(cast(Task, model), stage)  # of which it reads parameters, and layers where it has some
    scaler = GradScaler(frozen.engine.device.type, enabled=frozen.engine.precision == "fp16")
    model.train()
    losses: list[Tensor] = []
    for step, batch in zip(range(stage.steps or 0), batches, strict=False):
        seeds.seed(frozen.seed, step)
        optim.set_lr({"main": optimizer}, stage, step)
        value = loss(batch)
        scaler.scale(value).backward()
        if step == 0 and after_first is not None:
            after_first()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(value.detach())
    return torch.stack(losses)
