"""What the evaluations on two views share: pairs with known geometry in memory, and a head learnt on them.

The network is frozen, and its tokens are computed once; or, as the authors do, all of it is fine-tuned with the head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel.evaluate import supervised
from unlabel.evaluate.features import Frozen, Split
from unlabel.recipe import Stage
from unlabel_vision import views
from unlabel_vision.tasks.croco import CroCo

__all__ = ["Protocol", "Truth", "learnt", "predicted", "read"]

Truth = dict[str, Tensor]
"""Pairs in memory: ``"image"`` and ``"second"``, uint8 (N, S, S, 3), and fields of what is known of them."""


@dataclass(frozen=True)
class Protocol:
    """How a head is learnt.

    Attributes:
        pairs: training pairs to learn from, at most.
        epochs: passes over them.
        batch_size: pairs per update.
        learning_rate: peak; linear warm-up over a tenth, then a cosine to 0.
        finetune: train the whole network too.
    """

    pairs: int
    epochs: int
    batch_size: int
    learning_rate: float
    finetune: bool


def trunk(frozen: Frozen, name: str) -> CroCo:
    """The judged task, if it encodes pairs."""
    tasks = [module for module in frozen.task.modules() if isinstance(module, CroCo)]
    if not tasks:
        raise UsageError(f"{name} reads two views off a binocular decoder, which {type(frozen.task).__name__} has not")
    return tasks[0]


def read(frozen: Frozen, split: Split, fields: tuple[str, ...], name: str, limit: int | None = None) -> Truth:
    """Pairs of a split with what is known of them, on the CPU.

    Raises:
        UsageError: the data are no pairs, or lack a field.
    """
    task, parts = trunk(frozen, name), []
    for batch in frozen.batches(split, task.eval_transform(), order=frozen.indices(split)[:limit]):
        lacking = [field for field in ("second", *fields) if field not in batch]
        if lacking:
            raise UsageError(
                f"{name} needs pairs whose {' and '.join(lacking)} are known, and these data have none: evaluate with "
                "--data vision/rooms (or vision/stereo for flow and depth)"
            )
        parts.append({field: batch[field].cpu() for field in ("image", "second", *fields)})
    if not parts:
        raise UsageError(f"{name}: no pair of the {split} part could be read")
    return {field: torch.cat([part[field] for part in parts]) for field in parts[0]}


class _Probe(nn.Module):
    """A task with a head, as `unlabel.optim` wants it."""

    def __init__(self, task: CroCo, head: nn.Module, finetune: bool):
        super().__init__()
        self.task = copy.deepcopy(task) if finetune else None
        self.head = head


def _layers(frozen: Frozen, task: CroCo, truth: Truth, rows: Tensor | slice) -> list[Tensor]:
    device = frozen.engine.device
    first, second = (views.to_float(truth[name][rows].to(device)) for name in ("image", "second"))
    with frozen.engine.autocast():
        return [layer.float() for layer in task.layers_of(first, second)]


@torch.no_grad()
def _tokens(frozen: Frozen, task: CroCo, truth: Truth, size: int = 64) -> list[Tensor]:
    """Tokens of all pairs, layer by layer."""
    parts = [_layers(frozen, task, truth, slice(k, k + size)) for k in range(0, len(truth["image"]), size)]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def learnt(
    frozen: Frozen,
    truth: Truth,
    make: Callable[[CroCo], nn.Module],
    loss: Callable[..., Tensor],
    protocol: Protocol,
    name: str,
) -> _Probe:
    """A head, and with `Protocol.finetune` a copy of the network, that learnt from pairs.

    Args:
        frozen: what to judge; stays as it is.
        truth: training pairs, from `read`.
        make: a new head for the task.
        loss: from what the head returns and a `Truth` of the same pairs to a scalar.
        protocol: how.
        name: of the evaluation.

    Raises:
        UsageError: a keyword out of range.
    """
    if protocol.epochs < 1 or protocol.batch_size < 1 or protocol.pairs < 1:
        raise UsageError(f"{name}: pairs, epochs and batch_size must be at least 1")
    task = trunk(frozen, name)
    count, device = len(truth["image"]), frozen.engine.device
    seeds.seed(frozen.seed)
    probe = _Probe(task, make(task), protocol.finetune).to(device)
    size = min(protocol.batch_size, count)
    steps = protocol.epochs * (count // size)
    stage = Stage(steps=steps, batch_size=size, lr=protocol.learning_rate, warmup_steps=steps // 10).resolved(count)
    tokens = None if probe.task is not None else _tokens(frozen, task, truth)

    def value(rows: Tensor) -> Tensor:
        if tokens is None:
            assert probe.task is not None
            layers = _layers(frozen, probe.task, truth, rows)
        else:
            layers = [layer[rows.to(device)] for layer in tokens]
        return loss(probe.head(layers), {field: values[rows].to(device) for field, values in truth.items()})

    orders = supervised.orders(np.arange(count), size, protocol.epochs, frozen.seed)
    batches = (rows for _, order in orders for rows in torch.from_numpy(order).split(size))
    supervised.fit(probe, frozen, stage, batches, value)
    return probe.eval()


@torch.no_grad()
def predicted(frozen: Frozen, probe: _Probe, truth: Truth, name: str, size: int = 64) -> list[tuple[object, Truth]]:
    """What the head says of pairs, and the pairs, in batches on the CPU."""
    task = trunk(frozen, name) if probe.task is None else probe.task
    predictions = []
    for start in range(0, len(truth["image"]), size):
        rows = slice(start, start + size)
        made = probe.head(_layers(frozen, task, truth, rows))
        made = tuple(part.cpu() for part in made) if isinstance(made, tuple) else made.cpu()
        predictions.append((made, {field: values[rows] for field, values in truth.items()}))
    return predictions
