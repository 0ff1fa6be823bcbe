"""Encoders out: a folder each, with weights, what they were built from, how inputs are made, and a README."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from torch import nn

from unlabel.errors import RunError, UsageError
from unlabel.export import checking, formats
from unlabel.export.protocols import Exportable, Preprocessed, Transforming, Tried, Written
from unlabel.recipe import Ref
from unlabel.storage import assets

if TYPE_CHECKING:
    from unlabel.run import Run
    from unlabel.task import Task

__all__ = ["Origin", "Part", "export", "write"]

_PREPROCESSING = "preprocessing.json"


@dataclass(frozen=True)
class Part:
    """One encoder of a run: what it was built from, itself, and how inputs are made as far as its task knows."""

    ref: Ref
    encoder: nn.Module
    preprocessing: Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where encoders come from, for their READMEs.

    Attributes:
        run: its folder. task, dataset: their names.
        measured: evaluation -> numbers.
    """

    run: Path
    task: str
    dataset: str
    measured: Mapping[str, Any]


def export(run: Run, out: Path, kind: str = "safetensors", check: bool = True) -> dict[str, Any]:
    """Write a run's encoders to a folder: the only one into it, each of several into one of its own below it.

    Args:
        run: where they come from.
        out: a folder that does not exist yet, or is empty.
        kind: ``safetensors``, ``onnx``, ``torch-export``, or a format that each encoder offers.
        check: load them back as their READMEs say, in fresh processes, and compare features.

    Returns:
        ``{"files": [...], "difference": largest absolute difference of features, or None}``.

    Raises:
        UsageError: unknown format, `out` is taken, or an extra is missing.
        RunError: what was loaded back gives other features, or an encoder cannot be traced.
    """
    _check_free(out)
    task = run.task()
    transform = task.eval_transform()
    inputs: Mapping[str, Any] = transform.preprocessing() if isinstance(transform, Preprocessed) else {}
    encoders = _encoders(run, task)
    parts = {
        name: Part(ref, module, inputs if len(encoders) == 1 else inputs.get(name, {}))
        for name, (ref, module) in encoders.items()
    }
    results = run.evaluations.get("after", {})
    return write(parts, Origin(run.folder, run.recipe.name, run.recipe.dataset.name, results), out, kind, check)


def _encoders(run: Run, task: Task) -> dict[str, tuple[Ref, nn.Module]]:
    """The encoders by name, each with what it was built from."""
    refs, modules = run.recipe.encoders, task.encoders()
    if len(refs) == 1:  # a task may call its only encoder otherwise
        return {"encoder": (run.recipe.encoder, next(iter(modules.values())))}
    return {name: (refs[name], module) for name, module in modules.items()}


def _check_free(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out} already exists; give a folder that does not")


def write(parts: Mapping[str, Part], origin: Origin, out: Path, kind: str, check: bool = True) -> dict[str, Any]:
    """Write encoders by name; see `export`."""
    several = len(parts) > 1
    writers = {name: formats.writer(part.encoder, kind, name if several else "") for name, part in parts.items()}
    _check_free(out)
    folders = {name: out / name if several else out for name in parts}
    snippets = {}
    try:
        for name, part in parts.items():
            folders[name].mkdir(parents=True, exist_ok=True)
            snippets[name] = _write(part, writers[name], folders[name], origin, name)
        _copy_assets(origin.run, {folders[name]: _preprocessing(part) for name, part in parts.items()}, out)
        if several:
            (out / "README.md").write_text(_overview(parts, origin), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        shutil.rmtree(out, ignore_errors=True)
        raise RunError(f"--out {out} cannot be written: {error}") from error
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # half an export would be in the way of the next try
        raise
    differences = [
        checking.check(part.encoder, folders[name], snippets[name])
        for name, part in parts.items()
        if check and isinstance(part.encoder, Tried) and not snippets[name].startswith(formats.OURS)
    ]
    files = sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
    return {"files": files, "difference": max(differences, default=None)}


def _write(part: Part, writer: Callable[[Path], str], out: Path, origin: Origin, name: str) -> str:
    """Everything of one encoder; returns the snippet that loads it."""
    encoder = part.encoder.eval()
    code = writer(out)
    if preprocessing := _preprocessing(part):
        try:
            text = json.dumps(preprocessing, indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise RunError(f"what preprocessing() says of {type(encoder).__name__} is no JSON: {error}") from error
        (out / _PREPROCESSING).write_text(text + "\n", encoding="utf-8")
        if isinstance(encoder, Transforming):
            code = f"{code}\n{encoder.preprocessing_code(_PREPROCESSING)}"
    config = {"encoder": part.ref.model_dump(mode="json"), "task": origin.task, "run": origin.run.name}
    if name != "encoder":
        config["name"] = name
    if isinstance(encoder, Written) and not (out / formats.WEIGHTS).exists():
        config["weights"] = _weights_of(encoder, out)
    (out / "encoder.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (out / "README.md").write_text(_readme(encoder, origin, code, bool(preprocessing)), encoding="utf-8")
    return code


def _weights_of(encoder: nn.Module, out: Path) -> str:
    """Which file of an encoder that writes its own `load_encoder` can read; one more is written if none will do."""
    names = formats.named(encoder).keys()
    for path in sorted(out.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            if set(file.keys()) == names:
                return path.name
    formats.write_weights(encoder, out / formats.WEIGHTS)
    return formats.WEIGHTS


def _preprocessing(part: Part) -> dict[str, Any]:
    """How inputs are made, as encoder and task say it; the task comes last."""
    return {**(part.encoder.preprocessing() if isinstance(part.encoder, Preprocessed) else {}), **part.preprocessing}


def _copy_assets(run: Path, users: Mapping[Path, Mapping[str, Any]], out: Path) -> None:
    """What the run depends on besides weights, checked against its list of hashes.

    Args:
        run: its folder.
        users: folder of each encoder -> its preprocessing, that names what goes into this folder.
        out: where what none of them names goes.
    """
    for key, source in assets.load_all(run).items():
        place = f"{assets.FOLDER}/{key}"
        for folder in [folder for folder, inputs in users.items() if place in _texts(inputs)] or [out]:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / place)


def _texts(value: Any) -> set[str]:
    """All texts in nested mappings and lists."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return set().union(*map(_texts, value))
    return {value} if isinstance(value, str) else set()


def _readme(encoder: nn.Module, origin: Origin, code: str, preprocessed: bool) -> str:
    usage = encoder.usage() if isinstance(encoder, Exportable) else f"Input as in task {origin.task}."
    inputs = f"\n\nHow inputs are made stands in `{_PREPROCESSING}`." if preprocessed else ""
    return (
        f"# Encoder of run {origin.run.name}\n\n"
        f"Trained with `{origin.task}` on `{origin.dataset}`.\n\n"
        f"## Load\n\nIn this folder:\n\n```python\n{code}```\n\n{usage}{inputs}\n\n"
        f"## Measured\n\n{_measured(origin)}"
    )


def _overview(parts: Mapping[str, Part], origin: Origin) -> str:
    listed = "".join(f"- [{name}]({name}/README.md): `{part.ref.name}`\n" for name, part in parts.items())
    return (
        f"# Encoders of run {origin.run.name}\n\n"
        f"Trained with `{origin.task}` on `{origin.dataset}`. Each folder is complete in itself, and its README says "
        f"how it is loaded:\n\n{listed}\n## Measured\n\n{_measured(origin)}"
    )


def _measured(origin: Origin) -> str:
    lines = [f"- {name}: {json.dumps(numbers)}\n" for name, numbers in origin.measured.items()]
    return "".join(lines) or "- not evaluated\n"
