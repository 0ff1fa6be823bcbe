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
from unlabel.show import files, pictures
from unlabel.show.limits import clean
from unlabel.show.media import Media

__all__ = ["Embeddings", "RunFiles", "Shown", "flattened", "read"]

_PLACE = ("stage", "step", "epoch", "total_step")


@dataclass(frozen=True)
class Shown:
    """What the task showed after `step` updates of stage `stage`."""

    stage: int
    step: int
    name: str
    media: Media


@dataclass(frozen=True)
class Embeddings:
    """Features of some samples.

    Attributes:
        features: float, (N, D).
        names: of the samples; of texts their first words, too.
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
class RunFiles:
    """What a run's folder holds, as far as it could be read.

    Attributes:
        folder: where it lies; name: what the report calls it.
        recipe, environment, evaluations: of the JSON files; empty if there is none.
        lines: of metrics.jsonl: numbers by name, each with ``stage``, ``step`` and ``total_step``.
        quarantine: of quarantine.jsonl: ``path``, ``reason`` and ``split`` as text.
        shown: by the task, in the order of training.
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
    shown: list[Shown] = field(default_factory=list)
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


def read(folder: Path) -> RunFiles:
    """Read a run.

    Raises:
        UsageError: the folder is no run.
    """
    if not (folder / "recipe.json").is_file():
        beside = folder.parent if folder.parent.is_dir() else Path()
        runs = [str(path.parent) for path in beside.glob("*/recipe.json")]
        what = "has no recipe.json" if folder.exists() else "does not exist"
        raise UsageError(f"{folder} is not a run: it {what}{nearest(str(folder), runs)}")
    run = RunFiles(folder, folder.resolve().name)
    again = f"`unlabel resume {shlex.quote(str(folder))}`"
    run.recipe = _object(run, "recipe.json", "its settings are unknown")
    run.environment = _object(run, "environment.json", "where it ran is unknown")
    run.evaluations = _object(run, "evaluations.json", f"the run did not come to its end, or is under way; {again}")
    run.lines = _metrics(run)
    run.quarantine = [
        {name: str(record.get(name, "")) for name in ("path", "reason", "split")}
        for record in _records(run, "quarantine.jsonl")
    ]
    run.shown = _shown(run)
    run.embeddings = _embeddings(run)
    return run


def _object(run: RunFiles, name: str, without: str) -> dict[str, Any]:
    """A JSON object, or an empty one and a sentence."""
    path = run.folder / name
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        run.problems.append(f"{name} is not there: {without}")
        return {}
    except (OSError, ValueError, RecursionError) as error:
        run.problems.append(f"{name} is damaged ({error}): {without}")
        return {}
    if not isinstance(value, dict):
        run.problems.append(f"{name} holds no JSON object: {without}")
        return {}
    return value


def _records(run: RunFiles, name: str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; damaged lines are counted and left out."""
    path = run.folder / name
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        run.problems.append(f"{name} cannot be read ({error})")
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
        run.problems.append(f"{name}: {len(damaged)} damaged of {len(lines)} lines left out (line {which})")
    return records


def _metrics(run: RunFiles) -> list[dict[str, float]]:
    lines, homeless = [], 0
    for record in _records(run, "metrics.jsonl"):
        numbers = {name: float(value) for name, value in record.items() if type(value) in (int, float)}
        if all(math.isfinite(numbers.get(name, math.nan)) for name in ("stage", "step", "total_step")):
            lines.append(numbers)
        else:
            homeless += 1
    if homeless:
        run.problems.append(f"metrics.jsonl: {homeless} lines do not say which update they are of")
    if not lines:
        run.problems.append("nothing was logged yet, so there are no curves")
    return sorted(lines, key=lambda line: line["total_step"])


def _shown(run: RunFiles) -> list[Shown]:
    shown = []
    for point in pictures.taken(run.folder):
        try:
            media = files.read(point.path)
        except ValueError as error:
            run.problems.append(f"pictures/{error}")
            continue
        shown += [Shown(point.stage, point.step, name, each) for name, each in media.items()]
    return shown


def _embeddings(run: RunFiles) -> Embeddings | None:
    """Those that training kept, or else of a file of ``unlabel embed`` in the run's folder."""
    own = run.folder / "embeddings.npz"
    for path in [own, *sorted(path for path in run.folder.glob("*.npz") if path != own)]:
        if not path.is_file():
            continue
        try:
            table = files.arrays(path)
            if not {"features", "names"} <= table.keys():
                continue
            return _embedded(table)
        except (ValueError, TypeError) as error:
            run.problems.append(f"{path.name} is left out: {error}")
    return None


def _embedded(table: dict[str, np.ndarray], most: int = 400) -> Embeddings:
    """At most so many samples, evenly taken; ValueError if the columns do not belong together."""
    features = np.asarray(table["features"], dtype=np.float64)
    count = len(features)
    columns = [name for name in ("names", "labels", "thumbnails", "words", "split") if name in table]
    if features.ndim != 2 or not count or any(len(table[name]) != count for name in columns):
        raise ValueError("its columns are not of one length")
    if not np.isfinite(features).all():
        raise ValueError("its features are not finite")
    places = np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))
    labels, thumbnails = table.get("labels"), table.get("thumbnails")
    if thumbnails is not None and (thumbnails.dtype != np.uint8 or thumbnails.ndim != 4 or thumbnails.shape[3] != 3):
        raise ValueError("its thumbnails are no pictures")
    splits = sorted(set(map(str, table["split"]))) if "split" in table else []
    texts = table["words"] if "words" in table else [""] * count
    names = [" · ".join(filter(None, map(str, pair))) for pair in zip(texts, table["names"], strict=True)]
    return Embeddings(
        features[places],
        [clean(names[index]) for index in places],
        " and ".join(splits),
        None if labels is None else labels[places].astype(np.int64),
        [str(name) for name in table.get("classes", ())],
        None if thumbnails is None else thumbnails[places],
    )


def flattened(value: Any, place: str = "") -> dict[str, Any]:
    """A nested JSON value as ``{"stages.0.lr": 0.001, ...}``; an empty list or object stands for itself."""
    if isinstance(value, Mapping) and value:
        entries = value.items()
    elif isinstance(value, list) and any(isinstance(entry, Mapping | list) for entry in value):
        entries = enumerate(value)  # type: ignore[assignment]
    else:
        return {place: value}
    flat: dict[str, Any] = {}
    for name, entry in entries:
        flat |= flattened(entry, f"{place}.{name}" if place else str(name))
    return flat
