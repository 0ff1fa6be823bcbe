"""Boxes: areas, overlaps and maps read at them, against loops over cells."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from unlabel.errors import UsageError
from unlabel.nn import boxes


def drawn(count: int, axes: int, seed: int = 0, side: int = 9) -> Tensor:
    """Whole-numbered boxes, some of them empty."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, side, (count, axes))
    return torch.from_numpy(np.concatenate([start, start + rng.integers(0, side, (count, axes))], axis=1))


def cells(box: Tensor) -> set[tuple[int, ...]]:
    start, end = box.tolist()[: len(box) // 2], box.tolist()[len(box) // 2 :]
    return set(itertools.product(*(range(a, b) for a, b in zip(start, end, strict=True))))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_areas_and_overlaps_count_cells(axes: int) -> None:
    first, second = drawn(6, axes), drawn(5, axes, seed=1)
    assert boxes.areas(first).tolist() == [len(cells(box)) for box in first]
    common, share = boxes.intersections(first, second), boxes.iou(first, second)
    for i, j in itertools.product(range(6), range(5)):
        one, other = cells(first[i]), cells(second[j])
        assert common[i, j] == len(one & other)
        assert share[i, j].item() == pytest.approx(len(one & other) / max(1, len(one | other)))


def test_a_box_that_ends_before_it_starts_has_no_area_and_no_overlap() -> None:
    inside_out, whole = torch.tensor([[4.0, 4.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])
    assert boxes.areas(inside_out).item() == boxes.intersections(inside_out, whole).item() == 0
    assert boxes.iou(inside_out, inside_out).item() == 0


def test_boxes_of_sizes_start_and_end() -> None:
    assert boxes.of_sizes(torch.tensor([2, 3, 10, 20])).tolist() == [2, 3, 12, 23]


def test_a_frame_spans_zero_to_one() -> None:
    frame = torch.tensor([10.0, 20.0, 30.0, 60.0])
    inside = torch.tensor([[10.0, 20.0, 30.0, 60.0], [15.0, 30.0, 20.0, 40.0], [0.0, 20.0, 50.0, 60.0]])
    assert boxes.relative(inside, frame).tolist() == [[0, 0, 1, 1], [0.25, 0.25, 0.5, 0.5], [-0.5, 0, 2, 1]]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_centres_are_in_the_middle_of_each_cell_and_run_backwards_where_mirrored(axes: int) -> None:
    box, grid = torch.tensor([2.0, 4.0, 8.0][:axes] + [6.0, 10.0, 9.0][:axes]), (2, 3, 4)[:axes]
    mirrored = torch.tensor([False, True, True][:axes])
    for backwards in (None, mirrored):
        expected = []
        for place in itertools.product(*(range(count) for count in grid)):
            point = []
            for axis, number in enumerate(place):
                turned = backwards is not None and bool(backwards[axis])
                step = (box[axes + axis] - box[axis]).item() / grid[axis]
                point.append(box[axis].item() + step * ((grid[axis] - 1 - number if turned else number) + 0.5))
            expected.append(point)
        assert torch.allclose(boxes.centres(box, grid, backwards), torch.tensor(expected))


@pytest.mark.parametrize("size", [(7,), (5, 7), (4, 5, 7)])
def test_maps_are_read_linearly_between_centres_and_go_on_as_they_end(size: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 3, *size)).astype(np.float32)
    points = rng.uniform(-0.2, 1.2, size=(2, 11, len(size))).astype(np.float32)
    ours = boxes.sample(torch.from_numpy(maps), torch.from_numpy(points))
    for n in range(2):
        where = (points[n] * size - 0.5).T
        for channel in range(3):
            expected = ndimage.map_coordinates(maps[n, channel], where, order=1, mode="nearest")
            assert np.allclose(ours[n, :, channel], expected, atol=1e-5)


def test_a_map_read_at_the_centres_of_all_of_it_is_the_map() -> None:
    maps = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    points = boxes.centres(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 2), (4, 5))
    assert torch.allclose(boxes.sample(maps, points), maps.flatten(2).transpose(1, 2), atol=1e-6)
    quarter = boxes.centres(torch.tensor([[0.0, 0.0, 0.5, 0.4]] * 2), (2, 2))
    assert torch.allclose(boxes.sample(maps, quarter), maps[..., :2, :2].flatten(2).transpose(1, 2), atol=1e-6)


def test_points_of_another_number_of_axes_are_refused() -> None:
    with pytest.raises(UsageError, match="maps of 2 axes cannot be read at points of 3"):
        boxes.sample(torch.zeros(1, 1, 2, 2), torch.zeros(1, 4, 3))
