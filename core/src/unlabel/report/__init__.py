"""The report of one run or several: one HTML file that needs nothing else, no network either.

`reading` reads the folders, `summary`, `curves` and `nearness` turn them into numbers, `albums` makes files that a page
can hold of what tasks showed, and the template beside them lays these out; its script draws the curves and the map.
Text of users and of data sets (paths, names of classes, settings, samples) only ever gets into the page escaped, and
the page's own policy lets no other script run and nothing be fetched.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unlabel import __version__
from unlabel.errors import RunError, UsageError
from unlabel.report import albums, curves, encoding, nearness, reading, summary
from unlabel.report.reading import RunFiles
from unlabel.storage.files import write_whole

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog

__all__ = ["default_path", "missing", "page", "write"]

_MARK = '<meta name="generator" content="unlabel report">'
_THUMBNAILS = 500_000  # bytes
_QUERIES = 6
_LISTED = 100


def missing() -> str:
    """Why no report can be written here; empty if one can."""
    return "" if importlib.util.find_spec("jinja2") else "a report needs `pip install 'unlabel[report]'`"


def default_path(folders: Sequence[Path]) -> Path:
    """Where the report goes if nothing is said: into the run, or, of several runs, here."""
    return folders[0] / "report.html" if len(folders) == 1 else Path("report.html")


def write(folders: Sequence[Path], out: Path | None, catalog: Catalog) -> Path:
    """Write the report of one run, or of several side by side.

    Args:
        folders: of the runs; the first is what the others are compared with.
        out: the file; default: `default_path`. A report that is already there is replaced, anything else is not.
        catalog: knows what the tasks' recipes claim.

    Returns:
        Where it is.

    Raises:
        UsageError: a folder is no run, a library is missing, or `out` is something else or cannot be there.
        RunError: it cannot be written.
    """
    if reason := missing():
        raise UsageError(reason)
    distinct = {folder.resolve(): folder for folder in folders}.values()
    runs = [reading.read(folder) for folder in distinct]
    path = out or default_path(list(distinct))
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder; give a file, such as {path / 'report.html'}")
    if not path.parent.is_dir():
        raise UsageError(f"--out {path}: there is no folder {path.parent}")
    if path.exists() and path.stat().st_size and _MARK not in _beginning(path):
        raise UsageError(f"--out {path} is there already and is no report, so it is left alone; give another name")
    text = page(runs, catalog)
    try:
        write_whole(path, text)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(4000).decode("utf-8", errors="replace")


def page(runs: Sequence[RunFiles], catalog: Catalog) -> str:
    """The HTML text of a report; the same runs give the same text.

    Args:
        runs: as read; named apart here if several have the same name.
        catalog: knows what the tasks' recipes claim.
    """
    _rename_duplicates(runs)
    style, script, template = _layout()
    drawn = curves.curves(runs)
    maps = [_map(run, _THUMBNAILS // len(runs)) for run in runs]
    data = {
        "runs": [{"name": run.name, "last": run.last, "stages": _starts(run)} for run in runs],
        "curves": drawn,
        "maps": [None if entry is None else entry["data"] for entry in maps],
    }
    text: str = template.render(
        mark=_MARK,
        style=style,
        script=script,
        policy=_policy(style, script),
        version=__version__,
        title=_title(runs),
        runs=runs,
        data=data,
        curves=drawn,
        maps=maps,
        measures=[summary.measures(run) for run in runs],
        lacking=[summary.lacking(run) for run in runs],
        health=[summary.health(run) for run in runs],
        claims=_claims(runs, catalog),
        commands=[summary.commands(run) for run in runs],
        spreads=summary.spreads(runs),
        comparison=summary.comparison(runs) if len(runs) > 1 else [],
        differences=summary.differences(runs),
        settings=summary.differences(runs, every=True),
        environment=summary.environment(runs),
        albums=albums.albums(runs),
        listed=_LISTED,
    )
    return text


@functools.cache
def _layout() -> tuple[str, str, Any]:
    """Style, script and compiled template of the page: compiling takes longer than filling in."""
    from jinja2 import Environment, StrictUndefined

    package = resources.files("unlabel.report")
    style, script, template = ((package / name).read_text("utf-8") for name in ("style.css", "script.js", "page.html"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": summary.number, "signed": summary.signed, "spread": summary.spread}
    return style, script, environment.from_string(template)


def _claims(runs: Sequence[RunFiles], catalog: Catalog) -> list[tuple[summary.Claim, list[RunFiles]]]:
    """What recipes claim, each once, with the runs that were started from them."""
    groups: list[tuple[summary.Claim, list[RunFiles]]] = []
    for run in runs:
        for claim in summary.claims(run, catalog):
            same = next((members for other, members in groups if other == claim and members[0].task == run.task), None)
            if same is None:
                groups.append((claim, [run]))
            else:
                same.append(run)
    return groups


def _rename_duplicates(runs: Sequence[RunFiles]) -> None:
    """Runs of one name get their folder in front, and a number if that does not help."""
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.folder)
    names = [run.name for run in runs]
    for place, run in enumerate(runs):
        if names.count(run.name) > 1:
            run.name = f"{run.name} ({place + 1})"


def _title(runs: Sequence[RunFiles]) -> str:
    tasks = list(dict.fromkeys(run.task for run in runs))
    return f"{tasks[0]}: {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs: {', '.join(tasks)}"


def _policy(style: str, script: str) -> str:
    """What the page may do: show its own pictures, play its own sounds, run its own script; nothing else, anywhere."""
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    allowed = f"style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'"
    return f"default-src 'none'; img-src data:; media-src data:; {allowed}; base-uri 'none'; form-action 'none'"


def _starts(run: RunFiles) -> list[dict[str, Any]]:
    """Where each stage begins, in updates of the whole run, as far as it was logged."""
    starts: dict[int, int] = {}
    for line in run.lines:
        stage = int(line["stage"])
        starts.setdefault(stage, max(0, int(line["total_step"] - line["step"])))
    return [{"name": albums.stage_name(run, stage), "begin": begin} for stage, begin in starts.items()]


def _map(run: RunFiles, budget: int) -> dict[str, Any] | None:
    """The map of a run's features, and the neighbours of a few samples: for the script, and as a table."""
    if run.embeddings is None or len(run.embeddings.features) < 3:
        return None
    known = run.embeddings
    places, method = nearness.mapped(known.features)
    near = nearness.neighbours(known.features)
    labels = known.labels if known.labels is not None and (known.labels >= 0).any() else None
    classes = [] if labels is None else _classes(known.classes, int(labels.max()))
    agreeing = None
    if labels is not None:
        pairs = (labels[:, None] == labels[near]) & (labels[:, None] >= 0) & (labels[near] >= 0)
        judged = np.broadcast_to(labels[:, None] >= 0, near.shape) & (labels[near] >= 0)
        agreeing = float(pairs.sum() / judged.sum()) if judged.any() else None
    thumbnails = known.thumbnails
    sheet = None
    if thumbnails is not None:
        whole = encoding.png(thumbnails.reshape(-1, *thumbnails.shape[2:]))
        if len(whole) <= budget:
            sheet = encoding.text(whole)
    data = {
        "x": [round(float(value), 4) for value in places[:, 0]],
        "y": [round(float(value), 4) for value in places[:, 1]],
        "names": known.names,
        "labels": None if labels is None else labels.tolist(),
        "classes": classes,
        "near": near.tolist(),
        "side": None if thumbnails is None else thumbnails.shape[1],
    }

    def shown(place: int) -> dict[str, Any]:
        label = "" if labels is None or labels[place] < 0 else classes[labels[place]]
        return {
            "name": known.names[place],
            "label": label,
            "text": None if thumbnails is None else encoding.text(encoding.png(thumbnails[place])),
        }

    queries = _queries(labels, len(known.names))
    return {
        "data": data,
        "sheet": sheet,
        "method": method,
        "count": len(known.names),
        "dim": known.features.shape[1],
        "split": known.split,
        "classes": classes,
        "agreeing": agreeing,
        "neighbours": [
            {"query": shown(place), "near": [shown(int(other)) for other in near[place]]} for place in queries
        ],
    }


def _classes(names: list[str], highest: int) -> list[str]:
    return names + [str(number) for number in range(len(names), highest + 1)]


def _queries(labels: np.ndarray | None, count: int) -> list[int]:
    """A few samples of different classes, or spread evenly."""
    if labels is None:
        candidates = list(range(count))
    else:
        candidates = [int(np.flatnonzero(labels == label)[0]) for label in np.unique(labels[labels >= 0])]
    places = np.linspace(0, len(candidates) - 1, min(_QUERIES, len(candidates)))
    return [candidates[int(place)] for place in places]
