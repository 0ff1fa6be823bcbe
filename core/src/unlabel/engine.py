"""Engine: which device, how many processes, which precision; backward, average, update, gather.

The same program runs on a CPU, one GPU, or under ``torchrun``. There is no wrapper around the task:
gradients are averaged in one flattened all-reduce inside `Engine.update`, so any control flow works
(several backwards, parameters that took no part) and state-dict keys are those of one process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from unlabel.errors import UsageError

if TYPE_CHECKING:
    from unlabel.recipe import Execution, Stage
    from unlabel.task import Batch, Task

__all__ = ["Engine", "average", "gather", "moved", "rank"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine:
    """Device, processes and precision of this run.

    Args:
        device: ``auto`` (CUDA if there is any), ``cpu``, ``cuda`` or ``cuda:N``.
        precision: ``auto`` (bf16 where processor or GPU computes it natively), ``fp32``, ``bf16``, ``fp16``.
        compile: compile the task's loss with torch.compile.
        shard: shard parameters, gradients and optimizer state over the processes (FSDP2, in place).
        deterministic: deterministic kernels on accelerators.

    Attributes:
        device: torch.device; rank, world: int; precision: the one chosen; reason: why, for the user.

    Raises:
        UsageError: a device or precision this machine does not have.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: str = "auto",
        *,
        compile: bool = False,
        shard: bool = False,
        deterministic: bool = False,
    ):
        self.world = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = _device(device, int(os.environ.get("LOCAL_RANK", "0")))
        self.precision, self.reason = _precision(precision, self.device)
        self.compile, self.shard = compile, shard
        self.scaler = torch.amp.grad_scaler.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self._losses: dict[nn.Module, Callable[[Batch], dict[str, Tensor]]] = {}
        self._in_iteration = False
        self._stepped: set[int] = set()  # ids of the optimizers that have stepped since the scaler was updated
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo")
        if shard and self.world == 1:
            raise UsageError("--shard needs several processes: start with `torchrun --nproc-per-node N -m unlabel ...`")

    @classmethod
    def of(cls, execution: Execution) -> Engine:
        """The engine a recipe's `execution` section asks for."""
        return cls(
            execution.device,
            execution.precision,
            compile=execution.compile,
            shard=execution.shard,
            deterministic=execution.deterministic,
        )

    @property
    def main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def describe(self) -> str:
        """One line for the user: device, precision and why, processes."""
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else f"{torch.get_num_threads()} threads"
        )
        processes = f", {self.world} processes" + (" (sharded)" if self.shard else "") if self.world > 1 else ""
        return f"{self.device} ({name}), {self.precision} ({self.reason}){processes}"

    def prepare(self, task: Task) -> None:
        """Move the task to the device in place; equal parameters on every process; shard if asked."""
        self.place(task)
        if self.world > 1:
            for tensor in [*task.parameters(), *task.buffers()]:
                dist.broadcast(tensor.data, src=0)
        if self.shard:
            self._shard(task)

    def place(self, task: Task) -> None:
        """Move the task to the device in place, in the layout it is fast in there; of this process alone."""
        task.to(self.device)
        if not self.shard and any(isinstance(module, nn.Conv2d) for module in task.modules()):
            for tensor in (*task.parameters(), *task.buffers()):
                if tensor.ndim == 4:  # 10-25 % of a convolution's time; weights of 5 dimensions have no such layout
                    tensor.data = tensor.data.to(memory_format=torch.channels_last)

    def _shard(self, task: Task) -> None:
        """FSDP2 in place: every element of a module list by itself, the rest with the root."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self.device.type, (self.world,))
        for module in list(task.modules()):
            if isinstance(module, nn.ModuleList) or (isinstance(module, nn.Sequential) and len(module) > 1):
                for child in module:
                    if any(p.requires_grad for p in child.parameters()) and not isinstance(child, nn.ModuleList):
                        fully_shard(child, mesh=mesh)
        fully_shard(task, mesh=mesh)
        for method in ("loss", "encode"):  # the root's own parameters are gathered around these two
            register_fsdp_forward_method(task, method)

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision's autocast; nothing for fp32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])

    def forward(self, task: Task, batch: Batch) -> dict[str, Tensor]:
        """``task.loss(batch)``, compiled if asked; of this task or of a part of it."""
        if not self.compile:
            return task.loss(batch)
        if task not in self._losses:
            self._losses[task] = torch.compile(task.loss)
        return self._losses[task](batch)

    def to_device(self, batch: Batch) -> Batch:
        """The batch with its tensors on the device."""
        return batch if self.device.type == "cpu" else cast("Batch", moved(batch, self.device))

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of `loss` (scaled first under fp16)."""
        self.scaler.scale(loss).backward()

    @contextmanager
    def iteration(self) -> Iterator[None]:
        """One iteration of the loop, with any number of backwards and updates in it.

        The fp16 loss scale stays the same from the first backward to the last update, and is adapted once, at the
        end. The loop opens one around each training step, so a task need not care; an update made outside of any is
        an iteration of its own.
        """
        self._in_iteration = True
        try:
            yield
        finally:
            self._in_iteration = False
        self._adapt_scale()

    def update(self, task: Task, optimizers: Optimizer | Mapping[str, Optimizer], stage: Stage) -> Tensor:
        """Average over processes, clip as the stage says, step, clear the gradients.

        Args:
            task: whose parameters they are.
            optimizers: one, or several by name, whose gradients are averaged in one go and clipped together; one
                whose parameters got no gradient does not step.
            stage: says how to clip.

        Returns:
            Norm of the averaged gradient before clipping, over all parameters of these optimizers: float32 scalar on
            the device.
        """
        every = list(optimizers.values()) if isinstance(optimizers, Mapping) else [optimizers]
        learning = {optimizer: with_gradient for optimizer in every if (with_gradient := _with_gradient(optimizer))}
        parameters = [parameter for with_gradient in learning.values() for parameter in with_gradient]
        gradients = [cast(Tensor, parameter.grad) for parameter in parameters]
        if not self.shard:
            average(gradients, self.world)  # before the scaler looks, or one process skips an update the others take
        for optimizer in learning:
            self._unscale(optimizer)
        norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=self.device)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # a sharded tensor's norm, summed up
        if stage.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, stage.clip_norm, norm)
        if stage.clip_tensor_norm is not None:
            _clip_each(gradients, stage.clip_tensor_norm)
        for optimizer in learning:
            self.scaler.step(optimizer)
            self._stepped.add(id(optimizer))
        for optimizer in every:
            optimizer.zero_grad(set_to_none=True)
        if not self._in_iteration:
            self._adapt_scale()
        return norm.detach()

    def _unscale(self, optimizer: Optimizer) -> None:
        """Divide the gradients of an optimizer by the loss scale, and note whether there is an infinite one."""
        if id(optimizer) in self._stepped and self.scaler.is_enabled():
            # A second update of this iteration: what the scaler noted at the first counts when the scale is adapted.
            states = self.scaler._per_optimizer_states
            states[-1 - len(states)] = states.pop(id(optimizer))
        self.scaler.unscale_(optimizer)

    def _adapt_scale(self) -> None:
        """The next loss scale, from all that was seen since the last time; nothing without an update."""
        if self._stepped:
            self.scaler.update()
        self._stepped.clear()

    def mean(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Averages of named numbers over the processes."""
        if self.world == 1:
            return dict(metrics)
        values = torch.tensor(list(metrics.values()), dtype=torch.float64)
        dist.all_reduce(values)
        return dict(zip(metrics, (values / self.world).tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether any process says yes."""
        return bool(self.mean({"flag": float(flag)})["flag"])

    def agree(self, text: str) -> str:
        """The main process's text, on every process."""
        if self.world == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0, device=self.device if self.device.type == "cuda" else None)
        return box[0]

    def barrier(self) -> None:
        """Wait for every process."""
        if self.world > 1:
            dist.barrier()

    def wait(self) -> None:
        """Until the device has done all that was asked of it; for taking times."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def close(self) -> None:
        """Leave the process group."""
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def moved(value: Any, device: torch.device) -> Any:
    """A batch, or whatever is in one, with its tensors on `device`: through mappings, lists, tuples and named tuples.

    Copies from pinned memory do not wait for the device. What is neither stays as it is.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {name: moved(entry, device) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = [moved(entry, device) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
    return value


def average(tensors: Iterable[Tensor], world: int) -> None:
    """Average tensors over all processes, in place, in one flattened all-reduce a dtype."""
    if world == 1:
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        dist.all_reduce(flat)
        flat /= world
        parts = torch.split(flat, [tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))


def gather(tensor: Tensor) -> Tensor:
    """Concatenate a tensor over all processes along dimension 0, in rank order, differentiably.

    The gradient of every process's copy is summed and each process receives its own part. With
    gradients averaged over processes afterwards, a loss whose mean over processes is the global loss
    gets exactly the global gradient.

    Args:
        tensor: (N, ...), the same shape on every process.

    Returns:
        (world * N, ...); the tensor itself with one process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor
    return cast(Tensor, _Gather.apply(tensor))  # type: ignore[no-untyped-call]


def rank() -> int:
    """This process's place in what `gather` returns; 0 with one process."""
    return dist.get_rank() if dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.count = len(tensor)
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.count
        return total[start : start + ctx.count]


def _with_gradient(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _clip_each(gradients: list[Tensor], largest: float) -> None:
    norms = torch._foreach_norm(gradients)
    torch._foreach_mul_(gradients, [torch.clamp(largest / (norm + 1e-6), max=1.0) for norm in norms])


def _device(name: str, local_rank: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {name!r}: expected auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name!r}: expected auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UsageError(f"--device {name}: no CUDA device is available here; use --device cpu (or auto)")
    index = local_rank if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _precision(name: str, device: torch.device) -> tuple[str, str]:
    """The precision to use, and why."""
    if name not in ("auto", *_DTYPES):
        raise UsageError(f"--precision {name!r}: expected auto, {', '.join(_DTYPES)}")
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if name == "auto":
        where = "the GPU" if device.type == "cuda" else "the processor"
        return ("bf16", f"{where} computes it natively") if native else ("fp32", f"{where} has no native bf16")
    if name == "fp16" and device.type == "cpu":
        raise UsageError("--precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    return name, "as asked"
