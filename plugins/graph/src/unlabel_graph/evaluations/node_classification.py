"""Node classification: accuracy of the task's own classifier on the test nodes.

The classifier is the one trained jointly with, or after, the pretext task. If the task kept a copy of the update
that was best on the validation nodes, that copy is judged, once: validation labels choose, test labels only score.
"""

from __future__ import annotations

import torch

from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen, evaluating
from unlabel_graph.nodes import NodeTask

__all__ = ["node_classification"]


@torch.inference_mode()
def node_classification(frozen: Frozen) -> dict[str, float]:
    """Accuracy of the task's classifier.

    Args:
        frozen: of a task trained with ``supervised``, alone or together with others.

    Returns:
        ``accuracy`` on the test nodes, ``validation`` on the validation nodes (which chose the update, so it is no
        fair score), and ``update``: the one that was judged.

    Raises:
        UsageError: the task has no classifier, or the data have no labelled test nodes.
    """
    parts = [part for part in frozen.task.modules() if isinstance(part, NodeTask) and part.supervised]
    if not parts:
        raise UsageError(f"{type(frozen.task).__name__} trained no classifier of nodes; use linear_probe")
    task = parts[0]  # of several tasks on one encoder, the first that classifies
    labels = torch.from_numpy(frozen.labels("test"))
    right = total = update = 0
    validation_accuracy = torch.zeros(())
    with evaluating(task):
        for batch in frozen.batches("test", None):
            logits, update = task.classify(batch)
            predicted = logits.argmax(dim=1)
            truth = labels[batch["index"].cpu()].to(predicted.device)
            known = truth >= 0
            right += int((predicted[batch["node"]] == truth)[known].sum())
            total += int(known.sum())
            validation = batch["validation_label"]
            validation_accuracy = (predicted == validation)[validation >= 0].float().mean()
    if not total:
        raise UsageError("the test nodes have no labels, and this evaluation needs them")
    return {"accuracy": right / total, "validation": float(validation_accuracy), "update": float(update)}
