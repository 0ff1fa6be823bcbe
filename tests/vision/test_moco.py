"""MoCo: the published losses, a queue of the past only, and a copy that moves exactly and learns nothing itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import Progress, Stage, UsageError, optim
from unlabel.task import Batch
from unlabel_vision.tasks import moco
from unlabel_vision.tasks.moco import MoCo


class Conv(nn.Module):
    """A convolutional encoder of a few hundred parameters."""

    def __init__(self, image_size: int = 16, dim: int = 8) -> None:
        super().__init__()
        self.image_size, self.dim = image_size, dim
        convolutions = nn.Conv2d(3, dim, 5, stride=3), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 3)
        self.layers = nn.Sequential(*convolutions)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))


class Patches(nn.Module):
    """The shape of a transformer: patches are projected, then mixed."""

    def __init__(self, image_size: int = 16, dim: int = 8) -> None:
        super().__init__()
        self.image_size, self.dim = image_size, dim
        self.patch_embed = nn.Conv2d(3, dim, 4, stride=4)
        self.norm, self.mix = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.mix(self.norm(self.patch_embed(images).flatten(2).mean(2)))


class Flat(nn.Module):
    """An encoder that returns the pixels of 2 x 2 images."""

    image_size, dim = 2, 12

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _task(encoder: nn.Module | None = None, **options: object) -> MoCo:
    torch.manual_seed(0)
    defaults = {"queue": 20, "hidden": 16, "out": 8, "key_group": 4, "blur": 0.0}
    return MoCo(encoder or Conv(), **{**defaults, **options})


def _flat(**options: object) -> MoCo:
    """A task whose networks do nothing."""
    task = _task(Flat(), out=12, key_group=0, **options)
    task.projector = nn.Identity()
    task.teacher = nn.Sequential(Flat(), nn.Identity())
    return task


def _batch(count: int = 8, seed: int = 0) -> Batch:
    """Views of distinct images: the second is the first, a little changed."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    other = np.clip(image.astype(int) + rng.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)
    number = torch.arange(count)
    images = {"view1": torch.from_numpy(image), "view2": torch.from_numpy(other)}
    return {**images, "key": number * 31 + seed, "index": number}


def _progress(step: int, steps: int = 10) -> Progress:
    return Progress(stage=0, step=step, steps=steps, epoch=0, total_step=step)


# --- version 2


def test_loss_gradient_and_queue_match_golden(shared):
    data = np.load(shared / "golden/vision-survey/moco_queue.npz")
    task = _flat(queue=16)
    task.queue.rows.copy_(torch.from_numpy(data["queue_before_size_x_dim"]))
    query, key = (torch.from_numpy(data[name]).view(8, 3, 2, 2) for name in ("query", "key"))
    query.requires_grad_()

    loss = task.queue_loss(query, key, torch.arange(8))
    loss.backward()  # after the queue has changed: the gradient is that of the queue before

    assert loss.item() == pytest.approx(float(data["loss"]), abs=1e-5)
    assert np.allclose(query.grad.flatten(1).numpy(), data["g_query"], atol=1e-6)
    assert np.allclose(task.queue.rows.numpy(), data["queue_after_size_x_dim"], atol=1e-6)
    assert torch.equal(task.queue.pointer, torch.from_numpy(data["ptr_after"]))


def test_a_query_never_meets_its_own_key_among_the_negatives():
    task = _flat(queue=8)
    task.queue.rows.copy_(-functional.normalize(torch.ones(8, 12), dim=1))  # opposite to every query below
    views = torch.ones(8, 3, 2, 2)
    first = task.queue_loss(views, views, torch.arange(8)).item()
    second = task.queue_loss(views, views, torch.arange(8)).item()
    assert first == pytest.approx(math.log(1 + 8 * math.exp(-2 / 0.2)), abs=1e-6)
    assert second == pytest.approx(math.log(9), rel=1e-5)  # by now the queue holds the first batch's keys


def test_keys_of_the_querys_own_image_can_be_left_out_of_the_queue():
    task, views, index = _flat(queue=8, skip_own=True), torch.ones(8, 3, 2, 2), torch.arange(8)
    task.queue.rows.copy_(functional.normalize(torch.ones(8, 12), dim=1))
    losses = [task.queue_loss(views, views, torch.arange(8), index).item() for _ in range(2)]
    assert losses == pytest.approx([math.log(9), math.log(8)], rel=1e-5)  # nobody's rows, then the first batch's keys
    assert torch.equal(task.queue.index, index)
    restored = _flat(queue=8, skip_own=True)
    restored.load_state_dict(task.state_dict())
    assert restored.queue_loss(views, views, torch.arange(8), index).item() == pytest.approx(math.log(8), rel=1e-5)
    assert "queue.index" not in _flat(queue=8).state_dict()


def test_the_queue_wraps_and_keeps_the_newest_keys_in_order():
    task, keys = _flat(queue=20), torch.randn(5, 8, 3, 2, 2)
    for part in keys:
        task.queue_loss(part, part, torch.arange(8))
    rows = functional.normalize(keys.reshape(40, 12), dim=1)
    assert task.queue.pointer.item() == 0
    assert torch.allclose(task.queue.rows, rows[20:])
    task.queue_loss(keys[0], keys[0], torch.arange(8))
    assert task.queue.pointer.item() == 8
    assert torch.allclose(task.queue.rows[:8], rows[:8])


def test_evaluation_leaves_the_queue_alone():
    task = _task().eval()
    before = task.queue.rows.clone()
    task.loss(_batch())
    assert torch.equal(task.queue.rows, before)


def test_the_loss_is_the_papers_for_the_networks_own_vectors():
    task, batch = _task(key_group=0), _batch()
    first, second = task.photometric.pair(batch)
    queue = task.queue.rows.double().clone()
    query = functional.normalize(task.projector(task.encoder(first)).detach().double(), dim=1)
    key = functional.normalize(task.teacher(second).double(), dim=1)
    terms = []
    for q, k in zip(query, key, strict=True):
        positive, negatives = math.exp(q @ k / 0.2), sum(math.exp(q @ n / 0.2) for n in queue)
        terms.append(-math.log(positive / (positive + negatives)))
    assert task.loss(batch)["loss"].item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_key_groups_share_statistics_and_rows_come_back_in_place():
    norm, images, order = nn.BatchNorm1d(3), torch.randn(12, 3), torch.randperm(12)
    rows = moco.grouped(norm, images, order, 4)
    for start in range(0, 12, 4):
        group = order[start : start + 4]
        expected = nn.BatchNorm1d(3)(images[group])
        assert torch.allclose(rows[group], expected, atol=1e-6)
    assert not torch.allclose(rows, nn.BatchNorm1d(3)(images), atol=1e-2)
    linear = nn.Linear(3, 2)
    assert torch.allclose(moco.grouped(linear, images, order, 4), linear(images), atol=1e-6)


@pytest.mark.parametrize(("count", "size", "expected"), [(10, 4, [5, 5]), (7, 4, [7]), (8, 0, [8]), (8, 8, [8])])
def test_groups_are_never_smaller_than_asked_for(count, size, expected):
    seen: list[int] = []

    class Counting(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(len(images))
            return images

    moco.grouped(Counting(), torch.randn(count, 2), torch.randperm(count), size)
    assert seen == expected


# --- version 3


def test_version_3_of_equal_vectors_has_its_closed_form():
    task = _task(version=3)
    task.projector = task.predictor = nn.Identity()
    task.teacher[1] = nn.Identity()
    for encoder in (task.encoder, task.teacher[0]):
        nn.init.zeros_(encoder.layers[3].weight)
        nn.init.ones_(encoder.layers[3].bias)
    assert task.loss(_batch(8))["loss"].item() == pytest.approx(2 * 2 * 0.2 * math.log(8), rel=1e-5)
    twins = {**_batch(8), "index": torch.tensor([0, 1, 2, 3, 4, 5, 6, 0])}  # of an image that is there twice
    expected = 2 * 2 * 0.2 * (2 * math.log(7) + 6 * math.log(8)) / 8
    assert task.loss(twins)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_version_3_is_symmetric_and_takes_the_other_views_keys():
    task, batch = _task(version=3), _batch()
    first, second = task.photometric.pair(batch)
    loss = task.symmetric_loss(first, second)
    assert torch.allclose(task.symmetric_loss(second, first), loss, atol=1e-5)

    features = task.encoder(torch.cat([first, second]))
    keys = task.teacher[0](torch.cat([first, second]))
    total = 0.0
    for mine, other in [(0, 1), (1, 0)]:
        query = functional.normalize(task.predictor(task.projector(features.chunk(2)[mine])), dim=1)
        key = functional.normalize(task.teacher[1](keys.chunk(2)[other]), dim=1)
        total += 2 * 0.2 * functional.cross_entropy(query @ key.T / 0.2, torch.arange(8))
    assert torch.allclose(loss, total, atol=1e-5)


def test_a_transformers_patch_projection_stays_random():
    task = _task(Patches(), version=3)
    task.loss(_batch())["loss"].backward()
    assert all(p.grad is None for p in task.encoder.patch_embed.parameters())
    assert all(p.grad is not None for p in task.encoder.mix.parameters())
    linear = [module for module in task.projector if isinstance(module, nn.Linear)]
    assert len(linear) == 3  # and two for convolutional networks
    assert len([module for module in _task(version=3).projector if isinstance(module, nn.Linear)]) == 2


def test_version_2_trains_the_patch_projection_too():
    task = _task(Patches())
    task.loss(_batch())["loss"].backward()
    assert all(p.grad is not None for p in task.encoder.parameters())


# --- both


@pytest.mark.parametrize("version", [2, 3])
def test_no_gradient_reaches_the_copy_and_no_optimizer_knows_it(version):
    task = _task(version=version)
    task.loss(_batch())["loss"].backward()
    teacher = {id(p) for p in task.teacher.parameters()}
    assert all(p.grad is None and not p.requires_grad for p in task.teacher.parameters())
    learners = [p for p in task.parameters() if id(p) not in teacher]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learners)
    groups = optim.groups(task, Stage(steps=1))
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in learners}


@pytest.mark.parametrize(("version", "step", "decay"), [(2, 3, 0.999), (2, 10, 0.999), (3, 0, 0.99), (3, 5, 0.995)])
def test_the_copy_moves_by_the_published_amount(version, step, decay):
    task = _task(version=version)
    with torch.no_grad():
        for parameter in [*task.encoder.parameters(), *task.projector.parameters()]:
            parameter.add_(torch.randn_like(parameter))
    before = [p.clone() for p in task.teacher.parameters()]
    students = [*task.encoder.parameters(), *task.projector.parameters()]
    task.after_update(_progress(step))
    for now, old, student in zip(task.teacher.parameters(), before, students, strict=True):
        assert torch.allclose(now, decay * old + (1 - decay) * student, atol=1e-6)


def test_at_the_end_of_version_3_the_copy_stands_still():
    task = _task(version=3)
    with torch.no_grad():
        task.encoder.layers[0].weight.add_(1)
    before = task.teacher[0].layers[0].weight.clone()
    task.after_update(_progress(10))
    assert torch.equal(task.teacher[0].layers[0].weight, before)


def test_the_copy_keeps_running_statistics_of_its_own():
    task = _task()
    task.loss(_batch())
    own = task.teacher[0].layers[1].running_mean.clone()
    task.after_update(_progress(1))
    assert torch.equal(task.teacher[0].layers[1].running_mean, own)
    assert not torch.equal(own, task.encoder.layers[1].running_mean)


@pytest.mark.parametrize("version", [2, 3])
def test_a_resumed_task_has_the_next_loss_of_the_uninterrupted_one(version):
    task, stage = _task(version=version), Stage(steps=5, optimizer="sgd", lr=0.1).resolved(40)
    optimizer = optim.build(task, stage)
    for step in range(3):
        task.loss(_batch(seed=step))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        task.after_update(_progress(step + 1, 5))
    other = _task(version=version)
    other.load_state_dict(task.state_dict())
    batch = _batch(seed=3)
    assert torch.equal(task.loss(batch)["loss"], other.loss(batch)["loss"])


@pytest.mark.slow
def test_training_tells_images_apart():
    """Version 3 on one batch; version 2 on four in turn, of which two are in the queue."""
    task = _task(version=3, decay=0.5)
    assert _fall(task, lambda step: _batch(8), 30) < 0.8

    task = _task(decay=0.9, queue=16)
    assert _fall(task, lambda step: _batch(8, seed=step % 4), 60) < 0.95


def _fall(task: MoCo, batch: Callable[[int], Batch], steps: int) -> float:
    """Train; the mean loss of the last five updates as a share of that of the first five."""
    optimizer = torch.optim.Adam([p for p in task.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = task.loss(batch(step))["loss"]
        loss.backward()
        optimizer.step()
        task.after_update(_progress(step + 1, 1000))
        losses.append(loss.item())
    return sum(losses[-5:]) / sum(losses[:5])


def test_encoding_uses_the_network_that_learns():
    task = _task().eval()
    image = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    before = task.encode({"image": image})
    with torch.no_grad():
        for parameter in task.teacher.parameters():
            parameter.zero_()
    assert before.shape == (2, 8)
    assert torch.equal(task.encode({"image": image}), before)


def test_wrong_options_are_refused_with_what_is_right():
    with pytest.raises(UsageError, match="expected 2 or 3"):
        _task(version=1)
    with pytest.raises(UsageError, match="never move the copy"):
        _task(decay=1.0)


def test_recipes_have_keywords_the_task_accepts():
    for recipe in (moco.quick(), moco.tiny()):
        assert MoCo(Conv(), **recipe.task.options).version == 2
    assert moco.paper().task.options == {}
