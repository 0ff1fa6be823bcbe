"""Rotation: four turns, counter-clockwise as NumPy's, told from the pixels alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlabel.data import Draw
from unlabel.errors import UsageError
from unlabel_vision.tasks import rotation
from unlabel_vision.tasks.rotation import Rotation


class Conv(nn.Module):
    """A convolutional encoder of a few hundred parameters."""

    def __init__(self, image_size: int = 16, dim: int = 8) -> None:
        super().__init__()
        self.image_size, self.dim = image_size, dim
        self.layers = nn.Sequential(nn.Conv2d(3, dim, 5, stride=3), nn.BatchNorm2d(dim), nn.ReLU(), nn.Flatten())
        self.out = nn.Linear(16 * dim, dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.layers(images))


def _task(**options: object) -> Rotation:
    torch.manual_seed(0)
    return Rotation(Conv(), **options)


def _images(count: int = 8, seed: int = 0) -> Tensor:
    """Images of 16 pixels that are bright at the top and dark below, with noise."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(220, 30, 16)[None, :, None, None] + rng.integers(-30, 31, (count, 16, 16, 3))
    return torch.from_numpy(ramp.clip(0, 255).astype(np.uint8))


def test_turns_match_golden_and_are_counter_clockwise(shared):
    data = np.load(shared / "golden/vision-survey/rot90_ccw.npz")
    square = data["image"][:, 1:]  # the case is 4 x 5; its first column ends as the last row of r90, and so on
    images, turns = rotation.rotated(torch.from_numpy(np.stack([square, square[::-1].copy()])))
    assert turns.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert np.array_equal(images[0], square)
    assert np.array_equal(images[2], data["r90"][:4])
    assert np.array_equal(images[4], data["r180"][:, :4])
    assert np.array_equal(images[6], data["r270"][1:])
    for number in range(8):
        original = (square, square[::-1])[number % 2]
        assert np.array_equal(images[number], np.rot90(original, number // 2))


def test_loss_and_accuracy_of_an_undecided_head_are_chance():
    task = _task()
    nn.init.zeros_(task.head.weight)
    nn.init.zeros_(task.head.bias)
    terms = task.loss({"image": _images()})
    assert terms["loss"].item() == pytest.approx(math.log(4), rel=1e-6)
    assert terms["accuracy"].item() == 0.25


def test_without_a_rule_to_learn_accuracy_stays_at_chance():
    """Images of noise look the same whichever way up: a trained head does not tell new ones."""
    task = _task()
    noise = [torch.randint(0, 256, (64, 16, 16, 3), dtype=torch.uint8) for _ in range(6)]
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-3)
    for images in noise[:-1]:
        optimizer.zero_grad()
        task.loss({"image": images})["loss"].backward()
        optimizer.step()
    # 256 answers: three standard deviations of a share of 25 % are 8 %
    assert task.loss({"image": noise[-1]})["accuracy"].item() == pytest.approx(0.25, abs=0.08)


def test_what_is_up_is_learnt_and_carries_over_to_new_images():
    task = _task()
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    for step in range(15):
        optimizer.zero_grad()
        task.loss({"image": _images(seed=step)})["loss"].backward()
        optimizer.step()
    assert task.loss({"image": _images(seed=99)})["accuracy"].item() > 0.9


def test_every_parameter_learns_and_accuracy_carries_no_gradient():
    task = _task()
    terms = task.loss({"image": _images()})
    assert not terms["accuracy"].requires_grad
    terms["loss"].backward()
    assert all(p.grad is not None for p in task.parameters())


def test_the_encoder_sees_all_four_turns_and_evaluation_one():
    task, seen = _task().eval(), []
    task.encoder.register_forward_hook(lambda *parts: seen.append(len(parts[2])))
    task.loss({"image": _images(5)})
    assert task.encode({"image": _images(5)}).shape == (5, 8)
    assert seen == [20, 5]


def test_crops_are_square_and_pictures_show_every_turn():
    task, rng = _task(), np.random.default_rng(0)
    sample = task.transform()({"image": rng.integers(0, 256, (30, 50, 3), dtype=np.uint8)}, Draw(rng))
    assert sample["image"].shape == (16, 16, 3)
    sheet = task.show({"image": _images(3)})["rotations"]
    assert sheet.shape == (4 * 18 - 2, 3 * 18 - 2, 3)
    assert np.array_equal(sheet[18:34, 18:34], np.rot90(_images(3)[1].numpy()))


def test_encoders_that_are_none_are_refused():
    with pytest.raises(UsageError, match="offers no `dim`"):
        Rotation(nn.Linear(2, 2))


def test_recipes_have_keywords_the_task_accepts():
    for recipe in (rotation.paper(), rotation.quick(), rotation.tiny()):
        assert Rotation(Conv(), **recipe.task.options).crop_scale[1] == 1.0
    assert rotation.paper().stages[0].schedule.options["gamma"] == 0.2
