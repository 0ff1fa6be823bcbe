"""Batch normalisation: two processes equal one on the whole batch, and one process equals torch.nn to the bit."""

from __future__ import annotations

import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from unlabel.nn import batchnorm
from unlabel.nn.batchnorm import BatchNorm


def _network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(96, 5),
        nn.BatchNorm1d(5, affine=False),
    )
    nn.init.uniform_(network[1].weight, 0.5, 2.0)
    nn.init.normal_(network[1].bias)
    return network


def test_one_process_computes_what_torch_computes_to_the_bit():
    images = torch.randn(8, 3, 6, 6)
    plain, converted = _network(), batchnorm.convert(_network())
    for mode in (True, True, False):
        outputs = [network.train(mode)(images) for network in (plain, converted)]
        assert torch.equal(*outputs)
    for one, other in zip(plain.state_dict().values(), converted.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_many_values_make_no_difference_but_rounding(layout, affine):
    """Two batches of 40,000 values a channel, in float64: outputs, gradients and running statistics."""
    torch.manual_seed(0)
    batches = [(torch.randn(25, 3, 40, 40, dtype=torch.float64) * 3 + 1).to(memory_format=layout) for _ in range(2)]
    gradient, norms = torch.randn_like(batches[0]), [nn.BatchNorm2d(3, affine=affine).double() for _ in range(2)]
    for parameter, other in zip(norms[0].parameters(), norms[1].parameters(), strict=True):
        other.data.copy_(parameter.data.uniform_(0.5, 2))
    batchnorm.convert(norms[1])
    found = []
    for norm in norms:
        norm(batches[0])
        inputs = batches[1].clone().requires_grad_()
        outputs = norm(inputs)
        outputs.backward(gradient)
        found.append([outputs.detach(), inputs.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
    for theirs, ours in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)
        assert ours.stride() == theirs.stride()


def test_sums_over_many_values_lose_no_digits():
    images = (torch.randn(128, 4, 32, 32) * 1.5 - 1).to(memory_format=torch.channels_last)
    exact = nn.BatchNorm2d(4).double()(images.double())
    errors = [
        (norm(images) - exact).abs().max().item() for norm in (batchnorm.convert(nn.BatchNorm2d(4)), nn.BatchNorm2d(4))
    ]
    assert errors[0] < 2e-6  # a few last digits of values up to 5
    assert errors[0] < 0.5 * errors[1]  # torch's own; if this fails it has become better, and ours can go


def test_conversion_keeps_state_dict_keys_and_the_very_same_parameters():
    network = _network()
    keys, parameters = list(network.state_dict()), list(network.parameters())
    assert batchnorm.convert(network) is network
    assert list(network.state_dict()) == keys
    assert all(mine is theirs for mine, theirs in zip(network.parameters(), parameters, strict=True))
    assert [type(part) is BatchNorm for part in network] == [False, True, False, False, False, True]


def test_conversion_takes_a_bare_norm_and_leaves_derived_classes_alone():
    class Other(nn.BatchNorm2d):
        pass

    assert type(batchnorm.convert(nn.BatchNorm3d(2))) is BatchNorm
    assert type(batchnorm.convert(Other(2))) is Other


def test_copies_of_a_converted_network_are_converted():
    copied = copy.deepcopy(batchnorm.convert(_network()))
    assert type(copied[1]) is BatchNorm


# --- two processes


def _cases() -> dict[str, tuple[nn.Module, Tensor, Tensor]]:
    """Norms with random parameters, inputs whose halves differ in mean and spread, and weights for a loss."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"rows": (6, 4), "images": (6, 4, 3, 5), "plain": (6, 4), "average": (6, 4), "untracked": (6, 4)}
    norms: dict[str, nn.Module] = {
        "rows": nn.BatchNorm1d(4),
        "images": nn.BatchNorm2d(4, momentum=0.3),
        "plain": nn.BatchNorm1d(4, affine=False),
        "average": nn.BatchNorm1d(4, momentum=None),
        "untracked": nn.BatchNorm1d(4, track_running_stats=False),
    }
    cases = {}
    for name, norm in norms.items():
        for parameter in norm.parameters():
            parameter.data.uniform_(0.5, 2.0, generator=generator)
        inputs = torch.randn(shapes[name], generator=generator, dtype=torch.float64)
        inputs[3:] = 3 * inputs[3:] + 5
        weights = torch.randn(shapes[name], generator=generator, dtype=torch.float64)
        cases[name] = norm.double(), inputs, weights
    return cases


def _run(norm: nn.Module, inputs: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Two batches through a norm; the output and gradients of the second, and the norm's state."""
    norm(inputs * 2 - 1)
    inputs = inputs.clone().requires_grad_()
    output = norm(inputs)
    (torch.sin(output) * weights).mean().backward()
    gradients = {name: parameter.grad for name, parameter in norm.named_parameters()}
    return {"output": output.detach(), "input": inputs.grad, **gradients, **dict(norm.named_buffers())}


def _float32_of_large_mean() -> Tensor:
    return 1000 + torch.randn(64, 3, generator=torch.Generator().manual_seed(1))


def _process(rank: int, port: int, results: torch.multiprocessing.SimpleQueue) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found: dict[str, dict[str, Tensor]] = {}
    for name, (norm, inputs, weights) in _cases().items():
        half = slice(3 * rank, 3 * rank + 3)
        found[name] = _run(batchnorm.convert(norm), inputs[half], weights[half])
    half = slice(32 * rank, 32 * rank + 32)
    found["large mean"] = {"output": batchnorm.convert(nn.BatchNorm1d(3))(_float32_of_large_mean()[half]).detach()}
    results.put((rank, {case: {key: value.numpy() for key, value in parts.items()} for case, parts in found.items()}))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves() -> list[dict[str, dict[str, Tensor]]]:
    """What each of two processes finds on its half of every case."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results = torch.multiprocessing.get_context("spawn").SimpleQueue()
    context = torch.multiprocessing.spawn(_process, (port, results), nprocs=2, join=False)
    found = dict(results.get() for _ in range(2))
    while not context.join():
        pass
    return [
        {case: {key: torch.from_numpy(value) for key, value in parts.items()} for case, parts in found[rank].items()}
        for rank in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(_cases()))
def test_two_processes_equal_one_on_the_whole_batch(halves, name):
    norm, inputs, weights = _cases()[name]
    whole = _run(norm, inputs, weights)
    first, second = halves[0][name], halves[1][name]
    assert first.keys() == whole.keys()
    for key, expected in whole.items():
        if key == "output":
            ours = torch.cat([first[key], second[key]])
        elif key == "input":  # of the sum of both local means, which is twice the global mean
            ours = torch.cat([first[key], second[key]]) / 2
        elif key in dict(norm.named_parameters()):
            ours = (first[key] + second[key]) / 2
        else:
            ours = first[key]
            assert torch.equal(first[key], second[key])
        # float64: what is left is the order of sums
        assert torch.allclose(ours.double(), expected.double(), rtol=1e-11, atol=1e-12), key


@pytest.mark.slow
def test_a_mean_far_from_zero_costs_no_digits(halves):
    inputs = _float32_of_large_mean()
    exact = nn.BatchNorm1d(3).double()(inputs.double())
    ours = torch.cat([half["large mean"]["output"] for half in halves])
    # float32 resolves 1000 to 6e-5 of a standard deviation here; E[x^2] - E[x]^2 would be off by a tenth
    assert (ours - exact).abs().max() < 5e-4
