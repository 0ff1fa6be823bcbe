"""The device that need not exist: what waits for it is found, and what does not is let pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unlabel.nn.constants import constant
from unlabel.testing.accelerator import Accelerator, Waited


@pytest.fixture
def device() -> Accelerator:
    return Accelerator()


def test_what_is_nested_is_put_there_once(device: Accelerator) -> None:
    shared = torch.arange(4)
    given = {"a": shared, "pair": (torch.ones(2), [shared]), "nested": {"b": torch.zeros(3), "name": "c"}}
    moved = device.put(given)
    assert moved["a"] is moved["pair"][1][0]
    assert {moved["a"].device.type, moved["pair"][0].device.type, moved["nested"]["b"].device.type} == {"cuda"}
    assert moved["nested"]["name"] == "c"
    assert moved["nested"]["b"].shape == (3,)


def test_a_module_computes_there_with_tied_weights_and_statistics(device: Accelerator) -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    module[2].weight = module[0].weight
    device.put_in_place(module)
    batch = device.put(torch.ones(3, 4))
    with device.at_work():
        made = module(batch).relu()
    assert (made.device.type, made.shape, made.requires_grad) == ("cuda", (3, 4), True)
    assert module[2].weight is module[0].weight


WAITING: dict[str, Callable[[Tensor], object]] = {
    "a branch": lambda x: x.abs() if (x > 0).any() else x,
    "a number": lambda x: x.sum().item(),
    "the host": lambda x: (x + 1).cpu(),
    "another type on the host": lambda x: (x + 1).to("cpu", torch.float64),
    "a copy into the host": lambda x: torch.empty(4).copy_(x),
    "a mask": lambda x: x[x > 0],
    "assigned where a mask is": lambda x: x.clone().index_put_((x > 0,), x),
    "the indices": lambda x: x.nonzero(),
    "different ones": lambda x: x.unique(),
    "counted": lambda x: torch.bincount(x.long(), minlength=9),
    "as often as said": lambda x: x.repeat_interleave(x.long()),
    "a constant": lambda x: x.new_tensor([1.0, 2.0, 3.0, 4.0]),
    "a list on the device": lambda x: torch.tensor([1, 2], device=x.device),
    "a host's tensor": lambda x: torch.ones(4).to(x.device),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_found(name: str, device: Accelerator) -> None:
    x = device.put(torch.arange(4.0))
    device.patient = False
    with pytest.raises(Exception) as error, device.at_work():
        WAITING[name](x)
    assert isinstance(error.value, Waited) or type(error.value).__module__.startswith("torch._subclasses"), error.value


def sparse(device: torch.device) -> Tensor:
    """One entry of a row of four, handed over."""
    parts = (torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1))
    moved = (part.to(device, non_blocking=True) for part in parts)
    return torch.sparse_csr_tensor(*moved, size=(1, 4), check_invariants=False)


PASSING: dict[str, Callable[[Tensor], object]] = {
    "numbers": lambda x: torch.where(x > 0, x * 2, 0.0).softmax(0),
    "drawn there": lambda x: torch.rand(3, device=x.device) + torch.randperm(3, device=x.device),
    "sorted": lambda x: x.argsort().scatter(0, torch.arange(4, device=x.device), 1),
    "filled where a mask is": lambda x: x.clone().masked_fill_(x > 0, 1.0),
    "one number where a mask is": lambda x: x.clone().index_put_((x > 0,), torch.zeros((), device=x.device)),
    "a constant": lambda x: x * constant([1.0, 2.0, 3.0, 4.0], x),
    "the host's own business": lambda x: x[: int(torch.tensor([1, 0, 2]).nonzero().sum())],
    "handed over": lambda x: x[torch.tensor([1, 0]).to(x.device, non_blocking=True)],
    "a sparse matrix": lambda x: sparse(x.device) @ x[:, None],
}


@pytest.mark.parametrize("name", PASSING)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_what_does_not_wait_passes(name: str, device: Accelerator) -> None:
    x = device.put(torch.arange(4.0))
    device.patient = False
    with device.at_work():
        made = PASSING[name](x)
    assert isinstance(made, Tensor)
    assert made.device.type == "cuda"


def test_what_came_from_the_host_may_be_asked_back_in_the_first_update_as_long_as_it_is_unchanged(
    device: Accelerator,
) -> None:
    value = torch.tensor([3.0, 1.0])
    x = device.put(value)
    with device.at_work():
        assert x.cpu().tolist() == [3, 1]
        assert torch.tensor([2.0]).to("cuda", non_blocking=True).cpu().item() == 2
        with pytest.raises(Waited, match="a tensor is copied to the host"):
            (x + 1).cpu()
        device.patient = False
        with pytest.raises(Waited, match="asked of the device again"):
            x.cpu()
        device.patient = True
        x.add_(1)
        with pytest.raises(Waited, match="a tensor is copied to the host"):
            x.cpu()


def test_devices_are_not_mixed(device: Accelerator) -> None:
    x = device.put(torch.ones(4))
    with device.at_work(), pytest.raises(RuntimeError, match="different devices"):
        x + torch.ones(4)
