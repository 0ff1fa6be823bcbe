"""Fine-tuning: the whole encoder learns the classes, starting from what pretraining gave it.

The recipe is that of He et al. (2111.06377, appendix A.1): AdamW, a lower learning rate for lower layers where the
task knows its layers, warm-up and cosine, label smoothing, a small first linear layer. Theirs also mixes samples
(mixup, cutmix), which belongs to one kind of data; a task's `finetune_transform` may augment as it likes. The control
without pretraining is ``finetune(frozen.of(fresh_task))``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel import optim, seeds
from unlabel.errors import UsageError
from unlabel.evaluate import metrics, supervised
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Stage
from unlabel.task import Batch, Task, Transform, one_row_each

__all__ = ["Classifier", "finetune"]


class Classifier(Task):
    """A copy of a task whose features feed a linear layer; every parameter of the copy may learn.

    Args:
        task: copied, not changed.
        width: of its features.
        classes: number of classes.
    """

    def __init__(self, task: Task, width: int, classes: int) -> None:
        super().__init__()
        self.task = copy.deepcopy(task).requires_grad_(True)  # encode may read a teacher, which was not trained itself
        self.task.zero_grad(set_to_none=True)
        self.head = nn.Linear(width, classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)
        self.layers = task.layers if isinstance(task, optim.Layered) else 0

    def layer_of(self, name: str) -> int:
        """Layer of a parameter, for `Stage.layer_decay`; the new layer is the last."""
        if isinstance(self.task, optim.Layered) and name.startswith("task."):
            return self.task.layer_of(name.removeprefix("task."))
        return self.layers + 1

    def encode(self, batch: Batch) -> Tensor:
        """Class scores: float, (N, classes)."""
        scores: Tensor = self.head(one_row_each(self.task.representation(batch), "fine-tuning").flatten(1))
        return scores

    def eval_transform(self) -> Transform | None:
        return self.task.eval_transform()


def finetune(
    frozen: Frozen,
    *,
    epochs: int = 100,
    batch_size: int = 256,
    learning_rate: float = 5e-4,
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    warmup_epochs: float = 5,
    label_smoothing: float = 0.1,
) -> dict[str, float]:
    """Accuracy on the held-out samples after training a copy of the whole encoder on the labelled training samples.

    Args:
        frozen: what to judge; stays frozen.
        epochs: passes over the training samples.
        batch_size: samples per update; at most all. A last batch that is not full is left out of its epoch.
        learning_rate: peak for a batch of 256, scaled linearly.
        weight_decay: of matrices; biases and other vectors have none.
        layer_decay: factor of the learning rate per layer below the top, if the task knows its layers.
        warmup_epochs: linear warm-up; then a cosine to 0.
        label_smoothing: share of the target spread over all classes, in [0, 1).

    Returns:
        ``accuracy``, ``balanced_accuracy``, and the training ``loss`` of the last epoch.

    Raises:
        UsageError: no labels, no held-out part, a keyword out of range, or a task whose `encode` passes no gradient.
    """
    if epochs < 1 or warmup_epochs >= epochs:
        raise UsageError(f"{warmup_epochs:g} epochs of warm-up of {epochs} in all: expected fewer")
    frozen.labelled("test")  # first: if it is missing, the user learns at once
    features, _ = frozen.labelled("train")
    seeds.seed(frozen.seed)
    model = Classifier(frozen.task, features.shape[1], len(frozen.classes)).to(frozen.engine.device)

    indices = np.intersect1d(frozen.indices("train"), np.flatnonzero(frozen.labels("train") >= 0))
    size = min(batch_size, len(indices))
    per_epoch = len(indices) // size
    stage = Stage(
        steps=epochs * per_epoch,
        warmup_steps=round(warmup_epochs * per_epoch),
        batch_size=size,
        lr=learning_rate,
        lr_batch_size=256,
        weight_decay=weight_decay,
        layer_decay=layer_decay if isinstance(frozen.task, optim.Layered) else None,
    ).resolved(len(indices))
    loss = _train(model, frozen, stage, indices, epochs, label_smoothing)

    scores, truth = frozen.of(model).labelled("test")
    best = scores.argmax(dim=1)
    return {
        "accuracy": metrics.accuracy(best, truth),
        "balanced_accuracy": metrics.balanced_accuracy(best, truth),
        "loss": loss,
    }


def _train(
    model: Classifier, frozen: Frozen, stage: Stage, indices: np.ndarray, epochs: int, label_smoothing: float
) -> float:
    """Train in place; returns the mean loss of the last epoch."""
    engine, labels = frozen.engine, torch.from_numpy(frozen.labels("train"))
    transform = frozen.task.finetune_transform()
    updates: list[int] = []  # of each epoch: samples that cannot be read are left out

    def batches() -> Iterator[Batch]:
        for epoch, order in supervised.orders(indices, stage.size, epochs, frozen.seed):
            updates.append(0)
            for batch in frozen.batches("train", transform, order=order, batch_size=stage.size, epoch=epoch):
                updates[-1] += 1
                yield batch

    def loss(batch: Batch) -> Tensor:
        targets = labels[batch["index"].cpu()].to(engine.device)
        with engine.autocast():
            scores = model.encode(batch)
        return F.cross_entropy(scores.float(), targets, label_smoothing=label_smoothing)

    losses = supervised.fit(model, frozen, stage, batches(), loss, after_first=lambda: _check_gradient(model))
    return losses[-updates[-1] :].mean().item()


def _check_gradient(model: Classifier) -> None:
    if all(parameter.grad is None for parameter in model.task.parameters()):
        raise UsageError(
            f"{type(model.task).__name__}.encode passes no gradient to any parameter, so it cannot be fine-tuned;"
            " a linear_probe judges it as it is"
        )
