"""Frozen teachers: networks that a task asks and never trains, such as a published encoder or a reference policy.

A teacher is no module of the task that uses it: its weights are in no optimizer, no moving average and no checkpoint,
and nothing puts it into training mode. What a run depends on is recorded as a hash of its weights and of what they do
not say (`unlabel.Task.provenance`). A task holds it in a `LazyTeacher`, which takes it from device to device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any, Generic, Self, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["LazyTeacher", "Teacher", "fingerprint"]


class Teacher:
    """A network that is asked, with what identifies it.

    Args:
        name: what the user calls it.
        network: put into evaluation mode; nothing in it is trainable from now on.
        facts: what its weights alone do not say, such as its architecture and how its inputs are prepared: numbers,
            texts, and lists of them.

    Attributes:
        name, network: as given.
        hash: sha256 of the weights and the facts, hexadecimal; see `fingerprint`.
    """

    def __init__(self, name: str, network: nn.Module, facts: Sequence[Any] = ()):
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.hash = fingerprint(network, facts)
        self._device: torch.device | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: nothing in it ever changes, and it may be large."""
        return self

    def to(self, device: torch.device) -> Self:
        """Move the network, if it is not there; its precision and memory layout stay as they are."""
        if device != self._device:
            self.network.to(device)
            self._device = device
        return self

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> Any:
        """What the network makes of inputs, on their device, in the precision of the autocast around; no gradient."""
        return self.to(inputs.device).network(inputs)


def fingerprint(network: nn.Module, facts: Sequence[Any] = ()) -> str:
    """Sha256 of a network's state, name by name, and of facts about it; hexadecimal."""
    total = hashlib.sha256(json.dumps(list(facts)).encode())
    for name, tensor in sorted(network.state_dict().items()):
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


_T = TypeVar("_T", bound=Teacher)


class LazyTeacher(nn.Module, Generic[_T]):
    """What a task holds its teacher in: loaded when it is first asked for, as a finished student needs none.

    To torch it is a module without parameters, buffers and children. It goes where the task goes (``task.to``), and
    takes the teacher along; a change of precision or memory layout does not reach it.

    Args:
        load: makes the teacher, or says why there is none (UsageError, RunError). What it draws from torch's generator
            is given back: weights that are drawn after it do not depend on when it is called.
    """

    def __init__(self, load: Callable[[], _T]):
        super().__init__()
        self._load = load
        self._loaded: _T | None = None
        self._device: torch.device | None = None

    @property
    def teacher(self) -> _T:
        """The teacher, on the task's device; as `load` raises."""
        if self._loaded is None:
            with torch.random.fork_rng(devices=[]):
                self._loaded = self._load()
            if self._device is not None:
                self._loaded.to(self._device)
        return self._loaded

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow the task: torch calls this for ``task.to`` and the like."""
        self._device = fn(torch.empty(0)).device
        if self._loaded is not None:
            self._loaded.to(self._device)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        """Name and hash of what is loaded, for printing."""
        return "" if self._loaded is None else f"{self._loaded.name}, hash={self._loaded.hash[:12]}..."
