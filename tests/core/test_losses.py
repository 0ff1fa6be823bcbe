"""Losses: the published numbers, closed forms, and two processes that equal one."""

from __future__ import annotations

import math
import os
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from unlabel.engine import gather
from unlabel.nn import losses


def _rows(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def _load(path, *names: str) -> list[torch.Tensor]:
    data = np.load(path)
    return [torch.from_numpy(data[name]) for name in names]


# --- NT-Xent


def test_nt_xent_and_its_gradient_match_golden(shared):
    z1, z2, loss, g1, g2 = _load(shared / "golden/vision-survey/ntxent_t0.5.npz", "z0", "z1", "loss", "g0", "g1")
    z1.requires_grad_(), z2.requires_grad_()
    ours = losses.nt_xent(z1, z2, 0.5)
    ours.backward()
    assert torch.allclose(ours, loss, rtol=1e-5, atol=1e-5)
    assert torch.allclose(z1.grad, g1, rtol=1e-5, atol=1e-5)
    assert torch.allclose(z2.grad, g2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("count", [2, 7, 64])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent_of_identical_embeddings_is_the_log_of_the_number_of_others(count, temperature):
    same = torch.randn(1, 16).expand(count, 16)
    assert losses.nt_xent(same, same, temperature).item() == pytest.approx(math.log(2 * count - 1), rel=1e-5)


def test_nt_xent_of_orthogonal_pairs_has_its_closed_form():
    count, temperature = 6, 0.5
    pairs = torch.eye(count)
    expected = math.log(1 + (2 * count - 2) * math.exp(-1 / temperature))
    assert losses.nt_xent(pairs, 3 * pairs, temperature).item() == pytest.approx(expected, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(count=st.integers(2, 6), seed=st.integers(0, 99), temperature=st.floats(0.05, 2))
def test_nt_xent_is_the_mean_over_all_anchors(count, seed, temperature):
    z = np.random.default_rng(seed).normal(size=(2 * count, 5))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    rows = []
    for anchor in range(2 * count):
        partner = (anchor + count) % (2 * count)
        others = [math.exp(z[anchor] @ z[other] / temperature) for other in range(2 * count) if other != anchor]
        rows.append(-z[anchor] @ z[partner] / temperature + math.log(sum(others)))
    ours = losses.nt_xent(torch.from_numpy(z[:count]), torch.from_numpy(z[count:]) * 3, temperature)
    assert ours.item() == pytest.approx(np.mean(rows), rel=1e-9)


# --- InfoNCE


def test_info_nce_is_cross_entropy_over_the_batch():
    query, key = _rows(5, 7), _rows(5, 7, seed=1)
    q = query.detach().numpy() / np.linalg.norm(query.detach().numpy(), axis=1, keepdims=True)
    k = key.detach().numpy() / np.linalg.norm(key.detach().numpy(), axis=1, keepdims=True)
    rows = [math.log(sum(math.exp(q[i] @ k[j] / 0.2) for j in range(5))) - q[i] @ k[i] / 0.2 for i in range(5)]
    assert losses.info_nce(query, key, 0.2, scale=1.0).item() == pytest.approx(np.mean(rows), rel=1e-9)
    assert losses.info_nce(query, key, 0.2).item() == pytest.approx(0.4 * np.mean(rows), rel=1e-9)


def test_symmetric_info_nce_adds_the_two_directions():
    q1, q2, k1, k2 = (_rows(5, 7, seed=seed) for seed in range(4))
    both = losses.symmetric_info_nce(q1, q2, k1, k2, 0.2)
    assert torch.equal(both, losses.info_nce(q1, k2, 0.2) + losses.info_nce(q2, k1, 0.2))
    same = torch.ones(5, 7)
    ours = losses.symmetric_info_nce(same, same, same, same, 0.2)
    assert ours.item() == pytest.approx(2 * 2 * 0.2 * math.log(5), rel=1e-6)


def test_queue_loss_and_its_gradient_match_golden(shared):
    query, key, queue, loss, gradient = _load(
        shared / "golden/vision-survey/moco_queue.npz", "query", "key", "queue_before_size_x_dim", "loss", "g_query"
    )
    query.requires_grad_()
    ours = losses.info_nce_queue(query, key, queue, 0.2)
    ours.backward()
    assert torch.allclose(ours, loss, rtol=1e-5, atol=1e-5)
    assert torch.allclose(query.grad, gradient, rtol=1e-5, atol=1e-5)


def test_queue_loss_of_uniform_similarities_is_the_log_of_their_number():
    rows = torch.ones(3, 4) / 2
    assert losses.info_nce_queue(rows, rows, rows[:1].expand(31, 4), 0.2).item() == pytest.approx(
        math.log(32), rel=1e-6
    )


# --- twins: a sample that is twice in a batch is no negative of itself


INDEX = torch.tensor([4, 9, 4, 2, 9, 9])


def _unit(rows: torch.Tensor) -> np.ndarray:
    values = rows.detach().numpy()
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_views_of_a_twin_are_left_out_of_nt_xent():
    first, second = _rows(6, 5), _rows(6, 5, seed=1)
    z, sample = np.concatenate([_unit(first), _unit(second)]), INDEX.repeat(2).numpy()
    terms = []
    for anchor in range(12):
        partner = (anchor + 6) % 12
        others = [partner, *(other for other in range(12) if sample[other] != sample[anchor])]
        terms.append(-z[anchor] @ z[partner] / 0.3 + math.log(sum(math.exp(z[anchor] @ z[n] / 0.3) for n in others)))
    assert losses.nt_xent(first, second, 0.3, index=INDEX).item() == pytest.approx(np.mean(terms), rel=1e-9)
    assert losses.nt_xent(first, second, 0.3).item() != pytest.approx(np.mean(terms), rel=1e-3)


def test_keys_of_a_twin_are_left_out_of_info_nce():
    query, key = _rows(6, 5), _rows(6, 5, seed=1)
    q, k = _unit(query), _unit(key)
    terms = []
    for i in range(6):
        others = [i, *(j for j in range(6) if INDEX[j] != INDEX[i])]
        terms.append(math.log(sum(math.exp(q[i] @ k[j] / 0.2) for j in others)) - q[i] @ k[i] / 0.2)
    assert losses.info_nce(query, key, 0.2, scale=1.0, index=INDEX).item() == pytest.approx(np.mean(terms), rel=1e-9)
    both = losses.symmetric_info_nce(query, key, key, query, 0.2, index=INDEX)
    halves = losses.info_nce(query, query, 0.2, index=INDEX) + losses.info_nce(key, key, 0.2, index=INDEX)
    assert torch.equal(both, halves)


def test_rows_of_the_queue_are_left_out_where_they_are_of_the_querys_own_sample():
    query, key, queue = _rows(2, 4), _rows(2, 4, seed=1), functional.normalize(_rows(5, 4, seed=2).detach(), dim=1)
    twin = torch.tensor([[True, False, False, True, False], [False] * 5])
    ours = losses.info_nce_queue(query, key, queue, 0.2, twin)
    parts = [
        losses.info_nce_queue(query[:1], key[:1], queue[[1, 2, 4]], 0.2),
        losses.info_nce_queue(query[1:], key[1:], queue, 0.2),
    ]
    assert ours.item() == pytest.approx(sum(parts).item() / 2, rel=1e-9)


@pytest.mark.parametrize("loss", [losses.nt_xent, losses.info_nce])
def test_without_twins_an_index_changes_no_bit_of_a_loss_or_its_gradient(loss):
    first, second = _rows(6, 5), _rows(6, 5, seed=1)
    plain = loss(first, second, 0.2)
    indexed = loss(first, second, 0.2, index=torch.tensor([5, 3, 0, 8, 1, 2]))
    assert torch.equal(plain, indexed)
    gradients = [torch.autograd.grad(value, (first, second)) for value in (plain, indexed)]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_a_batch_of_one_sample_alone_has_nothing_to_learn():
    rows = _rows(3, 4)
    assert losses.nt_xent(rows, rows * 2, 0.2, index=torch.zeros(3, dtype=torch.int64)).item() == pytest.approx(0)


# --- pairs: a sample that lacks one of the two is neither query nor key


PAIRED = torch.tensor([True, False, True, True, False, True])


def test_a_sample_without_a_pair_is_as_if_it_were_not_there():
    query, key = _rows(6, 5), _rows(6, 5, seed=1)
    ours = losses.info_nce(query, key, 0.2, index=INDEX, paired=PAIRED)
    alone = losses.info_nce(query[PAIRED], key[PAIRED], 0.2, index=INDEX[PAIRED])
    assert ours.item() == pytest.approx(alone.item(), rel=1e-12)
    gradients = (torch.autograd.grad(value, (query, key)) for value in (ours, alone))
    for here, there in zip(*gradients, strict=True):
        torch.testing.assert_close(here, there, rtol=1e-12, atol=1e-15)
        assert not here[~PAIRED].any()


def test_pairs_alone_cost_what_they_cost_without_asking():
    query, key = _rows(6, 5), _rows(6, 5, seed=1)
    everyone = losses.symmetric_info_nce(query, key, query, key, 0.2, paired=torch.ones(6, dtype=torch.bool))
    assert everyone.item() == pytest.approx(losses.symmetric_info_nce(query, key, query, key, 0.2).item(), rel=1e-12)


def test_a_batch_without_a_pair_has_nothing_to_learn_and_no_gradient():
    rows = _rows(3, 4)
    loss = losses.info_nce(rows, rows * 2, 0.2, paired=torch.zeros(3, dtype=torch.bool))
    assert loss.item() == 0
    assert not torch.autograd.grad(loss, rows)[0].any()


# --- the others


def test_negative_cosine_and_its_gradient_match_golden(shared):
    p, z, loss, gradient, squared = _load(
        shared / "golden/vision-survey/negative_cosine.npz", "p", "z", "loss", "g_p", "byol_loss"
    )
    p.requires_grad_()
    ours = losses.negative_cosine(p, z)
    ours.backward()
    assert torch.allclose(ours, loss, rtol=1e-5, atol=1e-5)
    assert torch.allclose(p.grad, gradient, rtol=1e-5, atol=1e-5)
    assert torch.allclose(2 + 2 * ours, squared, rtol=1e-5, atol=1e-5)


def test_masked_mean_is_one_ratio_over_the_batch():
    error = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    mask = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert losses.masked_mean(error, mask).item() == 61 / 4  # a mean of means would be (1 + 20) / 2


def test_visible_tokens_do_not_enter_the_masked_mean():
    error, mask = _rows(3, 8), (torch.arange(24).reshape(3, 8) % 3 == 0).double()
    losses.masked_mean(error, mask).backward()
    assert torch.equal(error.grad, mask / mask.sum())


def test_masked_mean_stays_global_when_each_process_hides_another_number():
    error, mask = _rows(4, 8), (torch.rand(4, 8, generator=torch.Generator().manual_seed(1)) < 0.6).double()
    counts = [mask[:1].sum(), mask[1:].sum()]
    share = (counts[0] + counts[1]) / 2
    parts = [losses.masked_mean(e, m, share) for e, m in ((error[:1], mask[:1]), (error[1:], mask[1:]))]
    assert torch.allclose((parts[0] + parts[1]) / 2, losses.masked_mean(error, mask), rtol=1e-12)


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: losses.nt_xent(a, b, 0.5),
        lambda a, b: losses.info_nce(a, b, 0.2),
        lambda a, b: losses.info_nce_queue(a, b, functional.normalize(torch.ones(9, 4).double().cumsum(0), dim=1), 0.2),
        losses.negative_cosine,
    ],
)
def test_gradients_are_those_of_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, (_rows(3, 4), _rows(3, 4, seed=1)))


@pytest.mark.parametrize(
    "loss",
    [
        lambda a, b: losses.nt_xent(a, b, 0.1),
        lambda a, b: losses.info_nce(a, b, 0.2),
        lambda a, b: losses.info_nce_queue(a, b, functional.normalize(torch.randn(9, 16), dim=1), 0.2),
        losses.negative_cosine,
        lambda a, b: losses.masked_mean(a, (b > 0).float()),
    ],
)
def test_losses_keep_full_precision_under_autocast(loss):
    left, right = torch.randn(8, 16).bfloat16(), torch.randn(8, 16).bfloat16()
    torch.manual_seed(0)
    expected = loss(left.float(), right.float())
    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = loss(left, right)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, expected)


# --- two processes


def _global_losses(
    weight: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    index: torch.Tensor,
    paired: torch.Tensor,
    **distributed,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of embeddings made by one shared weight, and the weight's gradient, for three losses."""
    weight = weight.clone().requires_grad_()
    z1, z2 = torch.tanh(first @ weight), torch.tanh(second @ weight)
    values = torch.stack(
        [
            losses.nt_xent(z1, z2, 0.3, index=index, **distributed),
            losses.symmetric_info_nce(z1, z2, z2 * z1, z1 - z2, 0.2, index=index, **distributed),
            losses.info_nce(z1, z2, 0.2, index=index, paired=paired, **distributed),
        ]
    )
    gradients = [torch.autograd.grad(value, weight, retain_graph=True)[0] for value in values]
    return values.detach(), torch.stack(gradients)


def _process(rank: int, port: int, data: tuple[torch.Tensor, ...], results: torch.multiprocessing.SimpleQueue) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    weight, *rest = data
    half = slice(3 * rank, 3 * rank + 3)
    outcome = _global_losses(weight, *(tensor[half] for tensor in rest), gather=gather, rank=rank)
    for tensor in outcome:
        dist.all_reduce(tensor)
    if rank == 0:
        results.put([(tensor / 2).numpy() for tensor in outcome])
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_have_the_loss_and_gradient_of_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = tuple(_rows(*shape, seed=seed).detach() for seed, shape in enumerate([(5, 4), (6, 5), (6, 5)]))
    data = (*data, torch.tensor([7, 2, 3, 4, 7, 6]))  # each process has a sample that the other has too
    data = (*data, torch.tensor([False, True, True, True, False, False]))  # and not as many pairs
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    torch.multiprocessing.spawn(_process, (port, data, results), nprocs=2)
    values, gradients = results.get()
    expected_values, expected_gradients = _global_losses(*data)
    assert np.allclose(values, expected_values.numpy(), rtol=0, atol=1e-6)
    assert np.allclose(gradients, expected_gradients.numpy(), rtol=0, atol=1e-6)


def test_masked_cross_entropy_is_one_ratio_over_the_batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    truth = torch.randint(0, 7, (2, 5), generator=generator)
    weights = torch.rand(2, 5, generator=generator, dtype=torch.float64) * torch.tensor([1, 0, 1, 1, 0])
    labels = torch.softmax(torch.randn(7, 7, generator=generator, dtype=torch.float64), dim=1)
    hard, soft, hits, total = 0.0, 0.0, 0.0, 0.0
    for n in range(2):
        for i in range(5):
            log_p = [v - math.log(sum(math.exp(w) for w in logits[n, i].tolist())) for v in logits[n, i].tolist()]
            t, w = int(truth[n, i]), float(weights[n, i])
            hard -= w * log_p[t]
            soft -= w * sum(float(labels[t, k]) * log_p[k] for k in range(7))
            hits += w * (max(range(7), key=log_p.__getitem__) == t)
            total += w
    assert losses.masked_cross_entropy(logits, truth, weights).item() == pytest.approx(hard / total, rel=1e-9)
    assert losses.masked_cross_entropy(logits, truth, weights, labels).item() == pytest.approx(soft / total, rel=1e-9)
    assert losses.masked_accuracy(logits, truth, weights).item() == pytest.approx(hits / total, rel=1e-9)


def test_equal_logits_cost_the_log_of_the_classes_whatever_the_labels():
    truth, weights = torch.arange(12).view(2, 6), torch.rand(2, 6)
    for labels in (None, torch.softmax(torch.randn(12, 12), dim=1)):
        loss = losses.masked_cross_entropy(torch.full((2, 6, 12), 3.0), truth, weights, labels)
        assert loss.item() == pytest.approx(math.log(12), rel=1e-6)


def test_tokens_of_weight_zero_get_no_gradient():
    logits = torch.randn(2, 4, 5, requires_grad=True)
    weights = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 2.0, 1.0]])
    losses.masked_cross_entropy(logits, torch.zeros(2, 4, dtype=torch.int64), weights).backward()
    assert torch.equal(logits.grad.abs().amax(-1) > 0, weights > 0)
