"""Reading a run's folder for its report: what is missing or damaged becomes a sentence, never an error."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unlabel.errors import UsageError, nearest
from unlabel.show import pictures

__all__ = ["Embeddings", "Found", "Picture", "flattened", "read"]

_PLACE = ("stage", "step", "epoch", "total_step")


@dataclass(frozen=True)
class Picture:
    """What the task saw after `step` updates of stage `stage`: `array` uint8, (H, W, 3)."""

    stage: int
    step: int
    name: str
    array: np.ndarray


@dataclass(frozen=True)
class Embeddings:
    """Features of some samples.

    Attributes:
        features: float, (N, D).
        names: of the samples.
        split: which part of the data they are of, in words.
        labels: int64, (N,), -1 for none; None without any.
        classes: names of the labels; may be shorter than there are labels.
        thumbnails: uint8, (N, S, S, 3), or None.
    """

    features: np.ndarray
    names: list[str]
    split: str
    labels: np.ndarray | None
    classes: list[str]
    thumbnails: np.ndarray | None


@dataclass(eq=False)
class Found:
    """What a run's folder holds, as far as it could be read.

    Attributes:
        folder: where it lies; name: what the report calls it.
        recipe, environment, evaluations: of the JSON files; empty if there is none.
        lines: of metrics.jsonl: numbers by name, each with ``stage``, ``step`` and ``total_step``.
        quarantine: of quarantine.jsonl: ``path``, ``reason`` and ``split`` as text.
        pictures: in the order of training.
        embeddings: of the run's end, if they were kept.
        problems: what is missing or damaged, a sentence each.
    """

    folder: Path
    name: str
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, Any] = field(default_factory=dict)
    lines: list[dict[str, float]] = field(default_factory=list)
    quarantine: list[dict[str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    embeddings: Embeddings | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def task(self) -> str:
        """Name of the task."""
        tasks = self.recipe.get("tasks", [self.recipe.get("task")])
        names = [str(task["name"]) for task in tasks if isinstance(task, Mapping) and "name" in task]
        return "+".join(names) or "unknown task"

    @property
    def last(self) -> int:
        """The last update that was logged; 0 if none was."""
        return max((int(line["total_step"]) for line in self.lines), default=0)

    @property
    def stages(self) -> list[str]:
        """Names of the stages."""
        stages = self.recipe.get("stages")
        entries = stages if isinstance(stages, list) else []
        return [str(entry.get("name", "main")) if isinstance(entry, Mapping) else "main" for entry in entries]


def read(folder: Path) -> Found:
    """Read a run.

    Raises:
        UsageError: the folder is no run.
    """
    if not (folder / "recipe.json").is_file():
        beside = folder.parent if folder.parent.is_dir() else Path()
        runs = [str(path.parent) for path in beside.glob("*/recipe.json")]
        what = "has no recipe.json" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} is not a run: it {what}{nearest(str(folder), runs)}")
    found = Found(folder, folder.resolve().name)
    again = f"`unlabel resume {shlex.quote(str(folder))}`"
    found.recipe = _object(found, "recipe.json", "its settings are unknown")
    found.environment = _object(found, "environment.json", "where it ran is unknown")
    found.evaluations = _object(found, "evaluations.json", f"the run did not come to its end, or is under way; {again}")
    found.lines = _metrics(found)
    found.quarantine = [
        {name: str(record.get(name, "")) for name in ("path", "reason", "split")}
        for record in _records(found, "quarantine.jsonl")
    ]
    found.pictures = _pictures(found)
    found.embeddings = _embeddings(found)
    return found


def _object(found: Found, name: str, without: str) -> dict[str, Any]:
    """A JSON object, or an empty one and a sentence."""
    path = found.folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found.problems.append(f"{name} is not there: {without}")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        found.problems.append(f"{name} is damaged ({error}): {without}")
        return {}
    if not isinstance(value, dict):
        found.problems.append(f"{name} holds no JSON object: {without}")
        return {}
    return value


def _records(found: Found, name: str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; damaged lines are counted and left out."""
    path = found.folder / name
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        found.problems.append(f"{name} cannot be read ({error})")
        return []
    records, damaged = [], []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            damaged.append(number)
    if damaged:
        which = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        found.problems.append(f"{name}: {len(damaged)} damaged of {len(lines)} lines left out (line {which})")
    return records


def _metrics(found: Found) -> list[dict[str, float]]:
    lines, homeless = [], 0
    for record in _records(found, "metrics.jsonl"):
        numbers = {name: float(value) for name, value in record.items() if type(value) in (int, float)}
        if all(math.isfinite(numbers.get(name, math.nan)) for name in ("stage", "step", "total_step")):
            lines.append(numbers)
        else:
            homeless += 1
    if homeless:
        found.problems.append(f"metrics.jsonl: {homeless} lines do not say which update they are of")
    if not lines:
        found.problems.append("nothing was logged yet, so there are no curves")
    return sorted(lines, key=lambda line: line["total_step"])


def _pictures(found: Found) -> list[Picture]:
    shown = []
    for point in pictures.taken(found.folder):
        try:
            arrays = pictures.read(point.path)
        except ValueError as error:
            found.problems.append(f"pictures/{error}")
            continue
        shown += [Picture(point.stage, point.step, name, array) for name, array in arrays.items()]
    return shown


def _embeddings(found: Found) -> Embeddings | None:
    """Those that training kept, or else of a file of ``unlabel embed`` in the run's folder."""
    own = found.folder / "embeddings.npz"
    for path in [own, *sorted(path for path in found.folder.glob("*.npz") if path != own)]:
        if not path.is_file():
            continue
        try:
            table = pictures.arrays(path)
            if not {"features", "names"} <= table.keys():
                continue
            return _embedded(table)
        except (ValueError, TypeError) as error:
            found.problems.append(f"{path.name} is left out: {error}")
    return None


def _embedded(table: dict[str, np.ndarray], most: int = 400) -> Embeddings:
    """At most so many samples, evenly taken; ValueError if the columns do not belong together."""
    features = np.asarray(table["features"], dtype=np.float64)
    count = len(features)
    columns = [name for name in ("names", "labels", "thumbnails", "split") if name in table]
    if features.ndim != 2 or not count or any(len(table[name]) != count for name in columns):
        raise ValueError("its columns are not of one length")
    if not np.isfinite(features).all():
        raise ValueError("its features are not finite")
    chosen = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
    labels, thumbnails = table.get("labels"), table.get("thumbnails")
    if thumbnails is not None and (thumbnails.dtype != np.uint8 or thumbnails.ndim != 4 or thumbnails.shape[3] != 3):
        raise ValueError("its thumbnails are no pictures")
    splits = sorted(set(map(str, table["split"]))) if "split" in table else []
    return Embeddings(
        features[chosen],
        [str(name) for name in table["names"][chosen]],
        " and ".join(splits),
        None if labels is None else labels[chosen].astype(np.int64),
        [str(name) for name in table.get("classes", ())],
        None if thumbnails is None else thumbnails[chosen],
    )


def flattened(value: Any, place: str = "") -> dict[str, Any]:
    """A nested JSON value as ``{"stages.0.lr": 0.001, ...}``; an empty list or object stands for itself."""
    if isinstance(value, Mapping) and value:
        entries = value.items()
    elif isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
        entries = enumerate(value)  # type: ignore[assignment]
    else:
        return {place: value}
    found: dict[str, Any] = {}
    for name, entry in entries:
        found |= flattened(entry, f"{place}.{name}" if place else str(name))
    return found
