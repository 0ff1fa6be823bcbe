"""Checkpoints: what is saved, so that nothing is lost and nothing good is overwritten by something bad.

A checkpoint is a folder ``step-00001000`` with the task's state, its optimizers' state (both
safetensors), and ``position.json`` (stage, step, scaler, hashes). It is written aside, flushed to the
disk and renamed, so it is there whole or not at all. There are no random states and no sampler
states in it: both are functions of the step. Nothing is unpickled.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unlabel.errors import RunError, UsageError
from unlabel.storage import files
from unlabel.task import Progress

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from unlabel.engine import Engine
    from unlabel.task import Task

__all__ = ["Position", "available", "load_optimizers", "load_task", "newest", "prune", "read", "save"]

_PREFIX = "step-"
_POSITION = "position.json"
_TASK = "task.safetensors"
_OPTIMIZERS = "optimizers.safetensors"


@dataclass(frozen=True)
class Position:
    """Where a checkpoint stands: `step` updates of stage `stage` are done.

    Attributes:
        task: name of the task, so that a checkpoint of another task is recognised.
        stage, step, total_step: see `unlabel.task.Progress`.
        score: the online monitor's value here, if there was one (higher is better).
        scaler: state of the fp16 loss scaler.
        hashes: file name -> sha256.
        steps, epoch: see `unlabel.task.Progress`; 0 in checkpoints that do not say.
    """

    task: str
    stage: int
    step: int
    total_step: int
    score: float | None = None
    scaler: dict[str, Any] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    epoch: int = 0

    @classmethod
    def of(cls, task: str, progress: Progress, score: float | None, scaler: dict[str, Any]) -> Position:
        """Where a run stands, to be saved; see the attributes."""
        stage, step, total = progress.stage, progress.step, progress.total_step
        return cls(task, stage, step, total, score, scaler, steps=progress.steps, epoch=progress.epoch)

    @property
    def progress(self) -> Progress:
        """Where the run stood."""
        return Progress(self.stage, self.step, self.steps, self.epoch, self.total_step)


def save(folder: Path, task: Task, optimizers: dict[str, Optimizer], engine: Engine, position: Position) -> Path:
    """Write a checkpoint into `folder` and return its path; every process must call it.

    Raises:
        RunError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    state, moments = _gathered(task, optimizers, engine)
    final = folder / f"{_PREFIX}{position.total_step:08d}"
    failure = ""
    if engine.main:
        try:
            _write(final, state, moments, position)
        except (OSError, SafetensorError) as error:
            failure = f"checkpoint {final} could not be written ({error}); earlier checkpoints are untouched"
    if engine.any(bool(failure)):
        raise RunError(failure or "the main process could not write the checkpoint")
    return final


def _write(final: Path, state: dict[str, Tensor], moments: dict[str, Tensor], position: Position) -> None:
    final.parent.mkdir(parents=True, exist_ok=True)
    with files.writing_folder(final, replace=True, sync=True) as aside:  # the same step once more, after a resume
        save_file(state, aside / _TASK)
        save_file(moments, aside / _OPTIMIZERS)
        hashes = {name: files.sha256(aside / name) for name in (_TASK, _OPTIMIZERS)}
        text = json.dumps({**asdict(position), "hashes": hashes}, indent=2)
        (aside / _POSITION).write_text(text + "\n", encoding="utf-8")


def available(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first; unfinished ones (of a killed process) are not among them."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def read(path: Path) -> Position:
    """The position of a checkpoint, after checking that its files are whole.

    Raises:
        RunError: a file is missing, truncated or altered; the message names it.
    """
    try:
        position = Position(**json.loads((path / _POSITION).read_text(encoding="utf-8")))
        for name, expected in position.hashes.items():
            if files.sha256(path / name) != expected:
                raise RunError(f"{path / name} is damaged: its content does not match the hash in {_POSITION}")
    except (OSError, json.JSONDecodeError, TypeError) as error:
        raise RunError(f"{path} is not a whole checkpoint: {error}") from error
    if set(position.hashes) != {_TASK, _OPTIMIZERS}:
        raise RunError(f"{path / _POSITION} is damaged: it lists no hashes")
    return position


def newest(folder: Path, task: str) -> tuple[Path, Position, list[str]] | None:
    """The newest checkpoint that is whole, its position, and what was wrong with newer ones; None if there is none.

    Raises:
        UsageError: the checkpoint belongs to another task.
        RunError: there are checkpoints, but every one is damaged.
    """
    problems: list[str] = []
    for path in reversed(available(folder)):
        try:
            position = read(path)
        except RunError as error:
            problems.append(str(error))
            continue
        if position.task != task:
            raise UsageError(f"{path} is a checkpoint of task {position.task!r}, not of {task!r}")
        return path, position, problems
    if problems:
        raise RunError(f"no checkpoint in {folder} is whole: {'; '.join(problems)}")
    return None


def load_task(path: Path, task: Task, engine: Engine) -> None:
    """Load a checkpoint's task state, strictly but for `Task.obsolete`, into a task (sharded or not)."""
    names = task.state_dict().keys()
    state: dict[str, Any] = {
        name: tensor
        for name, tensor in load_file(path / _TASK).items()
        if name in names or not any(fnmatchcase(name, pattern) for pattern in task.obsolete)
    }
    if engine.shard:
        from torch.distributed.checkpoint.state_dict import set_model_state_dict

        set_model_state_dict(task, state, options=_whole())
        return
    expected = _unique(task)
    if state.keys() != expected.keys():
        odd = sorted(state.keys() ^ expected.keys())
        raise RunError(f"{path} does not fit this task: {len(odd)} entries differ, among them {', '.join(odd[:3])}")
    with torch.no_grad():
        for name, tensor in expected.items():
            if tensor.shape != state[name].shape:
                raise RunError(f"{path}: {name} has shape {tuple(state[name].shape)}, the task's {tuple(tensor.shape)}")
            tensor.copy_(state[name])


def load_optimizers(path: Path, task: Task, optimizers: dict[str, Optimizer], engine: Engine) -> None:
    """Load the state of the optimizers, parameter by parameter."""
    moments = load_file(path / _OPTIMIZERS)
    if engine.shard:
        _load_sharded(moments, task, optimizers)
        return
    names = {parameter: name for name, parameter in task.named_parameters()}
    states: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        owner, _, entry = key.rpartition("/")
        states.setdefault(owner, {})[entry] = value
    for label, optimizer in optimizers.items():
        for group in optimizer.param_groups:
            on_device = bool(group.get("fused") or group.get("capturable"))
            for parameter in group["params"]:
                entries = states.get(f"{label}/{names[parameter]}", {})
                if entries:
                    optimizer.state[parameter] = dict(
                        _read_entry(key, value, parameter, on_device) for key, value in entries.items()
                    )


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints and the best-scoring one."""
    paths = available(folder)
    scores = {path: score for path in paths if (score := _score(path)) is not None}
    best = max(scores, key=lambda path: scores[path]) if scores else None
    for path in paths[:-keep]:
        if path != best:
            shutil.rmtree(path, ignore_errors=True)


def _score(path: Path) -> float | None:
    try:
        score = json.loads((path / _POSITION).read_text(encoding="utf-8")).get("score")
        return None if score is None else float(score)
    except (OSError, json.JSONDecodeError):
        return None


def _unique(task: Task) -> dict[str, Tensor]:
    """The task's state dict without second names of one tensor (safetensors stores each memory once)."""
    tensors: dict[str, Tensor] = {}
    seen: set[tuple[int, tuple[int, ...]]] = set()
    for name, tensor in task.state_dict().items():
        identity = (tensor.data_ptr(), tuple(tensor.shape))
        if tensor.numel() and identity in seen:
            continue
        seen.add(identity)
        tensors[name] = tensor
    return tensors


def _gathered(
    task: Task, optimizers: dict[str, Optimizer], engine: Engine
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Whole tensors of task and optimizers on the CPU of the main process."""
    if engine.shard:
        return _gathered_shards(task, optimizers)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in _unique(task).items()}
    names = {parameter: name for name, parameter in task.named_parameters()}
    moments = {
        f"{label}/{names[parameter]}/{name}": tensor
        for label, optimizer in optimizers.items()
        for parameter in _parameters(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
        for name, tensor in _entry(key, value, optimizer).items()
    }
    return state, moments


def _parameters(optimizer: Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


_NUMBERS: dict[str, tuple[type, torch.dtype]] = {
    "bool": (bool, torch.bool),
    "int": (int, torch.int64),
    "float": (float, torch.float64),
}
"""Numbers of Python that an optimizer may keep, by the ending of their names in a file: a tensor would round them."""


def _entry(key: str, value: Any, optimizer: Optimizer) -> dict[str, Tensor]:
    """One entry of an optimizer's state as it is saved: nothing for None."""
    if value is None:
        return {}
    if isinstance(value, Tensor):
        return {key: value.detach().cpu().contiguous()}
    for name, (kind, dtype) in _NUMBERS.items():
        if type(value) is kind:
            return {f"{key}:{name}": torch.tensor(value, dtype=dtype)}
    raise UsageError(
        f"{type(optimizer).__name__} keeps {key!r} as a {type(value).__name__}, which no checkpoint can hold: expected "
        "tensors and numbers"
    )


def _read_entry(key: str, value: Tensor, parameter: Tensor, on_device: bool) -> tuple[str, Any]:
    """The same, read: tensors on the parameter's device, a step counter only for fused updates."""
    name, _, number = key.rpartition(":")
    if name and number in _NUMBERS:
        return name, value.item()
    if value.dim() == 0:
        return key, value.to(parameter.device, copy=True) if on_device else value.clone()
    if value.shape == parameter.shape:  # in its memory layout
        return key, torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
    return key, value.to(parameter.device, copy=True)


def _whole() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=True, cpu_offload=True)


def _gathered_shards(task: Task, optimizers: dict[str, Optimizer]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict

    whole: dict[str, Any] = get_model_state_dict(task, options=_whole())
    state = {name: tensor.contiguous() for name, tensor in whole.items()}
    moments = {}
    for label, optimizer in optimizers.items():
        entire: dict[str, Any] = get_optimizer_state_dict(task, optimizer, options=_whole())
        for name, entries in entire.get("state", {}).items():
            for key, value in entries.items():
                moments[f"{label}/{name}/{key}"] = torch.as_tensor(value).contiguous()
    return state, moments


def _load_sharded(moments: dict[str, Tensor], task: Task, optimizers: dict[str, Optimizer]) -> None:
    from torch.distributed.checkpoint.state_dict import set_optimizer_state_dict

    names = {parameter: name for name, parameter in task.named_parameters()}
    for label, optimizer in optimizers.items():
        state: dict[str, dict[str, Tensor]] = {}
        for key, value in moments.items():
            owner, rest = key.split("/", 1)
            if owner == label:
                name, _, entry = rest.rpartition("/")
                state.setdefault(name, {})[entry] = value
        groups = [
            {**group, "params": [names[parameter] for parameter in group["params"]]} for group in optimizer.param_groups
        ]
        whole: Any = {"state": state, "param_groups": groups}
        set_optimizer_state_dict(task, optimizer, whole, options=_whole())
