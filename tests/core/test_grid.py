"""Hiding tokens on grids: unions of boxes against loops, and the same places at all times."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unlabel.nn import grid, patches
from unlabel.nn.boxes import of_sizes

SIZES = [(12,), (7, 9), (4, 5, 6)]


def drawn(size: tuple[int, ...], count: int = 3, boxes: int = 8, seed: int = 0) -> np.ndarray:
    """Starts and lengths of boxes, some of which reach out of the grid."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, size, (count, boxes, len(size)))
    return np.concatenate([start, rng.integers(0, 4, (count, boxes, len(size)))], axis=-1)


def painted(boxes: np.ndarray, size: tuple[int, ...], wanted: float) -> np.ndarray:
    """One box after the other, until enough is covered."""
    mask = np.zeros(size, dtype=bool)
    for box in boxes:
        mask[tuple(slice(a, a + n) for a, n in zip(*np.split(box, 2), strict=True))] = True
        if mask.sum() >= wanted:
            break
    return mask


@pytest.mark.parametrize("size", SIZES)
def test_boxes_cover_what_a_loop_paints_until_it_is_enough(size: tuple[int, ...]) -> None:
    sizes = drawn(size)
    boxes = of_sizes(torch.from_numpy(sizes))
    wanted = np.array([0.2, 0.5, 2.0]) * np.prod(size)  # the last is more than there is
    expected = [painted(box, size, enough) for box, enough in zip(sizes, wanted, strict=True)]
    assert np.array_equal(grid.cover(boxes, torch.from_numpy(wanted), size), expected)
    everything = [painted(box, size, np.inf) for box in sizes]
    assert np.array_equal(grid.union(boxes, size), everything)


def test_boxes_that_do_not_count_hide_nothing() -> None:
    boxes = of_sizes(torch.from_numpy(drawn((7, 9))))
    counted = torch.arange(8) < torch.tensor([[0], [3], [8]])
    ours = grid.union(boxes, (7, 9), counted)
    assert ours[0].sum() == 0
    assert torch.equal(ours[1], grid.union(boxes[1:2, :3], (7, 9))[0])
    assert torch.equal(ours[2], grid.union(boxes, (7, 9))[2])


def test_a_tube_hides_the_same_places_at_all_times() -> None:
    noise = torch.rand(4, 10, generator=torch.Generator().manual_seed(0))
    noise[0] = 0.5  # equal values, too, stay together
    mask = grid.tube(noise, kept=3, times=5)
    frames = mask.mask.view(4, 5, 10)
    assert torch.equal(frames, frames[:, :1].expand_as(frames))
    assert (frames == 0).sum(-1).unique().tolist() == [3]
    smallest = noise[1:].argsort(dim=1)[:, :3].sort(dim=1).values
    assert torch.equal((frames[1:, 0] == 0).nonzero()[:, 1].view(3, 3), smallest)
    tokens = torch.arange(50).expand(4, 50)
    shuffled = tokens.gather(1, mask.order)
    assert torch.equal(shuffled.gather(1, mask.restore), tokens)
    assert torch.equal(mask.mask.gather(1, mask.keep), torch.zeros(4, 15))


@pytest.mark.parametrize(("size", "patch"), [((3,), 2), ((2, 3), (2, 1)), ((2, 2, 3), (1, 2, 3))])
def test_an_enlarged_mask_hides_whole_patches(size: tuple[int, ...], patch: int | tuple[int, ...]) -> None:
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) < 0.5
    cut = patches.patchify(grid.enlarged(mask, patch)[:, None], patch)
    assert torch.equal(cut, mask.flatten(1)[..., None].expand_as(cut))
