"""SimCLR: the published loss on the task's own projections, and two processes that train as one."""

from __future__ import annotations

import math
import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from unlabel import Stage, optim
from unlabel.data import Draw
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.nn.batchnorm import BatchNorm
from unlabel.task import Batch
from unlabel_vision.tasks import simclr
from unlabel_vision.tasks.simclr import SimCLR


class Conv(nn.Module):
    """A convolutional encoder of a few hundred parameters."""

    def __init__(self, image_size: int = 16, dim: int = 8) -> None:
        super().__init__()
        self.image_size, self.dim = image_size, dim
        self.layers = nn.Sequential(
            nn.Conv2d(3, dim, 5, stride=3), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.to(self.layers[0].weight.dtype)).mean((2, 3))


class Flat(nn.Module):
    """An encoder that returns the pixels of 2 x 2 images."""

    image_size, dim = 2, 12

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _task(**options: object) -> SimCLR:
    torch.manual_seed(0)
    return SimCLR(Conv(), **{"hidden": 16, "out": 8, "temperature": 0.5, "strength": 0.5, "blur": 0.0, **options})


def _batch(count: int = 8, seed: int = 0) -> Batch:
    """Views of distinct images: the second is the first, a little changed."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    other = np.clip(image.astype(int) + rng.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)
    number = torch.arange(count)
    images = {"view1": torch.from_numpy(image), "view2": torch.from_numpy(other)}
    return {**images, "key": number * 31 + seed, "index": number}


def test_the_loss_of_equal_embeddings_is_the_log_of_the_number_of_others():
    task = _task()
    nn.init.zeros_(task.projector[-1].weight)
    nn.init.ones_(task.projector[-1].bias)
    assert task.loss(_batch(8))["loss"].item() == pytest.approx(math.log(15), rel=1e-5)


def test_an_image_that_is_twice_in_the_batch_is_no_negative_of_itself():
    task = _task()
    nn.init.zeros_(task.projector[-1].weight)
    nn.init.ones_(task.projector[-1].bias)
    twins = {**_batch(8), "index": torch.tensor([0, 1, 2, 3, 4, 5, 6, 0])}
    expected = (4 * math.log(13) + 12 * math.log(15)) / 16  # two of the fifteen others are of the same image
    assert task.loss(twins)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_loss_and_gradient_match_golden(shared):
    data = np.load(shared / "golden/vision-survey/ntxent_t0.5.npz")
    task = SimCLR(Flat(), temperature=0.5)
    task.projector = nn.Identity()
    first, second = (torch.from_numpy(data[name]).view(8, 3, 2, 2).requires_grad_() for name in ("z0", "z1"))
    loss = task.loss_of(first, second)
    loss.backward()
    assert loss.item() == pytest.approx(float(data["loss"]), abs=1e-5)
    assert np.allclose(first.grad.flatten(1).numpy(), data["g0"], atol=1e-6)
    assert np.allclose(second.grad.flatten(1).numpy(), data["g1"], atol=1e-6)


def test_the_loss_is_the_papers_mean_over_all_views_of_the_projections():
    task, count = _task(), 6
    seen: list[Tensor] = []
    task.projector.register_forward_hook(lambda *parts: seen.append(parts[2].detach().double()))
    loss = task.loss(_batch(count))["loss"].item()
    assert len(seen) == 1  # both views in one forward pass
    z = nn.functional.normalize(seen[0], dim=1).numpy()
    terms = []
    for i in range(2 * count):
        others = [math.exp(z[i] @ z[k] / 0.5) for k in range(2 * count) if k != i]
        terms.append(-math.log(math.exp(z[i] @ z[(i + count) % (2 * count)] / 0.5) / sum(others)))
    assert loss == pytest.approx(np.mean(terms), rel=1e-5)


def test_the_order_of_samples_does_not_matter_and_their_pairing_does():
    task, batch = _task(), _batch(8)
    order = torch.randperm(8)
    loss = task.loss(batch)["loss"]
    assert torch.allclose(task.loss({name: value[order] for name, value in batch.items()})["loss"], loss, atol=1e-5)
    assert task.loss({**batch, "view2": batch["view2"].roll(1, 0)})["loss"] > loss + 0.01


def test_the_two_views_get_colours_of_their_own_from_the_key():
    task, batch = _task(strength=1.0), _batch(8)
    same = {**batch, "view2": batch["view1"]}
    pictures = task.show(same)["views"]
    assert pictures.dtype == np.uint8
    assert not np.array_equal(pictures[:16], pictures[-16:])
    assert np.array_equal(pictures, task.show(same)["views"])
    assert not np.array_equal(pictures, task.show({**same, "key": same["key"] + 1})["views"])


def test_every_parameter_learns_and_the_batch_stays_as_it_was():
    task, batch = _task(), _batch()
    before = {name: value.clone() for name, value in batch.items()}
    task.loss(batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.parameters())
    assert all(torch.equal(before[name], batch[name]) for name in batch)


def test_training_tells_eight_images_apart():
    task, batch = _task(temperature=0.2), _batch(8)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = task.loss(batch)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5
    assert losses[-1] < 0.7 * losses[0]


def test_samples_become_two_crops_and_evaluation_sees_the_plain_image():
    task, rng = _task(), np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    views = task.transform()({"image": image, "label": 1}, Draw(rng))
    assert views["view1"].shape == views["view2"].shape == (16, 16, 3)
    assert not np.array_equal(views["view1"], views["view2"])
    plain = torch.from_numpy(task.eval_transform()({"image": image}, Draw(rng))["image"])[None]
    task.eval()
    features = task.encode({"image": plain})
    assert features.shape == (1, 8)
    assert torch.equal(features, task.encode({"image": plain}))


def test_batch_statistics_are_those_of_all_processes():
    assert {type(part) for part in _task().modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)} == {
        BatchNorm
    }


def test_encoders_that_are_none_are_refused():
    with pytest.raises(UsageError, match="offers no `dim`"):
        SimCLR(nn.Linear(2, 2))


def test_recipes_have_keywords_the_task_accepts():
    for recipe in (simclr.paper(), simclr.quick(), simclr.tiny()):
        assert SimCLR(Conv(), **recipe.task.options).temperature > 0
    assert simclr.paper().stages[0].peak_lr == pytest.approx(4.8)


# --- two processes


def _train(half: slice, steps: int = 20) -> dict[str, np.ndarray]:
    """Twenty updates on this process's part of every batch; the state afterwards."""
    stage = Stage(steps=steps, batch_size=8, optimizer="sgd", lr=0.05, weight_decay=1e-4).resolved(80)
    engine, task = Engine("cpu", "fp32"), _task(blur=0.5).double()
    engine.prepare(task)
    task.train()
    optimizers = {"main": optim.build(task, stage)}
    for step in range(steps):
        batch = {name: value[half] for name, value in _batch(8, seed=step).items()}
        task.training_step([batch], optimizers, engine, stage)
    return {name: value.numpy() for name, value in task.state_dict().items()}


def _process(rank: int, port: int, results: torch.multiprocessing.SimpleQueue) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    state = _train(slice(4 * rank, 4 * rank + 4))
    if rank == 0:
        results.put(state)
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_as_one_on_the_same_global_batch():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    context = torch.multiprocessing.spawn(_process, (port, results), nprocs=2, join=False)
    together = results.get()
    while not context.join():
        pass
    alone = _train(slice(None))
    start = _task().state_dict()
    assert together.keys() == alone.keys()
    for name, expected in alone.items():
        # in float64, so that twenty updates multiply rounding only, and any systematic difference shows
        assert np.allclose(together[name], expected, rtol=0, atol=1e-10), name
    moved = max(np.abs(alone[name] - start[name].numpy()).max() for name in alone if "running" not in name)
    assert moved > 1e-2  # it did train


class Smooth(Conv):
    """The same without batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, stride=3), nn.ReLU(), nn.Dropout2d(0.0), nn.Conv2d(8, 8, 3))


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_the_gradient_does_not_depend_on_the_chunk(chunk: int) -> None:
    """The projector, which normalises over the batch, sees all of it in either case."""
    found = []
    for size in (None, chunk):
        torch.manual_seed(0)
        task = SimCLR(Smooth(), hidden=16, out=8, temperature=0.5, strength=0.5, blur=0.0, chunk=size).double()
        first, second = torch.rand(2, 8, 3, 16, 16, dtype=torch.float64)
        task.loss_of(first, second).backward()
        found.append([parameter.grad for parameter in task.parameters()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_chunks_of_an_encoder_with_batch_normalisation_are_refused() -> None:
    with pytest.raises(UsageError, match=r"Conv normalises over the batch \(layers.1\)"):
        _task(chunk=4)
