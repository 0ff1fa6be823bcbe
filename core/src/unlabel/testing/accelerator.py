"""A device that need not exist: its tensors have shapes and no values, so whatever waits for a value is found.

Tensors of the host are computed with as ever. torch's fake tensors do most of it; here is what they let pass although
a real accelerator would wait: copies to the host, copies from it that are waited for, and the operations of
`_COUNTING`. What came from the host, and is still what it was, may be asked back while `patient`.
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_any, tree_map_only

from unlabel.task import Batch, Task

__all__ = ["Accelerator", "Waited", "updates"]

_DEVICE = "cuda"
_COPY, _ITEM = torch.ops.aten._to_copy.default, torch.ops.aten._local_scalar_dense.default
_COPY_INTO = torch.ops.aten.copy_.default
_PUT = (torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)
_COUNTING = {
    torch.ops.aten.bincount.default: "bincount() looks for the largest number first",
    torch.ops.aten.isin.Tensor_Tensor: "isin() counts what is equal first",
    torch.ops.aten._linalg_check_errors.default: "whether the matrices could be factorised is asked of the device",
}
"""Operations whose result has a known shape, and which wait nevertheless."""


class Waited(Exception):
    """The host waited for the device, and what for."""


class Accelerator(TorchDispatchMode):
    """A mode in which tensors of the device have no values.

    Attributes:
        patient: whether it may be waited for what came from the host.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.patient = True
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._origins: dict[
            int, tuple[Tensor, Tensor, int]
        ] = {}  # of what is on the device: it, its value, its version

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """What is computed in here is computed on the device where its tensors are."""
        with warnings.catch_warnings(), self._fake, self:
            warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")
            yield

    def put(self, value: Any) -> Any:
        """Tensors, also nested in dictionaries, lists and tuples, on the device; the same one where one was given."""
        if isinstance(value, Tensor):
            for moved, origin, _ in self._origins.values():
                if origin is value:
                    return moved
            return self._noted(self._fake.from_tensor(value.detach()), value)
        if isinstance(value, Mapping):
            return {name: self.put(part) for name, part in value.items()}
        return type(value)(map(self.put, value)) if type(value) in (list, tuple) else value

    def _noted(self, copied: Tensor, value: Tensor) -> Tensor:
        if copied.device.type != _DEVICE:
            with self._fake:
                copied = copied.to(_DEVICE)
        self._origins[id(copied)] = (copied, value, copied._version)
        return copied

    def put_in_place(self, module: nn.Module) -> None:
        """Parameters and buffers of a module on the device."""
        moved: dict[int, nn.Parameter] = {}  # one that stands in several places is one
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None and id(parameter) not in moved:
                    moved[id(parameter)] = nn.Parameter(self.put(parameter), parameter.requires_grad)
                part._parameters[name] = None if parameter is None else moved[id(parameter)]
            part._buffers |= {name: self.put(value) for name, value in part._buffers.items()}

    def __torch_dispatch__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
        named = named or {}
        fake = tree_any(lambda value: isinstance(value, FakeTensor), (given, named))
        target = torch.device(named.get("device") or "cpu")
        if not fake and target.type == "cpu":
            with unset_fake_temporarily():
                return function(*given, **named)
        if function is _ITEM or (function is _COPY and fake and target.type == "cpu" and "device" in named):
            value = self._asked(given[0], function)
            with unset_fake_temporarily():
                return function(value, **named)
        if "sparse_compressed_tensor" in str(function):  # has no fake form; a dense one of its shape stands in
            return torch.empty(given[3], dtype=given[2].dtype, device=given[2].device)
        reason = _waiting(function, given, named)
        if reason:
            raise Waited(reason)
        origin = given[0] if function is _COPY and not isinstance(given[0], FakeTensor) else None
        given, named = tree_map_only(Tensor, self._fake_of, (given, named))
        made = function(*given, **named)
        return made if origin is None or not self.patient else self._noted(made, origin)

    def _fake_of(self, value: Tensor) -> Tensor:
        return value if isinstance(value, FakeTensor) else self._fake.from_tensor(value)

    def _asked(self, value: Tensor, function: Any) -> Tensor:
        """The value of what came from the host and is unchanged."""
        _, origin, version = self._origins.get(id(value), (None, None, None))
        if origin is None or version != value._version:
            raise Waited("a value is asked of the device" if function is _ITEM else "a tensor is copied to the host")
        if not self.patient:
            raise Waited("what came from the host is asked of the device again")
        return origin


def _waiting(function: Any, given: Sequence[Any], named: Mapping[str, Any]) -> str:
    """Why an operation waits although its result has a known shape; empty if it does not."""
    if function in (_COPY, _COPY_INTO):
        places = {value.device.type for value in given[:2] if isinstance(value, Tensor)}
        places |= {torch.device(named["device"]).type} if named.get("device") else set()
        blocking = not (named.get("non_blocking") or (function is _COPY_INTO and len(given) > 2 and given[2]))
        to_host = function is _COPY_INTO and given[0].device.type == "cpu"
        if len(places) > 1 and (blocking or to_host):
            return (
                "a tensor made on the host is copied to the device and waited for: make it there, or once (a buffer), "
                "or copy it by .to(device, non_blocking=True), as unlabel.nn.constants.constant does"
            )
    if function in _PUT and given[2].numel() != 1:
        masks = [index for index in given[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        if masks:
            return "how many entries a mask has is asked of the device: use torch.where"
    return _COUNTING.get(function, "")


def updates(task: Task, batches: Sequence[Batch]) -> str:
    """Where the loss of a task on the device leaves it or waits, on one batch after the other; empty if it does not.

    Args:
        task: as it enters a stage; its parameters and buffers are no longer usable afterwards.
        batches: the first of which may still wait for what came from the host.
    """
    device = Accelerator()
    device.put_in_place(task)
    moved = [device.put(batch) for batch in batches]
    for number, batch in enumerate(moved):
        device.patient = number == 0
        try:
            with device.at_work():
                terms = task.loss(batch)
        except Waited as error:
            return f"the loss waits for the device{_place(error)}: {error}"
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            return (
                f"the loss waits for the device{_place(error)}: {error.func} asks it for values (a size, a branch, a "
                "boolean index): use torch.where, or compute such sizes on the host"
            )
        except RuntimeError as error:
            if "different devices" not in str(error):
                raise
            return f"the loss mixes devices{_place(error)}: new tensors take the device of their inputs ({error})"
        elsewhere = sorted(name for name, value in terms.items() if value.device.type != _DEVICE)
        if elsewhere:
            return f"{', '.join(elsewhere)} of the loss is on the host: new tensors take the device of their inputs"
    return ""


def _place(error: BaseException) -> str:
    """Where, in the task's own code or what it calls outside of torch."""
    apart = (str(Path(torch.__file__).parent), __file__)
    lines = [line for line in traceback.extract_tb(error.__traceback__) if not line.filename.startswith(apart)]
    return f" at {Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else ""
