"""The engine: memory layout, batches of any form, and updates under the loss scaler."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from collective import scaled
from scaled import SCALE, Weights, engine
from torch import Tensor, nn
from torch.optim import SGD

from unlabel.engine import Engine, moved
from unlabel.recipe import Stage
from unlabel.task import Task
from unlabel.testing.processes import pair

STAGE = Stage(steps=1)


# --- memory layout


class Mixed(Task):
    """A convolution of images, one of volumes, and parameters and buffers of other shapes."""

    def __init__(self, volumes: bool) -> None:
        super().__init__()
        self.image, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.volume = nn.Conv3d(3, 4, 3) if volumes else None
        self.register_buffer("grid", torch.zeros(2, 3, 4, 5))


def test_a_task_may_convolve_images_and_volumes() -> None:
    task = Mixed(volumes=True)
    before = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    Engine("cpu", "fp32").prepare(task)
    assert task.image.weight.is_contiguous(memory_format=torch.channels_last)
    assert task.volume.weight.is_contiguous()
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.state_dict().items())
    assert task.volume(task.image(torch.ones(1, 3, 8, 8))[:, :3, None].expand(-1, -1, 6, -1, -1)).shape[1] == 4


def test_without_volumes_the_layout_is_what_torch_makes_of_the_whole_task() -> None:
    ours, torchs = Mixed(volumes=False), Mixed(volumes=False).to(memory_format=torch.channels_last)
    Engine("cpu", "fp32").prepare(ours)
    strides = {name: tensor.stride() for name, tensor in torchs.state_dict().items()}
    assert {name: tensor.stride() for name, tensor in ours.state_dict().items()} == strides


# --- batches


class Crops(NamedTuple):
    large: Tensor
    small: list[Tensor]


def test_tensors_move_wherever_they_are_in_a_batch() -> None:
    one = torch.ones(2)
    batch = {"x": one, "graph": {"edges": {"own": one}, "name": "g"}, "pair": (one, 3), "crops": Crops(one, [one, one])}
    there = moved(batch, torch.device("meta"))
    crops = there["crops"]
    assert isinstance(crops, Crops)
    found = [there["x"], there["graph"]["edges"]["own"], there["pair"][0], crops.large, *crops.small]
    assert all(tensor.is_meta and tensor.shape == (2,) for tensor in found)
    assert (there["graph"]["name"], there["pair"][1]) == ("g", 3)
    assert not batch["graph"]["edges"]["own"].is_meta, "the batch itself is left alone"


# --- the loss scaler


@pytest.mark.slow  # starts two processes
def test_processes_take_or_skip_an_update_together() -> None:
    (left, scale), (right, other) = pair()(scaled, [1.0, float("inf")])
    assert left == right == [1.0, 1.0], "skipped by both"
    assert scale == other == SCALE / 2
    (left, scale), (right, other) = pair()(scaled, [1.0, 3.0])
    assert left == right == [-1.0, -1.0], "a step of 1 along the mean gradient of 2"
    assert scale == other == SCALE


def test_an_iteration_adapts_the_scale_once_however_many_optimizers_it_updates() -> None:
    task, scaling = Weights(2), engine(growth_interval=1)
    optimizers = [SGD([weight], lr=1.0) for weight in task.weights]
    with scaling.iteration():
        scaling.backward(task.weights[0].sum() + task.weights[1].sum())
        for optimizer in optimizers:
            scaling.update(task, optimizer, STAGE)
    assert [weight.tolist() for weight in task.weights] == [[0.0, 0.0]] * 2, "both gradients were divided by one scale"
    assert scaling.scaler.get_scale() == 2 * SCALE


def test_several_optimizers_are_updated_and_clipped_together() -> None:
    task, scaling = Weights(3), engine(growth_interval=1)
    optimizers = {f"{number}": SGD([weight], lr=1.0) for number, weight in enumerate(task.weights)}
    scaling.backward(task.weights[0].sum() * 3.0 + task.weights[1].sum() * 4.0)
    norm = scaling.update(task, optimizers, Stage(steps=1, clip_norm=1.0))
    assert norm.item() == pytest.approx(5 * 2**0.5)
    assert task.weights[0].tolist() == pytest.approx([1 - 3 / norm.item()] * 2, rel=1e-5)
    assert task.weights[1].tolist() == pytest.approx([1 - 4 / norm.item()] * 2, rel=1e-5)
    assert task.weights[2].tolist() == [1.0, 1.0], "got no gradient"
    assert all(weight.grad is None for weight in task.weights)
    assert scaling.scaler.get_scale() == 2 * SCALE


@pytest.mark.parametrize("infinite", [0, 1])
def test_an_optimizer_may_be_updated_twice_in_an_iteration(infinite: int) -> None:
    """The scale stays what it was, the infinite update alone is skipped, and counts at the end."""
    task, scaling = Weights(1), engine(growth_interval=1)
    optimizer = SGD(task.parameters(), lr=1.0)
    with scaling.iteration():
        for number in range(2):
            scaling.backward(task.weights[0].sum() * (float("inf") if number == infinite else 1.0))
            assert scaling.scaler.get_scale() == SCALE
            scaling.update(task, optimizer, STAGE)
    assert task.weights[0].tolist() == [0.0, 0.0]
    assert scaling.scaler.get_scale() == SCALE / 2


def test_an_iteration_that_fails_or_updates_nothing_leaves_the_scale() -> None:
    task, scaling = Weights(1), engine(growth_interval=1)
    with scaling.iteration():
        pass
    with pytest.raises(ZeroDivisionError), scaling.iteration():
        raise ZeroDivisionError
    assert scaling.scaler.get_scale() == SCALE
    scaling.backward(task.weights[0].sum())
    scaling.update(task, SGD(task.parameters(), lr=1.0), STAGE)
    assert scaling.scaler.get_scale() == 2 * SCALE, "an update outside of an iteration is one of its own"
