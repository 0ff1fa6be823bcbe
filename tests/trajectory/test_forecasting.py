"""Versions of a track, losses of candidates, errors of forecasts: reference figures and closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel_trajectory import forecasting
from unlabel_trajectory.evaluations.forecast import measure
from unlabel_trajectory.tasks import destination


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, torch.Tensor]:
    with np.load(shared / "golden/trajectory-ppt/metrics_augment_losses.npz", allow_pickle=False) as case:
        return {name: torch.from_numpy(case[name]) for name in case}


def test_errors_are_the_references(golden: dict[str, torch.Tensor]) -> None:
    found = measure(golden["pred20"], golden["gt"])
    assert found["min_ade"] == pytest.approx(float(golden["min_ade20_independent"]), rel=1e-5)
    assert found["min_fde"] == pytest.approx(float(golden["min_fde20"]), rel=1e-5)
    assert found["ade_of_best_fde"] == pytest.approx(float(golden["ade_of_best_fde"]), rel=1e-5)


def test_losses_of_candidates_are_the_references(golden: dict[str, torch.Tensor]) -> None:
    diversity = forecasting.diversity(golden["dests"]).item()
    _, distance = forecasting.nearest(golden["dests"], golden["gt_dest"][:, 0])
    assert diversity == pytest.approx(float(golden["diversity"]), rel=1e-5)
    assert distance.mean().item() == pytest.approx(float(golden["precision"]), rel=1e-5)
    found = destination.terms(golden["dests"], golden["gt_dest"][:, 0], 100, 1.0)
    assert found["loss"].item() == pytest.approx(float(golden["precision"] + 100 * golden["diversity"]), rel=1e-5)


def test_versions_are_the_references(golden: dict[str, torch.Tensor]) -> None:
    track = golden["traj"]  # float64
    for number, name in enumerate(("traj", "rot1", "rot2", "rot3", "fliplr")):
        assert torch.allclose(forecasting.turned(track, number), golden[name], rtol=0, atol=1e-12)
        each = torch.full((len(track),), number)
        assert torch.equal(forecasting.turned(track, each), forecasting.turned(track, number))


def test_each_version_is_drawn_equally_often_and_from_the_key_alone() -> None:
    keys = seeds.keys(0, torch.zeros(5000, dtype=torch.int64), torch.arange(5000))
    drawn = forecasting.versions(keys)
    assert torch.bincount(drawn, minlength=5).min() > 900
    assert len(torch.bincount(drawn)) == 5
    assert torch.equal(forecasting.versions(keys[17:18]), drawn[17:18])


def test_shifting_a_track_changes_nothing() -> None:
    track = torch.randn(6, 20, 2, generator=torch.Generator().manual_seed(0))
    shifted = forecasting.relative(track + torch.tensor([30.0, -7.0]), 8)
    assert torch.allclose(shifted, forecasting.relative(track, 8), atol=1e-5)
    assert not forecasting.relative(track, 8)[:, 7].any()


def test_diversity_is_one_for_equal_candidates_and_zero_far_apart() -> None:
    assert forecasting.diversity(torch.randn(4, 1, 2).expand(4, 20, 2)).item() == pytest.approx(1, abs=1e-6)
    assert forecasting.diversity(1000 * torch.randn(4, 20, 2)).item() < 1e-3
    points = torch.tensor([[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]])
    expected = np.exp(-np.array([9.0, 16.0, 25.0]) / 10).mean()
    assert forecasting.diversity(points, 10.0).item() == pytest.approx(expected, rel=1e-6)
    far = points + 1e4  # where a^2 - 2 a b + b^2 has lost every digit
    assert forecasting.diversity(far, 10.0).item() == pytest.approx(expected, rel=1e-4)


def test_diversity_of_all_at_once_is_the_mean_over_samples_one_by_one() -> None:
    candidates = torch.randn(7, 20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    candidates.requires_grad_()
    [whole] = torch.autograd.grad(forecasting.diversity(candidates), candidates)
    total = sum((-torch.nn.functional.pdist(points).square()).exp().mean() for points in candidates) / 7
    [looped] = torch.autograd.grad(total, candidates)
    assert forecasting.diversity(candidates).item() == pytest.approx(total.item(), rel=1e-12)
    assert torch.allclose(whole, looped, atol=1e-12)


def test_only_the_best_candidate_of_a_sample_is_drawn_to_the_truth() -> None:
    candidates = torch.randn(6, 20, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    truth = torch.zeros(6, 2)
    chosen, distance = forecasting.nearest(candidates, truth)
    distance.sum().backward()
    assert (candidates.grad.abs().sum(-1) > 0).sum(1).tolist() == [1] * 6
    assert torch.equal(distance, torch.linalg.vector_norm(candidates, dim=-1).amin(1))
    assert torch.equal(torch.linalg.vector_norm(chosen, dim=-1), distance)


def test_the_two_conventions_differ_as_they_should() -> None:
    """Two candidates: one is right until it ends 1 off, the other is 2 off until it ends right."""
    future = torch.zeros(1, 12, 2)
    candidates = torch.zeros(1, 2, 12, 2)
    candidates[0, 0, -1, 0] = 1
    candidates[0, 1, :-1, 1] = 2
    found = measure(candidates, future)
    assert found == pytest.approx({"min_ade": 1 / 12, "min_fde": 0, "ade_of_best_fde": 22 / 12})


def test_straight_walks_are_continued_exactly_by_both_controls() -> None:
    start, step = torch.randn(5, 1, 2, dtype=torch.float64), torch.randn(5, 1, 2, dtype=torch.float64)
    track = start + step * torch.arange(20)[:, None]
    for way in (forecasting.constant_velocity, forecasting.linear_fit):
        assert torch.allclose(way(track[:, :8], 12)[:, 0], track[:, 8:], atol=1e-12)


def test_the_line_is_that_of_least_squares() -> None:
    past = torch.randn(3, 8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = forecasting.linear_fit(past, 12)
    for track, line in zip(past.numpy(), found[:, 0].numpy(), strict=True):
        fitted = [np.polyval(np.polyfit(np.arange(8), track[:, axis], 1), np.arange(8, 20)) for axis in (0, 1)]
        assert np.allclose(line, np.stack(fitted, axis=1))


def test_tracks_too_short_are_refused() -> None:
    with pytest.raises(UsageError, match=r"tracks of shape \(2, 5, 2\).*task.observed and dataset.observed must be"):
        forecasting.relative(torch.zeros(2, 5, 2), 8)
