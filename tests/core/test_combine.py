"""Combining losses: weighted sums, and the minimum-norm point."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unlabel import combine
from unlabel.errors import RunError, UsageError

CASES = [
    "two_acute",
    "two_dominated",
    "two_opposed",
    "five_random",
    "five_aligned_l2",
    "five_conflict_l2",
    "three_hull_contains_zero",
]


def _terms(**values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}


def test_a_single_loss_is_the_total_and_metrics_are_ignored():
    terms = _terms(loss=2.0, accuracy=0.5)
    assert combine.total(terms) is terms["loss"]
    assert combine.total(terms, {"loss": 3.0}).item() == 6.0


def test_named_losses_are_summed_with_their_weights():
    terms = _terms(loss_pixels=2.0, loss_codes=3.0, lossless=100.0, entropy=7.0)
    assert combine.total(terms).item() == 5.0
    total = combine.total(terms, {"loss_codes": 0.5})
    assert total.item() == 3.5
    total.backward()
    assert [terms[name].grad for name in ("lossless", "entropy")] == [None, None]
    assert (terms["loss_pixels"].grad.item(), terms["loss_codes"].grad.item()) == (1.0, 0.5)


@pytest.mark.parametrize(
    ("terms", "weights", "message"),
    [
        (_terms(accuracy=1.0), None, "no loss"),
        ({}, None, "got nothing"),
        (_terms(loss=1.0, loss_pixels=1.0), None, "also loss_pixels"),
        (_terms(loss_pixels=1.0, loss_codes=1.0), {"loss_pixel": 1.0}, "did you mean loss_pixels"),
        (_terms(loss_pixels=1.0), {"accuracy": 1.0}, "belongs to no loss"),
    ],
)
def test_ambiguous_totals_are_refused(terms, weights, message):
    with pytest.raises(UsageError, match=message):
        combine.total(terms, weights)


@pytest.mark.parametrize("case", CASES)
def test_minimum_norm_matches_golden(shared, case):
    data = np.load(shared / "golden/graph-paretognn/min_norm_frank_wolfe.npz")
    vectors = torch.from_numpy(data[f"{case}_G"]).double()
    weights = combine.minimum_norm(vectors @ vectors.T)
    norm2 = (weights @ vectors).square().sum().item()
    assert np.allclose(weights.numpy(), data[f"{case}_w_opt"], rtol=0, atol=1e-3)
    assert np.allclose(
        weights.numpy(), data[f"{case}_w_fw"], rtol=0, atol=1.001e-3
    )  # its weights stop at .001 and .999
    assert norm2 == pytest.approx(float(data[f"{case}_norm2_opt"]), abs=1e-8)  # theirs has 1e-8 of rounding
    assert norm2 <= float(data[f"{case}_norm2_fw"]) + 1e-8


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 7), width=st.integers(1, 9), seed=st.integers(0, 10**6), power=st.integers(-8, 8))
def test_no_vector_opposes_the_minimum_norm_point(count, width, seed, power):
    vectors = np.random.default_rng(seed).normal(size=(count, width)) * 10.0**power
    weights = combine.minimum_norm(torch.from_numpy(vectors @ vectors.T)).numpy()
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-9)
    shortest = weights @ vectors
    scale = (vectors**2).sum(1).max()
    assert (vectors @ shortest >= shortest @ shortest - 1e-8 * scale).all()


def test_minimum_norm_equals_the_best_face_found_by_trying_all():
    generator = np.random.default_rng(3)
    for _ in range(20):
        vectors = generator.normal(size=(4, 3)) + 0.4
        best = np.inf
        for size in range(1, 5):
            for face in itertools.combinations(range(4), size):
                gram = vectors[list(face)] @ vectors[list(face)].T
                weights = np.linalg.pinv(gram) @ np.ones(size)
                weights = weights / weights.sum()
                if (weights >= 0).all():
                    best = min(best, weights @ gram @ weights)
        ours = combine.minimum_norm(torch.from_numpy(vectors @ vectors.T)).numpy() @ vectors
        inside = best if np.isfinite(best) else 0.0
        assert ours @ ours <= inside + 1e-9


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], [0.5, 0.5]),
        ([[1.0, 0.0], [-2.0, 0.0]], [2 / 3, 1 / 3]),
        ([[1.0, 0.0], [2.0, 0.0]], [1.0, 0.0]),
        ([[3.0, 4.0]], [1.0]),
        ([[2.0, 0.0], [0.0, 1.0]], [0.2, 0.8]),
    ],
)
def test_minimum_norm_of_small_cases_is_exact(vectors, expected):
    rows = torch.tensor(vectors)
    assert np.allclose(combine.minimum_norm(rows @ rows.T).numpy(), expected, rtol=0, atol=1e-12)


def test_equal_and_zero_vectors_do_not_disturb():
    rows = torch.tensor([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0]])
    weights = combine.minimum_norm(rows @ rows.T)
    assert torch.allclose(weights @ rows.double(), rows[0].double())
    zero = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert combine.minimum_norm(zero @ zero.T).tolist() == [0.0, 1.0, 0.0]
    assert combine.minimum_norm(torch.zeros(3, 3)).sum() == 1


def test_scaling_all_vectors_does_not_change_the_weights():
    rows = torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = rows @ rows.T
    assert torch.allclose(combine.minimum_norm(gram), combine.minimum_norm(gram * 1e-30), rtol=1e-9, atol=1e-12)


def test_gradients_that_are_not_finite_are_an_error():
    with pytest.raises(RunError, match="not finite"):
        combine.minimum_norm(torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]))


# Balancing tasks


def _gram(rows: list[list[float]]) -> torch.Tensor:
    vectors = torch.tensor(rows, dtype=torch.float64)
    return vectors @ vectors.T


@settings(max_examples=40, deadline=None)
@given(count=st.integers(2, 6), seed=st.integers(0, 10**6), task=st.integers(0, 1), factor=st.floats(1e-3, 1e3))
def test_weights_of_normalised_gradients_do_not_see_the_scale_of_a_loss(count, seed, task, factor):
    vectors = np.random.default_rng(seed).normal(size=(count, 7)) + 0.2
    losses = torch.rand(count, generator=torch.Generator().manual_seed(seed)) + 0.1
    scaled, scaled_losses = vectors.copy(), losses.clone()
    scaled[task] *= factor
    scaled_losses[task] *= factor
    grams = [torch.from_numpy(rows @ rows.T) for rows in (vectors, scaled)]
    for kind in ("l2", "loss"):
        before, after = combine.balance(grams[0], losses, kind), combine.balance(grams[1], scaled_losses, kind)
        assert torch.allclose(before, after, rtol=0, atol=1e-6)


def test_without_normalisation_the_shortest_gradient_gets_the_weight():
    gram = _gram([[1.0, 0.0], [0.0, 10.0]])
    losses = torch.tensor([2.0, 4.0])
    assert torch.allclose(combine.balance(gram, losses, "none"), torch.tensor([100 / 101, 1 / 101]).double())
    assert torch.allclose(combine.balance(gram, losses, "l2"), torch.tensor([0.5, 0.5]).double())
    assert torch.allclose(combine.balance(gram, losses, "loss"), torch.tensor([25 / 26, 1 / 26]).double())
    assert torch.allclose(combine.balance(gram, losses, "loss+norm"), torch.tensor([1 / 5, 4 / 5]).double())


@pytest.mark.parametrize("kind", ["l2", "loss", "loss+norm", "none"])
def test_the_normalised_combination_descends_on_every_task(kind):
    for seed in range(20):
        draw = np.random.default_rng(seed)
        vectors = torch.from_numpy(draw.normal(size=(5, 12)) * 10.0 ** draw.integers(-2, 3, size=(5, 1)))
        losses = torch.from_numpy(draw.uniform(0.1, 9, size=5))
        gram = vectors @ vectors.T
        unit = vectors / combine.divisors(gram, losses, kind)[:, None]
        direction = combine.balance(gram, losses, kind) @ unit
        assert (unit @ direction >= direction @ direction - 1e-9 * unit.square().sum(1).max()).all()


def test_a_task_that_does_not_reach_what_is_shared_neither_stops_the_others_nor_starves():
    gram = _gram([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])
    assert torch.allclose(combine.balance(gram, torch.ones(3)), torch.full((3,), 1 / 3).double())
    assert combine.balance(torch.zeros(2, 2), torch.ones(2)).tolist() == [0.5, 0.5]
    assert combine.cosines(gram).tolist() == [[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]


def test_opposed_tasks_cancel_and_a_dominated_one_gets_nothing():
    opposed = _gram([[1.0, 0.0], [-2.0, 0.0]])
    assert torch.allclose(combine.balance(opposed, torch.ones(2), "none"), torch.tensor([2 / 3, 1 / 3]).double())
    assert combine.balance(opposed, torch.ones(2)).tolist() == [0.5, 0.5]
    assert combine.cosines(opposed)[0, 1] == -1
    dominated = combine.balance(_gram([[1.0, 0.0], [2.0, 0.1]]), torch.ones(2), "none")
    assert dominated.tolist() == [1.0, 0.0]


def test_dividing_by_a_loss_that_is_not_positive_is_refused():
    with pytest.raises(RunError, match=r"one of them is -0\.25.*use normalise='l2'"):
        combine.balance(_gram([[1.0], [2.0]]), torch.tensor([1.0, -0.25]), "loss")
    with pytest.raises(RunError, match="not finite"):
        combine.balance(torch.tensor([[torch.nan, 0.0], [0.0, 1.0]]), torch.ones(2))
