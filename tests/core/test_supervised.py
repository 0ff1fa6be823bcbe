"""The one loop that trains with labels: its updates are those of a loop written out, whatever was drawn before."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from blobs import frozen
from torch import Tensor, nn

from unlabel import optim, seeds
from unlabel.evaluate import supervised
from unlabel.recipe import Stage

STAGE = Stage(steps=7, batch_size=4, optimizer="sgd", lr=0.1, warmup_steps=2, weight_decay=0.1).resolved(28)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Dropout(0.3), nn.Linear(5, 1))


def batches(count: int = 7) -> list[Tensor]:
    return list(torch.randn(count, 4, 3, generator=torch.Generator().manual_seed(1)))


def test_updates_are_those_of_a_loop_written_out() -> None:
    trained, judged = model().eval(), frozen()
    losses = supervised.fit(trained, judged, STAGE, batches(), lambda batch: trained(batch).square().mean())

    other = model()
    expected = []
    speeds = [torch.zeros_like(parameter) for parameter in other.parameters()]
    for step, batch in enumerate(batches()):
        seeds.seed(judged.seed, step)
        other.zero_grad()
        loss = other(batch).square().mean()
        loss.backward()
        rate = optim.learning_rate(STAGE, step)
        with torch.no_grad():
            for parameter, speed in zip(other.parameters(), speeds, strict=True):
                decay = 0.1 if parameter.ndim > 1 else 0.0  # of matrices alone
                speed.mul_(0.9).add_(parameter.grad + decay * parameter)
                parameter.sub_(rate * speed)
        expected.append(loss.detach())
    assert trained.training
    assert torch.allclose(losses, torch.stack(expected), rtol=1e-5)
    for mine, theirs in zip(trained.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_what_was_drawn_before_does_not_matter() -> None:
    weights = []
    for draws in (0, 5):
        trained = model()
        torch.rand(draws)
        supervised.fit(trained, frozen(), STAGE, batches(), lambda batch, net=trained: net(batch).square().mean())
        weights.append(trained[0].weight.detach())
    assert torch.equal(*weights)


def test_it_ends_with_the_stage_or_with_the_batches_and_reads_none_beyond() -> None:
    read = []

    def endless() -> Iterator[Tensor]:
        while True:
            read.append(1)
            yield from batches(1)

    trained = model()
    assert len(supervised.fit(trained, frozen(), STAGE, endless(), lambda batch: trained(batch).mean())) == 7
    assert len(read) == 7
    assert len(supervised.fit(trained, frozen(), STAGE, batches(3), lambda batch: trained(batch).mean())) == 3


def test_gradients_can_be_looked_at_after_the_first_backward_pass() -> None:
    trained, looks = model(), []

    def look() -> None:
        looks.append([parameter.grad is not None for parameter in trained.parameters()])
        raise ValueError("nothing learns")

    before = trained[0].weight.detach().clone()
    with pytest.raises(ValueError, match="nothing learns"):
        supervised.fit(trained, frozen(), STAGE, batches(), lambda batch: trained(batch).mean(), after_first=look)
    assert looks == [[True] * 4]
    assert torch.equal(trained[0].weight, before)


def test_each_epoch_takes_other_samples_first_and_only_whole_batches() -> None:
    indices = np.array([3, 5, 8, 13, 21, 34, 55])
    epochs = dict(supervised.orders(indices, 3, 4, seed=1))
    assert list(epochs) == [0, 1, 2, 3]
    assert all(len(order) == 6 and len(set(order)) == 6 and set(order) <= set(indices) for order in epochs.values())
    assert len({tuple(order) for order in epochs.values()}) == 4
    assert np.array_equal(epochs[2], dict(supervised.orders(indices, 3, 3, seed=1))[2])
