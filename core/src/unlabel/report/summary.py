"""What a report says in numbers: evaluations and their spread, the claim, how runs and their settings differ."""

from __future__ import annotations

import inspect
import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from unlabel import compose, joining
from unlabel.recipe import Recipe
from unlabel.report.reading import RunFiles, flattened
from unlabel.terminal import lacking_lines

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog

__all__ = [
    "Claim", "Comparison", "Measure", "Row", "Spread", "claims", "commands", "comparison", "differences", "environment",
    "health", "measures", "number", "spreads",
]  # fmt: skip

_ABSENT = "—"
_NOTHING = {"null": "none", "[]": "none", "{}": "none", "true": "yes", "false": "no"}


@dataclass(frozen=True)
class Measure:
    """One measured number: of the raw inputs, of the encoder as it was built, and of the trained one; None: unknown."""

    evaluation: str
    name: str
    raw: float | None
    before: float | None
    after: float | None

    @property
    def gain(self) -> float | None:
        """After training minus before."""
        return None if self.before is None or self.after is None else self.after - self.before

    @property
    def share(self) -> bool:
        """Whether it can be drawn between 0 and 1, and training changed it or could have."""
        known = [value for value in (self.raw, self.before, self.after) if value is not None]
        return bool(known) and all(0 <= value <= 1 for value in known) and bool(self.gain)


def measures(run: RunFiles) -> list[Measure]:
    """Everything that was evaluated, in the order of the evaluations; what is no number is left out."""
    parts = {when: _numbers(run.evaluations.get(when)) for when in ("raw", "before", "after")}
    places = dict.fromkeys([*parts["after"], *parts["before"]])  # raw inputs have no measures of their own
    return [Measure(*place, *(parts[when].get(place) for when in ("raw", "before", "after"))) for place in places]


def _numbers(part: Any) -> dict[tuple[str, str], float]:
    if not isinstance(part, Mapping):
        return {}
    return {
        (str(evaluation), str(name)): float(value)
        for evaluation, numbers in part.items()
        if isinstance(numbers, Mapping)
        for name, value in numbers.items()
        if type(value) in (int, float) and math.isfinite(value)
    }


def lacking(run: RunFiles) -> list[str]:
    """Which evaluations could not be made, and what they lack, a line each."""
    entries = run.evaluations.get("lacking")
    known = {str(name): str(reason) for name, reason in entries.items()} if isinstance(entries, Mapping) else {}
    return lacking_lines(known)


def health(run: RunFiles) -> list[tuple[str, str]]:
    """The verdict: ``ok``, ``warn`` or ``bad``, and a sentence, each."""
    entries = run.evaluations.get("health")
    pairs = [entry for entry in entries if isinstance(entry, list) and len(entry) == 2] if entries else []
    return [(level if level in ("ok", "warn", "bad") else "warn", str(text)) for level, text in pairs]


@dataclass(frozen=True)
class Row:
    """A line of a table of several runs: a name, a cell each, and which cells differ from the first one's."""

    name: str
    cells: list[str]
    differs: list[bool]

    @property
    def alone(self) -> bool:
        """Whether only one of several runs has it."""
        return len(self.cells) - self.cells.count(_ABSENT) < min(2, len(self.cells))


def differences(runs: Sequence[RunFiles], every: bool = False) -> list[Row]:
    """Settings that are not the same in all runs (or `every` one), by their place in the recipe."""
    return _rows([flattened(run.recipe) for run in runs], every)


def environment(runs: Sequence[RunFiles]) -> list[Row]:
    """Versions, machine and time of every run; the command stands elsewhere."""
    tables = [{k: v for k, v in run.environment.items() if k != "command"} for run in runs]
    return _rows([flattened(value) for value in tables], every=True)


def _rows(tables: Sequence[Mapping[str, Any]], every: bool) -> list[Row]:
    rows = []
    for name in dict.fromkeys(name for table in tables for name in table if name):
        cells = [json.dumps(table[name], ensure_ascii=False) if name in table else _ABSENT for table in tables]
        differs = [cell != cells[0] for cell in cells]
        if every or any(differs):
            rows.append(Row(name, [_NOTHING.get(cell, cell.strip('"')) for cell in cells], differs))
    return rows


@dataclass(frozen=True)
class Comparison:
    """A number in every run, and how far each is from the first run's; None where a run does not have it."""

    name: str
    values: list[float | None]
    gaps: list[float | None]

    @property
    def alone(self) -> bool:
        """Whether only one of the runs has it."""
        return len(self.values) - self.values.count(None) < 2


def comparison(runs: Sequence[RunFiles]) -> list[Comparison]:
    """Evaluations that training changed, the last logged numbers, and the cost, side by side."""
    tables = [_headlines(run) for run in runs]
    rows = []
    for name in dict.fromkeys(name for table in tables for name in table):
        values = [table.get(name) for table in tables]
        first = values[0]
        gaps = [None if value is None or first is None else value - first for value in values]
        rows.append(Comparison(name, values, [None, *gaps[1:]]))
    return rows


def _headlines(run: RunFiles) -> dict[str, float]:
    table: dict[str, float] = {}
    for measure in measures(run):
        if measure.after is not None and measure.gain != 0:  # what training did not change is a setting or a reference
            table[f"{measure.evaluation} {measure.name}, trained"] = measure.after
        if measure.gain:
            table[f"{measure.evaluation} {measure.name}, change"] = measure.gain
    last: dict[str, float] = {}
    for line in run.lines:
        last |= {name: value for name, value in line.items() if math.isfinite(value)}
    table |= {f"last {name}": last[name] for name in ("loss", "knn", "rankme", "feature_std") if name in last}
    table |= {"updates": float(run.last)}
    for name, label in (("seconds", "seconds of training"), ("samples_per_second", "samples a second")):
        value = run.evaluations.get(name)
        if isinstance(value, int | float) and math.isfinite(value):
            table[label] = float(value)
    return table


@dataclass(frozen=True)
class Spread:
    """A measure over runs of one recipe that differ in their seed: mean and standard deviation; None for one run."""

    evaluation: str
    name: str
    before: tuple[float, float] | None
    after: tuple[float, float]
    gain: tuple[float, float] | None
    worst: float | None


def spreads(runs: Sequence[RunFiles]) -> list[tuple[list[RunFiles], list[Spread]]]:
    """Groups of at least two runs that differ in nothing but seed and machine, with the spread of every measure."""
    groups: dict[str, list[RunFiles]] = {}
    for run in runs:
        settings = {name: value for name, value in run.recipe.items() if name not in ("seed", "execution")}
        groups.setdefault(json.dumps(settings, sort_keys=True), []).append(run)
    result = []
    for members in groups.values():
        if len(members) < 2 or not members[0].recipe:
            continue
        values: dict[tuple[str, str], list[Measure]] = {}
        for run in members:
            for measure in measures(run):
                values.setdefault((measure.evaluation, measure.name), []).append(measure)
        rows = [_spread(place, entries) for place, entries in values.items() if len(entries) == len(members)]
        # what neither training nor the seed changes is a setting of the evaluation
        moving = [row for row in rows if row is not None and (row.after[1] or row.gain is None or any(row.gain))]
        result.append((members, moving))
    return result


def _spread(place: tuple[str, str], entries: list[Measure]) -> Spread | None:
    after = [entry.after for entry in entries if entry.after is not None]
    before = [entry.before for entry in entries if entry.before is not None]
    gains = [entry.gain for entry in entries if entry.gain is not None]
    if len(after) < 2:
        return None
    return Spread(*place, _mean(before), (fmean(after), stdev(after)), _mean(gains), min(gains, default=None))


def _mean(values: list[float]) -> tuple[float, float] | None:
    return (fmean(values), stdev(values)) if len(values) > 1 else None


@dataclass(frozen=True)
class Claim:
    """What the recipe that a run was started from says of itself.

    Attributes:
        task: whose recipe it is: the run's, or one of several that it trained together.
        recipe: its name.
        text: its documentation: result, cost, command; paragraphs.
        changed: settings of this run that differ from it, as ``place: theirs -> ours``, so that the claim may not hold.
    """

    task: str
    recipe: str
    text: list[str]
    changed: list[tuple[str, str, str]] = field(default_factory=list)


def claims(run: RunFiles, catalog: Catalog) -> list[Claim]:
    """The claim of the recipe a run was started from: the one its command names, else the nearest of its task's.

    Of several tasks together, the claim of each, which is about that task alone. A task that is not installed or has
    no recipes claims nothing.
    """
    try:
        parts = joining.part(Recipe.model_validate(run.recipe))
    except Exception:  # a recipe that is damaged, or older than what is installed
        return []
    of_each = [_claim(name, part, _option(run, "--recipe") or "", catalog) for name, part in parts.items()]
    return [claim for claim in of_each if claim is not None]


def _claim(task: str, recipe: Recipe, requested: str, catalog: Catalog) -> Claim | None:
    """The claim of the recipe `requested`, if the task has one of that name, or of the one most like `recipe`."""

    try:
        functions = compose.named(catalog.find("tasks", task).module())
        tables = {name: flattened(make().model_dump(mode="json")) for name, make in functions.items()}
    except Exception:  # whatever a plugin raises that cannot be used here
        return None
    if not tables:
        return None
    ours = flattened(recipe.model_dump(mode="json"))
    changes = {name: _changes(table, ours) for name, table in tables.items()}
    name = requested if requested in changes else min(changes, key=lambda name: len(changes[name]))
    document = inspect.getdoc(functions[name]) or ""
    text = [" ".join(part.split()).replace("``", "`") for part in document.split("\n\n") if part.strip()]
    return Claim(task, name, text, changes[name])


def _changes(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Settings that differ; those that a recipe leaves to the defaults, and where and how it ran, are no change."""
    changes = []
    for place, value in theirs.items():
        other = ours.get(place)
        if other != value and not place.startswith("execution.") and place != "seed":
            changes.append((place, json.dumps(value), json.dumps(other) if place in ours else _ABSENT))
    owners = ("task", "tasks", "encoder", "encoders", "dataset")
    added = [place for place in ours.keys() - theirs.keys() if place.partition(".")[0] in owners]
    return changes + [(place, "default", json.dumps(ours[place])) for place in sorted(added)]


def _option(run: RunFiles, name: str) -> str | None:
    command = _typed(run)
    return command[command.index(name) + 1] if name in command[:-1] else None


def _typed(run: RunFiles) -> list[str]:
    command = run.environment.get("command")
    return [str(word) for word in command] if isinstance(command, list) else []


def commands(run: RunFiles) -> dict[str, str]:
    """How to do it again: what was typed, if it was ours; the same from the run's recipe; how it goes on."""
    command, lines = _typed(run), {}
    if command and Path(command[0]).name in ("unlabel", "unlabel.exe", "__main__.py"):
        lines["What was typed"] = shlex.join(["unlabel", *command[1:]])
    elif command:
        lines["Started by the program"] = shlex.join(command)
    if run.recipe:
        out = shlex.quote(f"{run.name}-again")
        recipe = shlex.quote(str(run.folder / "recipe.json"))
        lines["The same run from its recipe"] = f"unlabel train {shlex.quote(run.task)} --recipe {recipe} --out {out}"
    revision = run.environment.get("git")
    if revision:
        lines["In a checkout at"] = f"git checkout {shlex.quote(str(revision))}"
    return lines


def number(value: float | None) -> str:
    """A number as people read it: four digits, thousands apart; a dash for none."""
    if value is None or not math.isfinite(value):
        return _ABSENT if value is None else str(value)
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return _ABSENT if value is None else ("±0" if value == 0 else f"{value:+.4g}")


def spread(pair: Iterable[float] | None) -> str:
    """Mean and standard deviation."""
    if pair is None:
        return _ABSENT
    mean, deviation = pair
    return f"{mean:.4g} ± {deviation:.2g}"
