"""Linear probe, against scikit-learn on the same objective, and what it must not see."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from blobs import CLASSES, Blobs, Points, frozen
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from unlabel.data import holdout
from unlabel.errors import UsageError
from unlabel.evaluate.linear_probe import choose, linear_probe, logistic, sgd, standardise


@pytest.fixture
def overlapping():
    """Three classes that overlap, in six correlated dimensions of different scale."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 150)
    rows = (draw.normal(size=(3, 6))[labels] + draw.normal(size=(150, 6))) @ draw.normal(size=(6, 6))
    return torch.tensor(rows), torch.tensor(labels)


def test_standardising_matches_scikit_learn_and_ignores_the_others(overlapping):
    rows, _ = overlapping
    scaler = StandardScaler().fit(rows[:100])
    train, test = standardise(rows[:100], rows[100:])
    np.testing.assert_allclose(train, scaler.transform(rows[:100]), atol=1e-12)
    np.testing.assert_allclose(test, scaler.transform(rows[100:]), atol=1e-12)
    again, _ = standardise(rows[:100], rows[100:] * 50 + 3)
    assert torch.equal(train, again)


def test_a_dimension_constant_up_to_rounding_is_dropped():
    rows = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    rows[:, 1] = 1000 + 1e-4 * rows[:, 1]  # float32 holds 1000 to 6e-5
    train, test = standardise(rows, torch.tensor([[0.0, 5.0]]))
    assert train[:, 1].abs().max() == test[0, 1] == 0


@pytest.mark.parametrize("strength", [1e-3, 0.1, 10.0])
def test_weights_match_scikit_learn(overlapping, strength):
    rows, labels = standardise(overlapping[0])[0], overlapping[1]
    reference = LogisticRegression(C=strength, tol=1e-10, max_iter=10000).fit(rows, labels)
    solution = logistic(rows, labels, 3, strength)
    # The objective curves by at least 1 / (C N), so a gradient of at most 1e-7 leaves weights this far at most.
    atol = 1e-7 * strength * len(rows) * math.sqrt(solution.numel()) + 1e-8
    np.testing.assert_allclose(solution[:, :-1], reference.coef_, atol=atol)
    # The bias is free of penalty, so it is known up to a constant over classes.
    bias = solution[:, -1] - solution[:, -1].mean()
    np.testing.assert_allclose(bias, reference.intercept_ - reference.intercept_.mean(), atol=max(atol, 1e-6))


def test_the_gradient_of_the_objective_is_zero_at_the_solution(overlapping):
    rows, labels = standardise(overlapping[0])[0], overlapping[1]
    solution = logistic(rows, labels, 3, 0.05)
    errors = (rows @ solution[:, :-1].T + solution[:, -1]).softmax(dim=1) - torch.eye(3, dtype=torch.float64)[labels]
    gradient = errors.T @ rows + solution[:, :-1] / 0.05
    assert gradient.abs().max() / len(rows) < 1e-6
    assert errors.sum(dim=0).abs().max() / len(rows) < 1e-6  # the bias has no penalty


def test_a_warm_start_ends_at_the_same_place(overlapping):
    rows, labels = standardise(overlapping[0])[0], overlapping[1]
    cold = logistic(rows, labels, 3, 0.1)
    warm = logistic(rows, labels, 3, 0.1, start=logistic(rows, labels, 3, 10.0))
    torch.testing.assert_close(warm[:, :-1], cold[:, :-1], atol=1e-5, rtol=0)


def test_separable_classes_without_much_penalty_still_converge():
    rows = torch.tensor([[-1.0], [-0.9], [0.9], [1.0]], dtype=torch.float64)
    solution = logistic(rows, torch.tensor([0, 0, 1, 1]), 2, 1e6)
    assert solution.isfinite().all()


def test_strength_is_chosen_on_the_validation_part_alone():
    """Noise in many dimensions: little penalty knows all of the training part by heart, which must not count."""
    labels, grid, chosen = torch.arange(200) % 2, (1e-3, 1e3), []
    for seed in range(6):
        rows = torch.randn(200, 120, generator=torch.Generator().manual_seed(seed))
        rows[:, 0] += 1.5 * labels
        train, validation = holdout(labels.numpy(), 200, 0.2, seed)
        rows[validation[0]] = 1e6  # one freak must not blur the others, whose scale is the training part's
        scaler = StandardScaler().fit(rows[train])
        scores = []
        for strength in grid:
            model = LogisticRegression(C=strength, max_iter=100_000, tol=1e-10)
            model.fit(scaler.transform(rows[train]), labels[train])
            scores.append(model.score(scaler.transform(rows[validation]), labels[validation]))
        assert model.score(scaler.transform(rows[train]), labels[train]) == 1
        chosen.append(choose(rows, labels, 2, grid, seed))
        assert chosen[-1] == grid[int(np.argmax(scores))]
    assert set(chosen) == set(grid)


def test_equal_strengths_choose_the_strongest_penalty():
    labels = torch.arange(100) % 2
    rows = labels[:, None].double() * 10 + torch.randn(100, 1, generator=torch.Generator().manual_seed(0))
    assert choose(rows, labels, 2, (1.0, 0.01, 0.1), seed=0) == 0.01


def test_one_sample_a_class_leaves_nothing_to_choose_by():
    assert choose(torch.eye(3), torch.arange(3), 3, (0.1, 0.01, 1.0), seed=0) == 0.1


@pytest.mark.parametrize("protocol", ["lbfgs", "lars"])
class TestHeldOut:
    """The held-out part must never reach training."""

    options: ClassVar = {"epochs": 40, "batch_size": 32, "warmup_epochs": 1, "learning_rate": 60.0}

    def test_its_labels_change_only_the_score(self, protocol):
        data = Blobs(spread=0.5)
        before = linear_probe(frozen(data), protocol=protocol, **self.options)
        data.labels = data.labels.copy()
        data.labels[160:] = (data.labels[160:] + 1) % CLASSES
        after = linear_probe(frozen(data), protocol=protocol, **self.options)
        assert before["accuracy"] > 0.8
        assert after["accuracy"] < 0.2  # the same predictions, now wrong
        assert after.get("C") == before.get("C")

    def test_its_features_change_no_prediction_of_the_others(self, protocol):
        data = Blobs(spread=0.5)
        data.labels = np.where(np.arange(240) < 200, data.labels, -1)  # the last 40 are not scored
        before = linear_probe(frozen(data), protocol=protocol, **self.options)
        data.points[200:] += 100
        assert linear_probe(frozen(data), protocol=protocol, **self.options) == before

    def test_each_of_its_samples_is_judged_alone(self, protocol):
        data = Blobs(spread=0.05)
        data.labels = np.where((np.arange(240) < 160) | (data.labels == 2), data.labels, -1)
        assert linear_probe(frozen(data), protocol=protocol, **self.options)["accuracy"] == 1

    def test_the_same_seed_gives_the_same_result(self, protocol):
        data = Blobs(spread=1.0)
        first, again = (linear_probe(frozen(data, seed=3), protocol=protocol, **self.options) for _ in range(2))
        assert first == again


def test_probe_equals_scikit_learn_from_start_to_end():
    view = frozen(Blobs(spread=1.0))
    result = linear_probe(view, grid=(0.01,))
    (train, labels), (test, truth) = view.features("train"), view.features("test")
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=0.01, tol=1e-10, max_iter=5000).fit(scaler.transform(train), labels)
    assert result["accuracy"] == model.score(scaler.transform(test), truth)
    assert result["C"] == 0.01


def test_raw_inputs_are_the_control():
    class Blind(Points):
        def encode(self, batch):
            return torch.ones(len(batch["x"]), 3)

    view = frozen(Blobs(), Blind())
    assert linear_probe(view)["accuracy"] == 0.25
    assert linear_probe(view, inputs="raw")["accuracy"] > 0.9


def test_normalisation_has_no_parameters_and_scale_does_not_matter():
    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(64, 5, generator=draw), torch.arange(64) % 3
    options: ClassVar = {"epochs": 5, "batch_size": 16, "warmup_epochs": 1.0, "learning_rate": 10.0}
    model = sgd(rows, labels, 3, **options)
    assert {name for name, _ in model.named_parameters()} == {"1.weight", "1.bias"}
    scaled = sgd(rows * 1000 + 7, labels, 3, **options)
    # float32 keeps 1000 x + 7 to 6e-8 of its size, and some tens of updates add up
    torch.testing.assert_close(scaled(rows * 1000 + 7), model(rows), atol=1e-4, rtol=0)


def test_long_training_by_lars_approaches_the_exact_solution():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    rows = torch.eye(3)[labels] + 0.8 * torch.randn(300, 3, generator=draw)
    model = sgd(rows, labels, 3, epochs=40, batch_size=50, learning_rate=60.0, warmup_epochs=2)
    standard = standardise(rows)[0]
    exact = logistic(standard, labels, 3, 1e3)
    best = torch.nn.functional.cross_entropy(standard @ exact[:, :-1].T + exact[:, -1], labels).item()
    loss = torch.nn.functional.cross_entropy(model(rows), labels).item()
    assert best < loss < 1.05 * best  # ln 3 = 1.10 at the start


@pytest.mark.parametrize("options", [{"grid": ()}, {"grid": (0.0,)}, {"epochs": 0}, {"epochs": 5, "warmup_epochs": 5}])
def test_values_out_of_range_are_usage_errors(options):
    with pytest.raises(UsageError):
        linear_probe(frozen(), **options)
