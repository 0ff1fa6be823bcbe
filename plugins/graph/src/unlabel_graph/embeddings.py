"""Representations of all nodes of a frozen task's graph: what graph evaluations judge."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.errors import RunError, UsageError
from unlabel.evaluate.features import Frozen, evaluating
from unlabel.task import one_row_each
from unlabel_graph.graph import Nodes, whole_of

__all__ = ["of"]


def of(frozen: Frozen) -> tuple[Nodes, Tensor]:
    """The dataset of all nodes, whatever their split, and their representations, rows of length 1: float32 (N, D).

    Encoded in evaluation mode on the whole, unchanged graph; on the CPU.

    Raises:
        UsageError: the dataset is not one graph.
        RunError: a representation is NaN or infinite.
    """
    nodes = whole_of(frozen.dataset("train"))
    if nodes is None:
        raise UsageError(f"{type(frozen.dataset('train')).__name__} is not the nodes of one graph")
    task = frozen.task
    batch = frozen.engine.to_device({**nodes.context(), "node": torch.arange(len(nodes))})
    with evaluating(task), torch.inference_mode(), frozen.engine.autocast():
        features = one_row_each(task.encode(batch), "an evaluation of nodes").to("cpu", torch.float32)
    broken = int((~features.isfinite()).any(dim=1).sum())
    if broken:
        raise RunError(f"the representations of {broken} of {len(features)} nodes are NaN or infinite")
    return nodes, torch.nn.functional.normalize(features.clone(), dim=1)
