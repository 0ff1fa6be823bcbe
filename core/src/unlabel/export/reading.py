"""Encoders in: from a run, an export, a file of weights, or what a library publishes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unlabel import build
from unlabel.catalog.plugins import Catalog
from unlabel.errors import RunError, UsageError, nearest
from unlabel.export import formats
from unlabel.export.protocols import Published
from unlabel.recipe import Recipe, Ref
from unlabel.run import Run

if TYPE_CHECKING:
    from unlabel.task import Task

__all__ = ["initialise", "load_encoder", "load_first_weights"]


def load_encoder(path: Path | str, catalog: Catalog | None = None, *, of: str = "") -> nn.Module:
    """The encoder of a run or of an export, on the CPU, in evaluation mode.

    Args:
        path: of the run's folder or the export's.
        catalog: what is installed; default: looked up.
        of: which of several encoders.

    Raises:
        UsageError: the path is neither, or is damaged; there are several encoders and none is named, or not that one.
        RunError: the weights do not fit the encoder; a run has no whole checkpoint.
    """
    path, catalog = Path(path), catalog or Catalog.installed()
    name = _which(of, _names(path, catalog), path)
    if (path / "recipe.json").is_file():
        return Run(path, catalog).encoders[name]
    several = not (path / "encoder.json").is_file()
    return _of_export(path / name if several else path, catalog)


def _names(path: Path, catalog: Catalog) -> list[str]:
    """Of the encoders of a run or an export.

    Raises:
        UsageError: the path is neither.
    """
    if (path / "recipe.json").is_file():
        return list(Run(path, catalog).recipe.encoders)
    if (path / "encoder.json").is_file():
        return [str(_config(path).get("name", "encoder"))]
    if folders := sorted(file.parent.name for file in path.glob("*/encoder.json")):
        return folders
    raise UsageError(f"{path} is neither a run nor a safetensors export (no recipe.json, no encoder.json)")


def _which(of: str, names: list[str], path: Path) -> str:
    """The encoder that is meant.

    Raises:
        UsageError: it is not there, or none of several is named.
    """
    if of and of not in names:
        raise UsageError(f"{path} has no encoder {of!r}: it has {', '.join(names)}{nearest(of, names)}")
    if not of and len(names) > 1:
        raise UsageError(
            f"{path} has the encoders {', '.join(names)}: name one, as in load_encoder(..., of={names[0]!r})"
        )
    return of or names[0]


def _config(path: Path) -> dict[str, Any]:
    """What the export says of itself."""
    try:
        config = json.loads((path / "encoder.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} is a damaged export: encoder.json holds no object")
    return config


def _of_export(path: Path, catalog: Catalog) -> nn.Module:
    """The encoder of one export's folder."""
    config = _config(path)
    file = path / Path(str(config.get("weights", formats.WEIGHTS))).name  # whatever the file says, in this folder
    if not file.is_file():
        raise UsageError(f"{path} is neither a run nor a safetensors export (no {file.name})")
    try:
        ref = Ref.model_validate(config["encoder"])
        weights = load_file(file)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise _damaged(path, error) from error
    encoder = build.build_encoder(ref, catalog)
    report = _copy(weights, formats.named(encoder))
    if report["missing"] or report["misshapen"]:
        raise RunError(f"{file} does not fit {ref.name}: {report['summary']}")
    return encoder.eval()


def _damaged(path: Path, error: Exception) -> UsageError:
    return UsageError(f"{path} is a damaged export: {type(error).__name__}: {error}")


def load_first_weights(task: Task, recipe: Recipe, catalog: Catalog) -> list[str]:
    """Give a task's encoders the first weights that the recipe's `init` names; what was loaded, in a line each.

    Raises:
        UsageError: unknown source, or no name matches.
    """
    encoders, summaries = task.encoders(), []
    for name, source in recipe.first_weights.items():
        single = len(recipe.encoders) == 1
        part = next(iter(encoders)) if single else name  # a task may call its only encoder otherwise
        summary = initialise(encoders[part], source, catalog, "" if single else name)["summary"]
        summaries.append(summary if single else f"{name}: {summary}")
    return summaries


def initialise(encoder: nn.Module, source: str, catalog: Catalog, name: str = "") -> dict[str, Any]:
    """Give an encoder its first weights.

    Args:
        encoder: changed in place.
        source: a run's folder or an export's, a .safetensors (or weights-only torch) file, or ``LIBRARY:NAME``.
        catalog: what is installed.
        name: of the encoder; of a folder with several, the one of this name is taken.

    Returns:
        A report of which names matched: ``matched``, ``missing``, ``unexpected``, ``misshapen``, ``summary``.

    Raises:
        UsageError: unknown source, or no name matches.
    """
    weights = _weights(encoder, source, catalog, name)
    target = formats.named(encoder)
    prefix = _prefix(weights, target)
    weights = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if isinstance(encoder, Published):
        weights = encoder.adapted(weights)
    report = _copy(weights, target)
    if not report["matched"]:
        example = ", ".join(list(weights)[:2])
        raise UsageError(
            f"--init {source}: none of its {len(weights)} names ({example}, ...) fits {type(encoder).__name__}"
        )
    return report


def _prefix(names: Iterable[str], wanted: Mapping[str, Any]) -> str:
    """What stands before the wanted names in most of the given ones: ``"module.encoder_q."``, or nothing."""
    counts: Counter[str] = Counter({"": 0})
    for name in names:
        parts = name.split(".")
        endings = (".".join(parts[start:]) for start in range(len(parts)))
        counts.update(name.removesuffix(ending) for ending in endings if ending in wanted)
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)))


def _weights(encoder: nn.Module, source: str, catalog: Catalog, name: str) -> dict[str, Tensor]:
    path = Path(source).expanduser()
    if path.is_dir():
        several = len(_names(path, catalog)) > 1
        other = load_encoder(path, catalog, of=name if several else "")
        return {key: value.clone() for key, value in formats.named(other).items()}
    if path.is_file():
        return _read(path)
    scheme, colon, name = source.partition(":")
    if colon and isinstance(encoder, Published):
        return encoder.published(scheme, name)
    if colon:
        raise UsageError(f"--init {source}: {type(encoder).__name__} knows no published weights; give a file or a run")
    raise UsageError(f"--init {source}: there is no such file or run; expected RUN, FILE.safetensors or LIBRARY:NAME")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"--init {path} cannot be read: {error}") from error
    except Exception as error:  # torch.load raises whatever the damaged or unsafe content makes it raise
        raise UsageError(
            f"--init {path} holds more than weights, or is damaged ({type(error).__name__}); it was not run"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UsageError(f"--init {path}: expected names and tensors, found {type(content).__name__}")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> dict[str, Any]:
    """Copy what fits by name and shape, and report the rest."""
    both = weights.keys() & target.keys()
    misshapen = sorted(name for name in both if weights[name].shape != target[name].shape)
    for name in both.difference(misshapen):
        target[name].copy_(weights[name])
    missing, unexpected = sorted(target.keys() - weights.keys()), sorted(weights.keys() - target.keys())
    matched = len(both) - len(misshapen)
    parts = [f"{matched} of {len(target)} tensors loaded"]
    for label, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            parts.append(f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})")
    report = {"matched": matched, "missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    return {**report, "summary": "; ".join(parts)}
