"""Relative pose from the binocular decoder: how did the camera move from the first view to the second?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from unlabel.evaluate.features import Frozen
from unlabel_vision.tasks.croco import binocular, two_view_probe
from unlabel_vision.tasks.croco.binocular import PoseHead
from unlabel_vision.tasks.croco.two_view_probe import Protocol, Truth

__all__ = ["between_directions", "between_rotations", "pose"]


def between_rotations(first: Tensor, second: Tensor) -> Tensor:
    """Angle of the rotation from one to the other: (N, 3, 3) twice -> (N,), degrees.

    From the length of the difference, which is exact for small angles too, where a cosine is not.
    """
    chord = torch.linalg.matrix_norm(first.double() - second.double()) / 8**0.5
    return torch.rad2deg(2 * torch.asin(chord.clamp(max=1.0)))


def between_directions(first: Tensor, second: Tensor) -> Tensor:
    """Angle between vectors: (N, 3) twice -> (N,), degrees."""
    first, second = (functional.normalize(vectors.double(), dim=1) for vectors in (first, second))
    return torch.rad2deg(2 * torch.asin((torch.linalg.vector_norm(first - second, dim=1) / 2).clamp(max=1.0)))


def pose(
    frozen: Frozen,
    *,
    pairs: int = 1000,
    epochs: int = 60,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    finetune: bool = False,
) -> dict[str, float]:
    """Errors of the relative pose that a light head reads off the tokens of both views, on held-out pairs.

    The baseline knows nothing of the images: the mean pose of the training pairs.

    Args:
        frozen: a task with a binocular decoder, and pairs with known pose.
        pairs: training pairs to learn from, at most.
        epochs: passes over them.
        batch_size: pairs per update.
        learning_rate: peak of the head's.
        finetune: train the whole network with the head, as the authors do, instead of the head alone.

    Returns:
        Medians over the pairs: ``rotation_deg``, ``direction_deg`` (of the translation), ``translation_m``; then the
        same of the baseline, ``..._mean_pose``. Pairs from the same place have no direction and are left out there.

    Raises:
        UsageError: another kind of task or data, or a keyword out of range.
    """
    name, protocol = "vision/pose", Protocol(pairs, epochs, batch_size, learning_rate, finetune)
    fields = ("rotation", "translation")
    train = two_view_probe.read(frozen, "train", fields, name, pairs)
    test = two_view_probe.read(frozen, "test", fields, name)
    spread = train["translation"].std().clamp_min(1e-3)
    turn = (train["rotation"] - torch.eye(3)).std().clamp_min(1e-3)

    def loss(made: tuple[Tensor, Tensor], truth: Truth) -> Tensor:
        rotation, translation = made
        wrong = (rotation - truth["rotation"]).abs().mean() / turn.to(rotation.device)
        return wrong + (translation - truth["translation"] / spread.to(rotation.device)).abs().mean()

    probe = two_view_probe.learnt(frozen, train, lambda task: PoseHead(task.widths, task.length), loss, protocol, name)
    made = [part for part, _ in two_view_probe.predicted(frozen, probe, test, name)]
    rotation, translation = (torch.cat(parts) for parts in zip(*made, strict=True))
    columns = train["rotation"].mean(0)[:, :2].T.reshape(1, 6)
    count = len(test["rotation"])
    guesses = {
        "": (rotation, translation * spread),
        "_mean_pose": (
            binocular.orthogonal(columns).expand(count, 3, 3),
            train["translation"].mean(0).expand(count, 3),
        ),
    }
    moved = torch.linalg.vector_norm(test["translation"], dim=1) > 1e-4
    medians = {}
    for ending, (turned, shifted) in guesses.items():
        distances = torch.linalg.vector_norm(shifted - test["translation"], dim=1)
        medians[f"rotation_deg{ending}"] = between_rotations(turned, test["rotation"]).median().item()
        directions = between_directions(shifted[moved], test["translation"][moved])
        medians[f"direction_deg{ending}"] = directions.median().item() if len(directions) else 0.0
        medians[f"translation_m{ending}"] = distances.median().item()
    return medians
