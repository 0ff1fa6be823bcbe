"""Momentum copies, their schedules, and the queue."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from unlabel import momentum
from unlabel.errors import UsageError


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    network(torch.randn(32, 6))  # moves the running statistics
    return network


def test_a_teacher_is_an_independent_frozen_copy():
    student = _network(0)
    teacher = momentum.teacher(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    with torch.no_grad():
        student[0].weight.zero_()
    assert teacher[0].weight.any()


def test_update_is_the_exponential_average_in_double_precision():
    student, teacher = _network(0).double(), momentum.teacher(_network(1)).double()
    before = {name: p.numpy().copy() for name, p in teacher.named_parameters()}
    momentum.update(teacher, student, 0.9)
    for (name, ours), theirs in zip(teacher.named_parameters(), student.parameters(), strict=True):
        assert np.allclose(ours.numpy(), 0.9 * before[name] + 0.1 * theirs.detach().numpy(), rtol=1e-14, atol=1e-16)


def test_update_keeps_storage_and_leaves_the_student_alone():
    student, teacher = _network(0), momentum.teacher(_network(1))
    places = [p.data_ptr() for p in teacher.parameters()]
    expected = {name: value.clone() for name, value in student.state_dict().items()}
    momentum.update(teacher, student, 0.5)
    assert places == [p.data_ptr() for p in teacher.parameters()]
    assert all(torch.equal(value, expected[name]) for name, value in student.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize(("value", "source"), [(1.0, "teacher"), (0.0, "student")])
def test_the_ends_are_exact(value, source):
    student, teacher = _network(0), momentum.teacher(_network(1))
    expected = [p.detach().clone() for p in (teacher if source == "teacher" else student).parameters()]
    momentum.update(teacher, student, value)
    assert all(torch.equal(ours, right) for ours, right in zip(teacher.parameters(), expected, strict=True))


@pytest.mark.parametrize("buffers", [True, False])
def test_buffers_are_copied_only_if_asked(buffers):
    student, teacher = _network(0), momentum.teacher(_network(1))
    own = [b.clone() for b in teacher.buffers()]
    momentum.update(teacher, student, 0.99, buffers=buffers)
    expected = list(student.buffers()) if buffers else own
    assert len(expected) == 3  # running mean, running variance, number of batches (an integer)
    assert all(torch.equal(ours, right) for ours, right in zip(teacher.buffers(), expected, strict=True))


def test_wrong_updates_are_refused():
    student = _network(0)
    with pytest.raises(UsageError, match=r"outside \[0, 1\]"):
        momentum.update(momentum.teacher(student), student, 1.5)
    with pytest.raises(UsageError, match="6 parameters and the student 2"):
        momentum.update(momentum.teacher(student), student[0], 0.9)


def test_schedules_match_golden(shared):
    data = np.load(shared / "golden/vision-survey/momentum_schedule.npz")
    steps = [int(step) for step in data["step"]]
    published = [momentum.cosine(step, 20, 0.996) for step in steps]
    library = [momentum.cosine(step, 20, 0.996, reached="at_last") for step in steps]
    assert np.allclose(published, data["byol_formula"], rtol=0, atol=1e-12)
    assert np.allclose(library, data["lightly_996_to_1_max20"], rtol=0, atol=1e-12)


@given(steps=st.integers(1, 500), start=st.floats(0.5, 1), reached=st.sampled_from(["after", "at_last"]))
@settings(max_examples=50, deadline=None)
def test_momentum_rises_from_start_to_one(steps, start, reached):
    values = [momentum.cosine(step, steps, start, reached=reached) for step in range(steps + 2)]
    assert all(later >= earlier for earlier, later in itertools.pairwise(values))
    assert values[-1] == values[-2] == 1.0
    if steps > 1:
        assert values[0] == pytest.approx(start)


def test_queue_matches_golden(shared):
    data = np.load(shared / "golden/vision-survey/moco_queue.npz")
    queue = momentum.Queue(16, 12)
    queue.rows.copy_(torch.from_numpy(data["queue_before_size_x_dim"]))
    queue.enqueue(functional.normalize(torch.from_numpy(data["key"]), dim=1))
    assert np.allclose(queue.rows.numpy(), data["queue_after_size_x_dim"], rtol=0, atol=1e-6)
    assert np.array_equal(queue.pointer.numpy(), data["ptr_after"])


@given(size=st.integers(1, 12), counts=st.lists(st.integers(0, 15), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_queue_holds_the_newest_rows_whatever_the_batches(size, counts):
    queue = momentum.Queue(size, 1)
    rows = torch.arange(float(sum(counts)))[:, None]
    expected = queue.rows[:, 0].tolist()
    for number, row in enumerate(rows[:, 0].tolist()):  # one row at a time: the definition
        expected[number % size] = row
    for batch in rows.split(counts):
        queue.enqueue(batch)
    assert queue.rows[:, 0].tolist() == expected
    assert queue.pointer.tolist() == [sum(counts) % size]


def test_queue_continues_from_its_state_dict():
    queue, resumed = momentum.Queue(8, 3), momentum.Queue(8, 3)
    queue.enqueue(torch.randn(5, 3))
    assert not torch.equal(queue.rows, resumed.rows)
    resumed.load_state_dict(queue.state_dict())
    batch = torch.randn(6, 3)
    queue.enqueue(batch), resumed.enqueue(batch)
    assert torch.equal(queue.rows, resumed.rows)
    assert torch.equal(queue.pointer, resumed.pointer)


def test_queue_starts_with_directions_and_keeps_no_gradient():
    queue = momentum.Queue(8, 3)
    assert torch.allclose(queue.rows.norm(dim=1), torch.ones(8))
    queue.enqueue(torch.randn(4, 3, requires_grad=True))
    assert not queue.rows.requires_grad
