"""Jigsaw: permutations far apart, tiles from their cells, nothing given away by brightness."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from unlabel.data import Draw
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_vision.tasks import jigsaw
from unlabel_vision.tasks.jigsaw import Jigsaw


class Conv(nn.Module):
    """A convolutional encoder that takes images of any size."""

    def __init__(self, image_size: int = 24, dim: int = 8) -> None:
        super().__init__()
        self.image_size, self.dim = image_size, dim
        self.layers = nn.Sequential(nn.Conv2d(3, dim, 3, stride=2), nn.BatchNorm2d(dim), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images).mean((2, 3))


class Fixed(nn.Module):
    """An encoder that takes images of one size only, as transformers do."""

    def __init__(self, image_size: int, dim: int = 8) -> None:
        super().__init__()
        self.image_size, self.dim = image_size, dim
        self.linear = nn.Linear(3 * image_size**2, dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1))


def _task(encoder: nn.Module | None = None, **options: object) -> Jigsaw:
    torch.manual_seed(0)
    defaults = {"permutations": 12, "cell": 8, "tile": 6, "tile_dim": 8, "hidden": 32}
    return Jigsaw(encoder or Conv(), **{**defaults, **options})


def _batch(count: int = 8, side: int = 24, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    return {"image": image, "key": torch.arange(count) * 31 + seed}


def _distances(table: np.ndarray) -> np.ndarray:
    apart = (table[:, None] != table[None]).sum(-1)
    return apart[np.triu_indices(len(table), 1)]


# --- permutations


@pytest.mark.slow
@pytest.mark.parametrize(("count", "least", "mean"), [(9, 9, 9.0), (35, 7, 8.0), (100, 6, 8.0), (1000, 5, 8.0)])
def test_permutations_are_far_apart(count, least, mean):
    table = jigsaw.permutation_set(count)
    assert table.shape == (count, 9)
    assert table.dtype == np.int64
    assert np.array_equal(np.sort(table, axis=1), np.tile(np.arange(9), (count, 1)))
    distances = _distances(table)
    assert distances.min() >= least
    assert distances.mean() >= mean - 1e-9  # random permutations have 8 on average, and 2 at least


@pytest.mark.parametrize("seed", [0, 3])
def test_each_permutation_is_the_farthest_from_those_before(seed):
    table = jigsaw.permutation_set(8, tiles=4, seed=seed)
    everything = np.array(list(itertools.permutations(range(4))))
    for number in range(1, len(table)):
        apart = (everything[:, None] != table[None, :number]).sum(-1)
        score = [(row.min(), row.sum()) for row in apart]
        mine = (table[number] != table[:number]).sum(-1)
        assert (mine.min(), mine.sum()) == max(score)


def test_the_set_is_a_function_of_its_arguments_and_grows_in_place():
    table = jigsaw.permutation_set(20)
    assert np.array_equal(table, jigsaw.permutation_set(20))
    assert np.array_equal(table[:10], jigsaw.permutation_set(10))
    assert not np.array_equal(table, jigsaw.permutation_set(20, seed=1))
    every = jigsaw.permutation_set(24, tiles=4)
    assert len({tuple(row) for row in every.tolist()}) == 24


@pytest.mark.parametrize(("count", "tiles"), [(25, 4), (0, 4), (10, 10)])
def test_sets_that_cannot_be_are_refused(count, tiles):
    with pytest.raises(UsageError, match="expected"):
        jigsaw.permutation_set(count, tiles)


# --- tiles


def test_tiles_come_from_their_cell_in_the_order_asked_for():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 24, 24, 2, generator=generator)
    order = torch.stack([torch.randperm(9, generator=generator) for _ in range(3)])
    corner = torch.randint(0, 3, (3, 9, 2), generator=generator)
    tiles = jigsaw.cut(images, order, corner, cell=8, tile=6)
    assert tiles.shape == (3, 9, 6, 6, 2)
    for n, place in itertools.product(range(3), range(9)):
        row, column = divmod(int(order[n, place]), 3)
        top, left = 8 * row + int(corner[n, place, 0]), 8 * column + int(corner[n, place, 1])
        assert torch.equal(tiles[n, place], images[n, top : top + 6, left : left + 6])


def test_random_places_reach_every_corner_of_a_cell_and_never_leave_it():
    task = _task(gray=0.0)
    side = torch.arange(24, dtype=torch.uint8)
    position = torch.stack([side[:, None].expand(24, 24), side[None].expand(24, 24), 0 * side[None].expand(24, 24)], -1)
    tiles, answer = task._shuffled({"image": position.expand(200, -1, -1, -1), "key": torch.arange(200)})
    pixels = (tiles * 255).round().long()  # (200, 9, 6, 6, 3): row and column of each pixel
    order = task.permutations[answer]
    assert torch.equal(pixels[..., 0] // 8, (order // 3)[..., None, None].expand(-1, -1, 6, 6))
    assert torch.equal(pixels[..., 1] // 8, (order % 3)[..., None, None].expand(-1, -1, 6, 6))
    offsets = (pixels[:, :, 0, 0, :2] % 8).flatten(0, 1).unique(dim=0)
    assert offsets.tolist() == [[row, column] for row in range(3) for column in range(3)]


def test_tiles_lose_their_brightness_and_contrast():
    tiles = torch.rand(4, 9, 6, 6, 3)
    ours = jigsaw.normalise(tiles)
    assert torch.allclose(ours.mean((2, 3)), torch.zeros(4, 9, 3), atol=1e-5)
    assert torch.allclose(ours.std((2, 3), correction=0), torch.ones(4, 9, 3), atol=1e-4)
    factor, shift = torch.rand(4, 9, 1, 1, 3) + 0.5, torch.rand(4, 9, 1, 1, 3)
    assert torch.allclose(jigsaw.normalise(tiles * factor + shift), ours, atol=1e-4)
    assert torch.equal(jigsaw.normalise(torch.full((1, 4, 4, 3), 0.25)), torch.zeros(1, 4, 4, 3))


# --- the task


def test_loss_and_accuracy_of_an_undecided_head_are_chance():
    task = _task()
    nn.init.zeros_(task.head[-1].weight)
    nn.init.zeros_(task.head[-1].bias)
    assert task.loss(_batch())["loss"].item() == pytest.approx(math.log(12), rel=1e-6)


def test_every_permutation_is_asked_for_and_the_key_alone_decides_which():
    task, batch = _task(), _batch(400)
    _, answer = task._puzzle(batch)
    assert answer.unique().tolist() == list(range(12))
    order = torch.randperm(400)
    tiles, shuffled = task._puzzle({name: value[order] for name, value in batch.items()})
    assert torch.equal(shuffled, answer[order])
    assert torch.equal(tiles, task._puzzle(batch)[0][order])
    assert not torch.equal(task._puzzle({**batch, "key": batch["key"] + 1})[1], answer)


def test_the_order_of_tiles_is_all_that_differs_between_answers():
    """The same image under every permutation: sorted by cell, the tiles are the same."""
    task = _task(tile=8, gray=0.0)
    image = _batch(1)["image"].expand(60, -1, -1, -1)
    tiles, answer = task._puzzle({"image": image, "key": torch.arange(60)})
    back = task.permutations[answer].argsort(dim=1)
    sorted_tiles = tiles[torch.arange(60)[:, None], back]
    assert torch.equal(sorted_tiles, sorted_tiles[:1].expand_as(sorted_tiles))


def test_puzzles_of_a_small_set_are_learnt():
    """Images whose cells are recognisable by their stripes: what is learnt from some keys solves others."""
    task = _task(permutations=4, gray=0.0)
    rows = torch.arange(24)
    stripes = torch.stack([((rows[:, None] * (1 + k // 3) + rows[None] * (k % 3)) % 4 < 2) for k in range(9)]).float()
    cells = (rows[:, None] // 8 * 3 + rows[None] // 8)[None]
    image = torch.where(torch.arange(9)[:, None, None] == cells, stripes, torch.zeros(())).sum(0)
    image = (image * 200).to(torch.uint8)[None, :, :, None].expand(32, -1, -1, 3)
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    for step in range(25):
        optimizer.zero_grad()
        task.loss({"image": image, "key": torch.arange(32) + 100 * step})["loss"].backward()
        optimizer.step()
    assert task.loss({"image": image, "key": torch.arange(32) + 10_000})["accuracy"].item() > 0.9


def test_every_parameter_learns():
    task = _task()
    task.loss(_batch())["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in task.parameters())


def test_the_permutations_travel_with_the_weights():
    task, other = _task(), _task()
    other.permutations.zero_()
    other.load_state_dict(task.state_dict())
    assert torch.equal(other.permutations, torch.from_numpy(jigsaw.permutation_set(12)))


def test_evaluation_encodes_whole_images_of_the_encoders_size():
    task, rng = _task().eval(), np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
    assert task.transform()({"image": image}, Draw(rng))["image"].shape == (24, 24, 3)
    plain = task.eval_transform()({"image": image}, Draw(rng))["image"]
    features = task.encode({"image": torch.from_numpy(plain)[None]})
    assert features.shape == (1, 8)
    assert torch.equal(features, task.encode({"image": torch.from_numpy(plain)[None]}))


def test_pictures_show_nine_tiles_an_image():
    sheet = _task().show(_batch(3))["puzzles"]
    assert sheet.dtype == np.uint8
    assert sheet.shape == (3 * 6 + 4, 3 * (3 * 6 + 4) + 16, 3)


def test_encoders_that_do_not_accept_tiles_are_refused_with_what_to_set():
    with pytest.raises(UsageError, match=r"Fixed does not accept tiles of 6 x 6.*encoder.image_size=6"):
        _task(Fixed(24))
    assert _task(Fixed(6)).loss(_batch())["loss"].item() > 0
    with pytest.raises(UsageError, match="tile 9 does not fit into cell 8"):
        _task(tile=9)


def test_the_check_of_an_encoder_leaves_it_as_it_was():
    encoder = Conv()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    _task(encoder)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_recipes_have_keywords_the_task_accepts():
    for recipe in (jigsaw.quick(), jigsaw.tiny()):
        assert len(Jigsaw(Conv(), **recipe.task.options).permutations) == recipe.task.options["permutations"]
    assert jigsaw.paper().task.options == {}
