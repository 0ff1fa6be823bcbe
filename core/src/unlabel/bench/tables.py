"""What came out of a study: means with 95 % intervals, gains over random init, paired differences from a baseline.

An interval is Student's: mean ± t(0.975, n - 1) s / sqrt(n) over n seeds. Differences are taken within a seed, between
cells that differ in one axis only, and only then averaged; what seeds share cancels. They are not corrected for how
many there are: of twenty differences that are none, one is expected to look like one.
"""

from __future__ import annotations

import html
import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from unlabel.bench.runner import State
from unlabel.bench.study import AXES, Cell, Study
from unlabel.errors import UsageError, nearest

__all__ = ["Interval", "Table", "as_html", "as_jsonl", "as_markdown", "interval", "tables"]


@dataclass(frozen=True)
class Interval:
    """Mean and half-width of its 95 % interval over `count` values; the width is NaN for a single one."""

    mean: float
    half: float
    count: int

    def __str__(self) -> str:
        width = "" if math.isnan(self.half) else f" ± {self.half:.3f}"
        return f"{self.mean:.3f}{width} ({self.count})"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside; never for a single value."""
        return abs(self.mean) > self.half  # False where the width is NaN


def interval(values: Sequence[float]) -> Interval:
    """Student's interval of the mean of `values` (one or more)."""
    if len(values) < 2:
        return Interval(values[0], math.nan, len(values))
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(statistics.fmean(values), half, len(values))


@dataclass
class Table:
    """A heading, column names, rows of text, and what there is to say about them."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: str = ""


def tables(study: Study, cells: list[Cell], states: dict[str, State]) -> list[Table]:
    """All tables of a study, out of what is finished.

    Args:
        study: what was asked for.
        cells: of the study.
        states: name of a cell -> where it stands.

    Raises:
        UsageError: the baseline is no label of this study.
    """
    axis, base = _baseline(study, cells)
    results = {
        (cell.labels, cell.seed): states[cell.name].results for cell in cells if states[cell.name].what == "finished"
    }
    after = {key: _flat(evaluations.get("after", {})) for key, evaluations in results.items()}
    before = {key: _flat(evaluations.get("before", {})) for key, evaluations in results.items()}
    arms = list(dict.fromkeys(cell.labels for cell in cells))
    result = []
    for data in dict.fromkeys(labels[AXES.index("data")] for labels in arms):
        data_arms = [labels for labels in arms if labels[AXES.index("data")] == data]
        where = f", {data}" if data else ""
        measures = _outcomes(data_arms, after, before)
        result.append(
            _table(f"Trained{where}", data_arms, study.seeds, measures, lambda arm, seed, m: after[arm, seed][m])
        )
        result.append(
            _table(
                f"Gain over random init{where}",
                data_arms,
                study.seeds,
                measures,
                lambda arm, seed, m: after[arm, seed][m] - before[arm, seed][m],
                sign=True,
            )
        )
        if axis is not None:
            number = AXES.index(axis)
            of = {arm: (*arm[:number], base, *arm[number + 1 :]) for arm in data_arms if arm[number] != base}
            title = f"Difference from {base}, paired by seed{where}"
            result.append(_table(title, of, study.seeds, measures, _minus(after, of), sign=True))
    result = [table for table in result if table.rows and len(table.columns) > 1]
    result += _unfinished(cells, states)
    return result


def _baseline(study: Study, cells: list[Cell]) -> tuple[str | None, str]:
    """The axis and label of the baseline; without one given, the first of the first axis (but data) with a choice."""
    labels = {axis: list(dict.fromkeys(cell.labels[n] for cell in cells)) for n, axis in enumerate(AXES)}
    labels.pop("data")
    if study.baseline is None:
        return next(((axis, choices[0]) for axis, choices in labels.items() if len(choices) > 1), (None, ""))
    for axis, choices in labels.items():
        if study.baseline in choices:
            return (axis if len(choices) > 1 else None), study.baseline
    known = [label for choices in labels.values() for label in choices if label]
    raise UsageError(
        f"study {study.name}: baseline {study.baseline!r} is no label here{nearest(study.baseline, known)}; "
        f"known are {', '.join(known)}"
    )


Results = dict[tuple[tuple[str, ...], int], dict[str, float]]
Value = Callable[[tuple[str, ...], int, str], float]


def _table(
    title: str,
    arms: Iterable[tuple[str, ...]],
    seeds: Iterable[int],
    measures: list[str],
    value: Value,
    sign: bool = False,
) -> Table:
    """A row an arm, a column a measure; where some seed has no value, the others are used, and counted."""
    table = Table(title, ["", *measures])
    for arm in arms:
        row = []
        for measure in measures:
            values = [number for seed in seeds if (number := _known(value, arm, seed, measure)) is not None]
            row.append(_shown(interval(values), sign) if values else "-")
        if any(entry != "-" for entry in row):
            table.rows.append([" · ".join(filter(None, arm)), *row])
    return table


def _outcomes(arms: list[tuple[str, ...]], after: Results, before: Results) -> list[str]:
    """Names of what was measured; not of what is the same everywhere, before and after: settings, such as a k."""
    measured: dict[str, list[float]] = {}
    for results in (after, before):
        for (arm, _), numbers in results.items():
            for name, value in numbers.items() if arm in arms else ():
                measured.setdefault(name, []).append(value)
    return [name for name, values in measured.items() if len(values) < 2 or len(set(values)) > 1]


def _minus(after: Results, of: dict[tuple[str, ...], tuple[str, ...]]) -> Value:
    """What an arm has more than the one it is compared with."""
    return lambda arm, seed, measure: after[arm, seed][measure] - after[of[arm], seed][measure]


def _known(value: Value, arm: tuple[str, ...], seed: int, measure: str) -> float | None:
    try:
        return value(arm, seed, measure)
    except KeyError:
        return None


def _shown(estimate: Interval, sign: bool) -> str:
    if not sign:
        return str(estimate)
    text = f"{estimate.mean:+.3f}{str(estimate)[len(f'{estimate.mean:.3f}') :]}"
    return f"**{text}**" if estimate.excludes_zero else text


def _unfinished(cells: list[Cell], states: dict[str, State]) -> list[Table]:
    failed = Table("Failed", ["cell", "exit code", "why"])
    failed.rows = [
        [cell.title, str(states[cell.name].code), states[cell.name].words]
        for cell in cells
        if states[cell.name].what == "failed"
    ]
    missing = Table("Not finished", ["cell", "state"])
    missing.rows = [
        [cell.title, states[cell.name].what] for cell in cells if states[cell.name].what in ("begun", "open")
    ]
    return [table for table in (failed, missing) if table.rows]


def _flat(results: dict[str, Any]) -> dict[str, float]:
    """``evaluation measure`` -> number."""
    return {
        f"{name} {measure}": float(value)
        for name, numbers in results.items()
        for measure, value in numbers.items()
        if isinstance(value, int | float)
    }


NOTE = (
    "Mean ± half of Student's 95 % interval over seeds, their number in brackets. In bold: differences whose interval "
    "excludes 0, not corrected for how many are looked at."
)


def as_markdown(study: Study, result: list[Table]) -> str:
    """The tables as a Markdown page. Times are not in it: it is the same however often the study was interrupted."""
    parts = [f"# {study.name}\n"]
    for table in result:
        lines = [table.columns, ["---"] * len(table.columns), *table.rows]
        body = "\n".join("| " + " | ".join(entry.replace("|", "\\|") for entry in line) + " |" for line in lines)
        parts.append(f"## {table.title}\n\n{body}\n")
    return "\n".join([*parts, NOTE + "\n"])


def as_html(study: Study, result: list[Table]) -> str:
    """The same as one page without anything from elsewhere."""
    body = "".join(_section(table) for table in result)
    name = html.escape(study.name)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name}</title><style>{_STYLE}</style></head>
<body><main><h1>{name}</h1>{body}<p>{html.escape(NOTE)}</p></main></body></html>
"""


_STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;margin:0;padding:1rem;color:#1b1f24;background:#fff}
main{max-width:72rem;margin:auto} section{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #c8ccd1;vertical-align:top}
@media (prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a} th,td{border-color:#3d444d}}
"""


def _section(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{_rich(row[0])}</th>{"".join(f"<td>{_rich(entry)}</td>" for entry in row[1:])}</tr>'
        for row in table.rows
    )
    title = html.escape(table.title)
    return f'<section tabindex="0" aria-label="{title}"><h2>{title}</h2><table><tr>{head}</tr>{rows}</table></section>'


def _rich(text: str) -> str:
    bold = len(text) > 4 and text.startswith("**") and text.endswith("**")
    return f"<strong>{html.escape(text[2:-2])}</strong>" if bold else html.escape(text)


def as_jsonl(cells: list[Cell], states: dict[str, State]) -> str:
    """One line a cell: what it is, where it stands, what was measured, how long it took."""
    lines = []
    for cell in cells:
        state = states[cell.name]
        record: dict[str, Any] = {"cell": cell.name, **dict(zip(AXES, cell.labels, strict=True)), "seed": cell.seed}
        record["state"] = state.what
        if state.what == "finished":
            record |= {name: state.results[name] for name in ("before", "after", "seconds") if name in state.results}
        if state.what == "failed":
            record |= {"exit_code": state.code, "why": state.words}
        lines.append(json.dumps(record, ensure_ascii=False))
    return "\n".join(lines) + "\n"
