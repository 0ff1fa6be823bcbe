"""The dense probe: places stay where they are, labels are counted exactly, items do not leak, scores are exact."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from torch import Tensor

from unlabel import data
from unlabel.errors import RunError, UsageError
from unlabel.evaluate import dense_probe, metrics
from unlabel.evaluate.dense_probe import Covered


def test_windows_cover_every_element_and_end_with_the_item() -> None:
    for size, window, stride in (((10,), (4,), (3,)), ((7, 12), (7, 5), (5, 4)), ((5, 5, 6), (5, 3, 2), (1, 2, 2))):
        places = dense_probe.corners(size, window, stride)
        seen = np.zeros(size, dtype=int)
        for corner in places:
            seen[tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))] += 1
        assert seen.min() >= 1
        assert len(set(places)) == len(places)
        assert places[-1] == tuple(s - w for s, w in zip(size, window, strict=True))


@pytest.mark.parametrize(("size", "window", "stride"), [((3,), (4,), (1,)), ((5,), (4,), (0,))])
def test_windows_that_do_not_fit_are_refused(
    size: tuple[int, ...], window: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        dense_probe.corners(size, window, stride)


@pytest.mark.parametrize("size", [(9, 14), (12, 8), (31, 17)])
def test_each_element_is_counted_in_the_cell_its_centre_lies_in(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 3, size)
    resampled, corner, window, grid = (12, 16), (4, 6), (8, 8), (4, 2)
    expected = np.zeros((8, 3), dtype=int)
    for row in range(size[0]):  # the slow way, in exact arithmetic of halves
        for column in range(size[1]):
            y = (2 * row + 1) * resampled[0] / (2 * size[0]) - corner[0]
            x = (2 * column + 1) * resampled[1] / (2 * size[1]) - corner[1]
            if 0 <= y < window[0] and 0 <= x < window[1] and labels[row, column] >= 0:
                cell = int(y // (window[0] / grid[0])) * grid[1] + int(x // (window[1] / grid[1]))
                expected[cell, labels[row, column]] += 1
    found = dense_probe.cell_counts(torch.from_numpy(labels), resampled, corner, window, grid, 3)
    assert np.array_equal(found.numpy(), expected)


def test_windows_side_by_side_count_every_label_once_in_three_dimensions() -> None:
    labels = torch.from_numpy(np.random.default_rng(1).integers(-1, 4, (6, 10, 4)))
    counts = sum(
        dense_probe.cell_counts(labels, (12, 20, 8), corner, (6, 10, 8), (3, 5, 2), 4)
        for corner in dense_probe.corners((12, 20, 8), (6, 10, 8), (6, 10, 8))
    )
    assert isinstance(counts, Tensor)
    assert torch.equal(counts.sum(0), torch.bincount(labels[labels >= 0], minlength=4))


def test_overlapping_windows_are_averaged_where_they_overlap() -> None:
    scores = torch.tensor([[[1.0, 1.0]], [[3.0, 3.0]]])  # two windows of two cells, one class
    found = dense_probe.stitched(scores, [(0,), (2,)], (4,), (6,), (6,), "nearest")
    assert found.tolist() == [[1, 1, 2, 2, 3, 3]]


def test_linear_resampling_is_exact_for_a_ramp_inside_the_item() -> None:
    cells = torch.arange(8.0)[None, None].expand(1, 1, 8)  # the value at a cell's centre is its number
    found = dense_probe.stitched(cells, [(0,)], (32,), (32,), (64,))[0]
    places = (torch.arange(64.0) + 0.5) / 8 - 0.5
    torch.testing.assert_close(found[6:-6], places[6:-6], atol=1e-5, rtol=0)


def one_hot(labels: Tensor, classes: int) -> Covered:
    """An item of which each element is a cell, with its class as features; 0 where there is no label."""
    features = torch.nn.functional.one_hot(labels.clamp(min=0), classes).movedim(-1, 0).float()
    return Covered(features[None], [(0,) * labels.ndim], tuple(labels.shape), tuple(labels.shape), labels)


def random_items(count: int, size: tuple[int, ...], classes: int, seed: int) -> list[Covered]:
    generator = torch.Generator().manual_seed(seed)
    return [one_hot(torch.randint(0, classes, size, generator=generator), classes) for _ in range(count)]


def probed(train: list[Covered], test: Iterable[Covered], classes: int, **options: object) -> dict[str, float]:
    settings = {"items": len(train), "grid": (1.0,), "places": 100_000, "seed": 0, "resampling": "nearest", **options}
    names = [f"c{number}" for number in range(classes)]
    return dense_probe.probe(lambda: train, lambda: test, names, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(40,), (7, 9), (3, 5, 4)])
def test_features_that_say_the_class_recover_every_map_exactly(size: tuple[int, ...]) -> None:
    found = probed(random_items(5, size, 3, 0), random_items(3, size, 3, 1), 3, grid=(0.1, 10.0))
    assert found["mean_iou"] == found["accuracy"] == found["class_accuracy"] == 1.0


def test_features_a_place_away_recover_nothing() -> None:
    def moved(item: Covered) -> Covered:
        features = torch.roll(item.features, (1, 1), (2, 3))
        return Covered(features, item.corners, item.window, item.resampled, item.labels)

    train, test = random_items(5, (8, 8), 3, 0), random_items(3, (8, 8), 3, 1)
    assert probed(train, [moved(item) for item in test], 3)["accuracy"] < 0.5


def test_elements_without_a_label_count_nowhere() -> None:
    train, test = random_items(4, (6, 6), 2, 0), random_items(2, (6, 6), 2, 1)
    blank = torch.zeros(6, 6, dtype=torch.bool)
    blank[:, :3] = True

    def hidden(item: Covered) -> Covered:
        """Wrong features in the left half, which has no labels."""
        features = torch.where(blank, 1 - item.features, item.features)
        labels = torch.where(blank, -1, item.labels)
        return Covered(features, item.corners, item.window, item.resampled, labels)

    found = probed([hidden(item) for item in train], [hidden(item) for item in test], 2)
    assert found["mean_iou"] == 1.0


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean_and_a_missed_one_is_not() -> None:
    table = torch.tensor([[6, 2, 0, 0], [0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0]])
    found = dense_probe.summary(table, ["a", "b", "c", "d"])
    assert found["iou_a"] == pytest.approx(6 / 12)
    assert found["iou_b"] == pytest.approx(4 / 6)
    assert found["iou_c"] == 0
    assert "iou_d" not in found
    assert found["mean_iou"] == pytest.approx((6 / 12 + 4 / 6 + 0) / 3)
    assert found["accuracy"] == pytest.approx(10 / 16)
    assert found["class_accuracy"] == pytest.approx((6 / 8 + 1 + 0) / 3)


def test_mean_iou_is_of_all_elements_together_and_not_a_mean_over_items() -> None:
    """Hand-made: one feature, the sign of which the layer must read; two test items of different mixtures."""
    labels = torch.tensor([0, 1]).repeat(8)
    train = [Covered((labels * 2.0 - 1)[None, None], [(0,)], (16,), (16,), labels) for _ in range(4)]

    def item(features: list[float], truth: list[int]) -> Covered:
        return Covered(torch.tensor(features)[None, None], [(0,)], (4,), (4,), torch.tensor(truth))

    test = [item([-1, -1, -1, 1], [0, 0, 0, 0]), item([1, 1, -1, 1], [1, 1, 1, 0])]
    found = probed(train, test, 2)  # predictions 0 0 0 1 and 1 1 0 1
    assert found["iou_c0"] == pytest.approx(3 / 6)
    assert found["iou_c1"] == pytest.approx(2 / 5)
    assert found["mean_iou"] == pytest.approx((3 / 6 + 2 / 5) / 2)


def test_cells_count_as_often_as_they_have_labelled_elements() -> None:
    """Two kinds of cells with features 0 and 1: the layer must give the share of the elements, not of the cells."""
    big = torch.cat([torch.zeros(30), torch.ones(10)]).long()  # one cell, 40 elements, a quarter of class 1
    small = torch.tensor([1] * 4 + [-1] * 36)  # one cell, 4 elements, all of class 1
    items = [Covered(torch.zeros(1, 1, 1), [(0,)], (40,), (40,), labels) for labels in [big, small] * 3]
    counts = torch.cat([dense_probe.cell_counts(i.labels, (40,), (0,), (40,), (1,), 2) for i in items])
    share = counts[:, 1].sum() / counts.sum()
    assert share < 0.5  # by cells, class 1 would be as likely
    assert probed(items, items, 2)["iou_c1"] == 0.0


def test_the_strength_is_chosen_on_whole_items_that_were_not_learnt_from() -> None:
    """In the items that are held out the feature means the opposite: only a classifier that ignores it is any good
    there. If elements were held out and not items, the other eight would outvote them, and it would be used."""
    _, held_out = data.holdout(None, 10, 0.2, 0)
    items = []
    for number in range(10):
        labels = torch.tensor([0, 0, 0, 1, 1] * 12)
        feature = (labels * 2.0 - 1) * (-1 if number in held_out else 1)
        items.append(Covered(feature[None, None], [(0,)], (60,), (60,), labels))
    assert len(held_out) == 2
    assert probed(items, items, 2, grid=(1e-9, 1.0))["C"] == 1e-9
    straight = [item for number, item in enumerate(items) if number not in held_out]
    assert probed(straight, straight, 2, grid=(1e-9, 1.0))["C"] == 1.0


def test_at_most_so_many_cells_are_learnt_from_and_from_every_item() -> None:
    items = random_items(4, (10, 10), 2, 0)
    found = list(dense_probe._rows(items, 2, 7, seed=0))
    assert [len(rows) for rows, _ in found] == [7] * 4
    again = list(dense_probe._rows(items, 2, 7, seed=0))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(found, again, strict=True))


def test_scores_are_those_of_the_standardised_layer() -> None:
    """Features of wildly different scales and offsets, one of them constant, change no prediction."""
    train, test = random_items(4, (8, 8), 3, 0), random_items(2, (8, 8), 3, 1)
    scale, offset = torch.tensor([1e3, 1.0, 1e-3, 1.0]), torch.tensor([5e3, -2.0, 0.01, 7.0])

    def warped(item: Covered) -> Covered:
        features = torch.cat([item.features, torch.zeros_like(item.features[:, :1])], dim=1)
        features = features * scale[:, None, None] + offset[:, None, None]
        return Covered(features, item.corners, item.window, item.resampled, item.labels)

    assert probed([warped(i) for i in train], [warped(i) for i in test], 3)["mean_iou"] == 1.0


def test_errors_say_what_is_wrong() -> None:
    items = random_items(2, (4, 4), 2, 0)
    blank = [Covered(i.features, i.corners, i.window, i.resampled, torch.full_like(i.labels, -1)) for i in items]
    with pytest.raises(UsageError, match="strengths C above 0"):
        probed(items, items, 2, grid=(0.0,))
    with pytest.raises(UsageError, match="places=0"):
        probed(items, items, 2, places=0)
    with pytest.raises(UsageError, match="no training item has a labelled element"):
        probed(blank, items, 2)
    with pytest.raises(RunError, match="no test item has a labelled element"):
        probed(items, blank, 2)


def test_intersection_over_union_of_a_table() -> None:
    found = metrics.intersection_over_union(torch.tensor([[3, 1, 0], [2, 5, 0], [0, 0, 0]]))
    assert found[:2].tolist() == pytest.approx([3 / 6, 5 / 8])
    assert math.isnan(found[2])
