"""Collapse monitors, against closed forms, and verdicts a user can act on."""

import math

import numpy as np
import pytest
import torch
from blobs import Blobs, Points, frozen
from scipy import stats

from unlabel import monitors
from unlabel.monitors import Health


def orthonormal(rows, columns):
    generator = torch.Generator().manual_seed(0)
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator, dtype=torch.float64))[0]


def levels(verdict):
    return [level for level, _ in verdict]


def falling(count=60, start=5.0, end=2.0, noise=0.05):
    draw = np.random.default_rng(0)
    return [end + (start - end) * math.exp(-4 * n / count) + noise * draw.normal() for n in range(count)]


def recorded(expected=None, width=None, **series):
    health = Health(expected or {}, width)
    for name, values in series.items():
        for step, value in enumerate(values):
            health.record(10 * step, {name: value})
    return health


@pytest.mark.parametrize("width", [2, 16, 50])
def test_rank_of_isotropic_features_is_their_width(width):
    assert monitors.rankme(7.0 * orthonormal(100, width)).item() == pytest.approx(width)


def test_rank_of_features_on_a_line_is_one():
    rows = torch.outer(torch.linspace(-1, 3, 50, dtype=torch.float64), torch.arange(1.0, 9, dtype=torch.float64))
    assert monitors.rankme(rows).item() == pytest.approx(1)
    assert monitors.effective_rank(rows).item() == pytest.approx(1)
    assert monitors.rankme(torch.zeros(5, 4)).item() == 1


def test_rank_is_the_exponential_of_the_entropy_of_singular_values():
    values = torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    rows = orthonormal(20, 3) * values @ orthonormal(6, 3).T
    assert monitors.rankme(rows).item() == pytest.approx(math.exp(stats.entropy([4, 2, 1])))


def test_effective_rank_is_of_variances_and_ignores_the_mean():
    rows = orthonormal(20, 3)
    rows = torch.linalg.qr(rows - rows.mean(dim=0))[0] * torch.tensor([4.0, 2.0, 1.0], dtype=torch.float64)
    expected = math.exp(stats.entropy([16, 4, 1]))
    assert monitors.effective_rank(rows).item() == pytest.approx(expected)
    assert monitors.effective_rank(rows + 1000).item() == pytest.approx(expected)
    assert monitors.rankme(rows + 1000).item() < 1.1  # the mean is one strong direction


def test_feature_std_is_one_for_directions_everywhere_and_zero_for_one():
    rows = torch.randn(4000, 64, generator=torch.Generator().manual_seed(0))
    assert monitors.feature_std(rows).item() == pytest.approx(1, abs=0.01)
    assert monitors.feature_std(rows * 50).item() == pytest.approx(monitors.feature_std(rows).item(), rel=1e-5)
    assert monitors.feature_std(rows + 1000).item() < 0.01
    assert monitors.feature_std(torch.ones(9, 4) * torch.arange(1, 10)[:, None]).item() == pytest.approx(0, abs=1e-6)


def test_alignment_of_opposite_views_is_the_squared_diameter():
    rows = torch.randn(30, 8)
    assert monitors.alignment(rows, 3 * rows).item() == pytest.approx(0, abs=1e-10)
    assert monitors.alignment(rows, -rows).item() == pytest.approx(4)
    assert monitors.alignment(rows, -rows, power=1).item() == pytest.approx(2)


def test_uniformity_matches_a_loop_and_its_bounds():
    rows = torch.randn(12, 5, dtype=torch.float64)
    units = (rows / rows.norm(dim=1, keepdim=True)).numpy()
    pairs = [math.exp(-2 * ((units[i] - units[j]) ** 2).sum()) for i in range(12) for j in range(i)]
    assert monitors.uniformity(rows).item() == pytest.approx(math.log(sum(pairs) / len(pairs)))
    assert monitors.uniformity(torch.ones(6, 3)).item() == pytest.approx(0, abs=1e-6)
    assert monitors.uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(-8)


def test_entropy_of_uniform_is_log_k_and_of_certainty_zero():
    rows = torch.stack([torch.full((8,), 1 / 8), torch.eye(8)[3]])
    torch.testing.assert_close(monitors.entropy(rows), torch.tensor([math.log(8), 0.0]))


def test_online_never_reads_the_held_out_part():
    data = Blobs(spread=0.05)
    view = frozen(data)
    values = monitors.online(view)
    assert values["knn"] == 1
    assert values["feature_std"] == monitors.feature_std(view.features("train")[0]).item()
    assert 1 < values["rankme"] <= 16

    class Locked(Blobs):
        def split(self, name):
            assert name == "train"
            return super().split(name)

    assert monitors.online(frozen(Locked(spread=0.05))) == values


def test_online_without_labels_has_no_accuracy():
    class Unlabelled(Blobs):
        def split(self, name):
            part = super().split(name)
            part.labels = part.classes = None
            return part

    assert set(monitors.online(frozen(Unlabelled()))) == {"feature_std", "rankme"}


def test_online_sees_a_collapse():
    class Collapsed(Points):
        def encode(self, batch):
            return 1 + 1e-3 * super().encode(batch)

    values = monitors.online(frozen(Blobs(), Collapsed()))
    assert levels(recorded(width=16, **{name: [value] for name, value in values.items()}).verdict())[0] == "bad"


def test_a_healthy_run_is_called_healthy_with_its_numbers():
    health = recorded(width=128, loss=falling(), feature_std=[0.9, 0.8], rankme=[40.0, 57.2], gradient_norm=[1.0] * 60)
    ((level, sentence),) = health.verdict()
    assert level == "ok"
    assert "rank 57 of 128" in sentence
    assert "loss fell from 4." in sentence


@pytest.mark.parametrize(("std", "level"), [(0.02, "bad"), (0.2, "warn"), (0.31, "ok")])
def test_collapse_has_degrees(std, level):
    verdict = recorded(feature_std=[0.9, std]).verdict()
    assert levels(verdict) == [level]
    assert level == "ok" or f"std {std}" in verdict[0][1]


def test_few_directions_are_a_warning_relative_to_the_width():
    assert levels(recorded(width=512, rankme=[100.0, 8.0]).verdict()) == ["warn"]
    assert levels(recorded(width=64, rankme=[20.0, 8.0]).verdict()) == ["ok"]
    assert levels(recorded(width=64, rankme=[1.9]).verdict()) == ["warn"]
    assert levels(recorded(width=2, rankme=[1.9]).verdict()) == ["ok"]


def test_a_loss_that_rises_at_the_end_is_noticed_through_noise():
    rising = falling(40) + [2.0 + 0.05 * n for n in range(30)]
    ((level, sentence),) = recorded(loss=rising).verdict()
    assert level == "warn"
    assert "rose in the last third" in sentence


@pytest.mark.parametrize("seed", range(20))
def test_noise_on_a_plateau_is_no_rise(seed):
    draw = np.random.default_rng(seed)
    values = [*np.linspace(5, 2, 30), *(2 + 0.3 * draw.normal(size=60))]
    assert levels(recorded(loss=values).verdict()) == ["ok"]


def test_a_loss_that_never_falls_is_noticed():
    ((level, sentence),) = recorded(loss=[3.0, 3.1, 2.9] * 20).verdict()
    assert level == "warn"
    assert "did not fall (3 to 3)" in sentence


@pytest.mark.parametrize(("factor", "level"), [(5, "ok"), (20, "warn"), (100, "bad")])
def test_growing_gradients_have_degrees(factor, level):
    verdict = recorded(gradient_norm=np.geomspace(0.1, 0.1 * factor * 1.2, 200).tolist()).verdict()
    assert levels(verdict) == [level]
    assert level == "ok" or "-fold" in verdict[0][1]


def test_one_spike_is_no_growth():
    assert levels(recorded(gradient_norm=[1.0] * 50 + [1000.0] + [1.0] * 20).verdict()) == ["ok"]


def test_falling_knn_names_the_best_step():
    ((level, sentence),) = recorded(knn=[0.2, 0.5, 0.6, 0.4]).verdict()
    assert level == "warn"
    assert "0.600 at step 20 to 0.400" in sentence


def test_a_number_that_is_not_finite_is_named_with_its_step():
    ((level, sentence),) = recorded(loss=[1.0, 0.5, math.nan, math.nan], feature_std=[0.9]).verdict()
    assert level == "bad"
    assert "loss was nan at step 20" in sentence


def test_ranges_of_the_task_replace_the_general_ones():
    expected = {"feature_std": (0.1, 0.4), "accuracy": (0.3, 1.0)}
    assert levels(recorded(expected, feature_std=[0.2], accuracy=[0.1, 0.8]).verdict()) == ["ok"]
    ((level, sentence),) = recorded(expected, feature_std=[0.2], accuracy=[0.8, 0.1]).verdict()
    assert level == "warn"
    assert "accuracy ended at 0.1, outside the healthy 0.3 to 1" in sentence


def test_the_worst_comes_first():
    health = recorded(width=512, rankme=[3.0], gradient_norm=np.geomspace(0.1, 100, 50).tolist())
    assert levels(health.verdict()) == ["bad", "warn"]


def test_nothing_logged_is_no_health():
    assert levels(Health({}).verdict()) == ["warn"]
