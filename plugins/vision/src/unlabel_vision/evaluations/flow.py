"""Optical flow from the binocular decoder: where does each pixel of the first view lie in the second?"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.evaluate.features import Frozen
from unlabel_vision.tasks.croco import two_view_probe
from unlabel_vision.tasks.croco.binocular import DenseHead
from unlabel_vision.tasks.croco.two_view_probe import Protocol, Truth

__all__ = ["end_point_errors", "flow"]


def end_point_errors(prediction: Tensor, truth: Tensor) -> Tensor:
    """Distance of predicted and true shift: (N, H, W, 2) twice -> (N, H, W), pixels."""
    result: Tensor = torch.linalg.vector_norm(prediction - truth, dim=-1)
    return result


def flow(
    frozen: Frozen,
    *,
    pairs: int = 1000,
    epochs: int = 30,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    finetune: bool = False,
) -> dict[str, float]:
    """Error of the optical flow that a light head reads off the tokens of both views, on held-out pairs.

    Over the pixels of the first view that the second sees too. The baselines know nothing of the images: no motion, and
    the mean shift of the training pairs.

    Args:
        frozen: a task with a binocular decoder, and pairs with known flow.
        pairs: training pairs to learn from, at most.
        epochs: passes over them.
        batch_size: pairs per update.
        learning_rate: peak of the head's.
        finetune: train the whole network with the head, as the authors do, instead of the head alone.

    Returns:
        ``epe``: mean end-point error in pixels; ``within_1px``: share of pixels with an error below 1; ``epe_zero`` and
        ``epe_mean`` of the baselines.

    Raises:
        UsageError: another kind of task or data, or a keyword out of range.
    """
    name, protocol = "vision/flow", Protocol(pairs, epochs, batch_size, learning_rate, finetune)
    train = two_view_probe.read(frozen, "train", ("flow", "visible"), name, pairs)
    test = two_view_probe.read(frozen, "test", ("flow", "visible"), name)
    known = train["visible"].bool()
    middle, spread = train["flow"][known].mean(0), train["flow"][known].std().clamp_min(1e-3)

    def shifts(made: Tensor) -> Tensor:
        return made.permute(0, 2, 3, 1) * spread.to(made.device) + middle.to(made.device)

    def loss(made: Tensor, truth: Truth) -> Tensor:
        error = (shifts(made) - truth["flow"]).abs().sum(-1) * truth["visible"]
        return error.sum() / truth["visible"].sum().clamp_min(1) / spread.to(error.device)

    probe = two_view_probe.learnt(
        frozen,
        train,
        lambda task: DenseHead(task.widths, task.encoder.grid, task.encoder.patch_size, 2),
        loss,
        protocol,
        name,
    )
    by_measure: dict[str, list[Tensor]] = {"epe": [], "epe_zero": [], "epe_mean": []}
    for made, truth in two_view_probe.predicted(frozen, probe, test, name):
        assert isinstance(made, Tensor)
        seen = truth["visible"].bool()
        guesses = {"epe": shifts(made), "epe_zero": torch.zeros_like(truth["flow"]), "epe_mean": middle}
        for measure, guess in guesses.items():
            by_measure[measure].append(end_point_errors(guess, truth["flow"])[seen])
    errors = {measure: torch.cat(parts).double() for measure, parts in by_measure.items()}
    means = {measure: values.mean().item() for measure, values in errors.items()}
    return {"epe": means["epe"], "within_1px": (errors["epe"] < 1).double().mean().item(), **means}
