"""Chunked encoding: the gradient of the whole batch, with the activations of one chunk at a time."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
from collective import contrasted
from contrast import Tower, contrast
from scaled import SCALE, engine
from torch import Tensor, nn

from unlabel.errors import UsageError
from unlabel.nn import batchnorm, gradcache
from unlabel.testing.processes import pair


def rows(count: int = 12, width: int = 5) -> Tensor:
    return torch.randn(count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def gradients(module: nn.Module, loss: Callable[[], Tensor]) -> tuple[list[Tensor], Tensor]:
    """Of all parameters, and the state of the random numbers afterwards."""
    module.zero_grad()
    torch.manual_seed(3)
    loss().backward()
    return [parameter.grad.clone() for parameter in module.parameters()], torch.get_rng_state()


@pytest.mark.parametrize("size", [1, 4, 5, 12, 99])
def test_the_gradient_is_that_of_one_pass_with_the_same_random_numbers(size: int) -> None:
    """Two encoders, one with dropout, and a temperature that is learnt; chunks of different sizes."""
    both = nn.ModuleDict({"image": Tower(dropout=0.5), "text": Tower(dropout=0.0)}).double()
    both.register_parameter("temperature", nn.Parameter(torch.tensor(0.3, dtype=torch.float64)))

    def in_one_pass() -> Tensor:
        images = torch.cat([both["image"](part) for part in rows().split(size)])
        return contrast(images, both["text"](rows()), both.temperature)

    def in_chunks() -> Tensor:
        images, texts = gradcache.encode(both["image"], rows(), size), gradcache.encode(both["text"], rows(), 2)
        return contrast(images, texts, both.temperature)

    expected, after = gradients(both, in_one_pass)
    found, state = gradients(both, in_chunks)
    assert all(gradient.abs().sum() > 0 for gradient in expected)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert torch.equal(state, after), "what draws next draws what it would have drawn"


def test_activations_of_one_chunk_live_at_a_time() -> None:
    linear, seen, most = nn.Linear(5, 5).double(), [], []

    def encoder(part: Tensor) -> Tensor:
        hidden = linear(part).tanh()
        seen.append(weakref.ref(hidden))
        most.append(sum(reference() is not None for reference in seen))
        return hidden.square() * part

    whole = torch.cat([encoder(part) for part in rows().split(3)])
    assert most == [1, 2, 3, 4], "kept for the backward"
    del whole
    seen.clear(), most.clear()
    representations = gradcache.encode(encoder, rows(), 3)
    contrast(representations, representations, torch.tensor(0.3)).backward()
    assert most == [1] * 8, "each chunk is run twice"


def test_batches_and_outputs_may_be_nested() -> None:
    class Both(nn.Module):
        def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
            assert batch["name"] == "b"
            return batch["x"] * 2, {"sum": batch["more"][0].sum(dim=1), "length": batch["x"].new_ones(len(batch["x"]))}

    batch = {"x": rows(), "more": (rows(),), "name": "b"}
    double, entries = gradcache.encode(Both(), batch, 5)
    assert torch.equal(double, 2 * rows())
    assert torch.equal(entries["sum"], rows().sum(dim=1))
    assert entries["length"].shape == (12,)
    with torch.no_grad():
        assert torch.equal(gradcache.encode(Both(), batch, 5)[0], 2 * rows())


def test_it_works_under_autocast_and_the_loss_scaler() -> None:
    tower, scaling = Tower(dropout=0.5), engine()
    whole, found = [], []
    for result, size in ((whole, 12), (found, 3)):
        tower.zero_grad()
        torch.manual_seed(3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            if result is whole:
                representations = torch.cat([tower(part) for part in rows().float().split(3)])
            else:
                representations = gradcache.encode(tower, rows().float(), size)
        assert representations.dtype == torch.bfloat16
        scaling.backward(contrast(representations.float(), representations.float(), torch.tensor(0.3)))
        result += [parameter.grad / SCALE for parameter in tower.parameters()]
    for ours, theirs in zip(found, whole, strict=True):  # bfloat16 has 8 bits, and sums are taken in another order
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.slow  # starts two processes
def test_two_processes_have_the_gradient_of_one() -> None:
    one = contrasted(chunk=None)
    for chunk in (None, 2):
        for found in pair()(contrasted, chunk):
            torch.testing.assert_close(torch.tensor(found), torch.tensor(one), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(5), batchnorm.BatchNorm(5), nn.SyncBatchNorm(5)])
def test_batch_normalisation_is_refused_while_it_uses_the_batch(norm: nn.Module) -> None:
    encoder = nn.Sequential(nn.Linear(5, 5), norm)
    with pytest.raises(UsageError, match=r"Sequential normalises over the batch \(1\), which chunks"):
        gradcache.encode(encoder, rows().float(), 3)
    frozen = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)).eval()
    assert gradcache.encode(frozen, rows().float(), 3).shape == (12, 5)
    with pytest.raises(UsageError, match="chunks of 0 samples: expected 1 or more"):
        gradcache.encode(frozen, rows().float(), 0)
