"""Depth from the binocular decoder: how far away is each pixel of the first view?"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.evaluate.features import Frozen
from unlabel_vision.tasks.croco import two_view_probe
from unlabel_vision.tasks.croco.binocular import DenseHead
from unlabel_vision.tasks.croco.two_view_probe import Protocol, Truth

__all__ = ["absolute_relative", "depth"]


def absolute_relative(prediction: Tensor, truth: Tensor) -> Tensor:
    """Error of depths as a share of the true depth, element by element."""
    return (prediction - truth).abs() / truth


def depth(
    frozen: Frozen,
    *,
    pairs: int = 1000,
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    finetune: bool = False,
) -> dict[str, float]:
    """Error of the depth that a light head reads off the tokens of both views, on held-out pairs.

    The head predicts the logarithm; depth 0 is unknown. The baseline knows nothing of the images: at each pixel the
    median of the training pairs' depths there.

    Args:
        frozen: a task with a binocular decoder, and pairs with known depth.
        pairs: training pairs to learn from, at most.
        epochs: passes over them.
        batch_size: pairs per update.
        learning_rate: peak of the head's.
        finetune: train the whole network with the head, as the authors do, instead of the head alone.

    Returns:
        ``abs_rel``: mean error as a share of the true depth; ``within_1.25``: share of pixels whose depth is wrong by a
        factor below 1.25; ``abs_rel_median`` of the baseline.

    Raises:
        UsageError: another kind of task or data, or a keyword out of range.
    """
    name, protocol = "vision/depth", Protocol(pairs, epochs, batch_size, learning_rate, finetune)
    train = two_view_probe.read(frozen, "train", ("depth",), name, pairs)
    test = two_view_probe.read(frozen, "test", ("depth",), name)
    logs = torch.where(train["depth"] > 0, train["depth"], torch.nan).log()
    median = logs.nanmedian(0).values.nan_to_num(logs.nanmedian().item())  # (S, S)
    spread = logs[train["depth"] > 0].std().clamp_min(1e-3)

    def distances(made: Tensor) -> Tensor:
        return (made[:, 0] * spread.to(made.device) + median.to(made.device)).exp()

    def loss(made: Tensor, truth: Truth) -> Tensor:
        assert isinstance(made, Tensor)
        known = truth["depth"] > 0
        error = (distances(made).log() - torch.where(known, truth["depth"], 1.0).log()).abs() * known
        return error.sum() / known.sum().clamp_min(1) / spread.to(error.device)

    probe = two_view_probe.learnt(
        frozen,
        train,
        lambda task: DenseHead(task.widths, task.encoder.grid, task.encoder.patch_size, 1),
        loss,
        protocol,
        name,
    )
    errors: dict[str, list[Tensor]] = {"abs_rel": [], "within_1.25": [], "abs_rel_median": []}
    for made, truth in two_view_probe.predicted(frozen, probe, test, name):
        assert isinstance(made, Tensor)
        known = truth["depth"] > 0
        right, guess = truth["depth"][known], distances(made)[known]
        errors["abs_rel"].append(absolute_relative(guess, right))
        errors["within_1.25"].append((torch.maximum(guess / right, right / guess) < 1.25).double())
        errors["abs_rel_median"].append(absolute_relative(median.exp().expand_as(known)[known], right))
    return {measure: torch.cat(parts).double().mean().item() for measure, parts in errors.items()}
