"""``unlabel bench``: plan, run or hand over the cells of a study, and write its tables.

OUT/results.md, results.html    the tables
OUT/results.jsonl               a line a cell, with times
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from unlabel.bench import cost, launch, runner, study, tables
from unlabel.bench.runner import Folder, State, duration
from unlabel.errors import UsageError
from unlabel.storage import files

if TYPE_CHECKING:
    from unlabel.bench.study import Cell, Study
    from unlabel.catalog.plugins import Catalog

__all__ = ["bench", "collected", "planned"]


def bench(
    file: Path,
    catalog: Catalog,
    *,
    out: Path | None = None,
    jobs: int | None = None,
    dry_run: bool = False,
    retry: bool = False,
    collect: bool = False,
    only: int | None = None,
    launcher: str | None = None,
) -> int:
    """What the command does; see `unlabel.cli.bench`.

    Returns:
        0 if every cell is finished (or nothing was to be run), 1 if some failed or are left.

    Raises:
        UsageError: the study, or what is asked of it, cannot be.
        RunError: stopped by a signal; the tables of what is there were written.
    """
    request = study.load(file)
    cells = study.cells(request, catalog, file.absolute().parent)
    folder = Folder(out or Path("studies") / request.name)
    jobs = jobs or request.jobs
    states = {cell.name: folder.state(cell) for cell in cells}
    tables.tables(request, cells, states)  # a baseline that does not exist is found before hours are spent
    if only is not None and only >= len(cells):
        raise UsageError(f"--cell {only}: the study has cells 0 to {len(cells) - 1}")
    if launcher is not None:
        todo = {number: cell for number, cell in enumerate(cells) if states[cell.name].what != "finished"}
        if not todo:
            raise UsageError(f"--launch {launcher}: every cell is finished")
        text = launch.lines(launcher, request, file, folder, todo)
        folder.prepare(cells)
        print(text, end="")
        return 0
    if dry_run:
        planned(request, cells, states, catalog, jobs)
        return 0
    if only is not None:
        return runner.one(folder, cells[only], request.threads)
    if collect and not folder.path.is_dir():
        raise UsageError(f"--collect: there is no folder {folder.path}; give the one the study ran in with --out")
    try:
        if not collect:
            runner.run(folder, cells, jobs=jobs, threads=request.threads, retry=retry, say=_say)
    finally:
        if folder.path.is_dir():
            states = collected(request, folder, cells)
    return _concluded(folder, cells, states)


def _say(line: str) -> None:
    print(line, flush=True)


def planned(request: Study, cells: list[Cell], states: dict[str, State], catalog: Catalog, jobs: int) -> None:
    """Print every cell, where it stands, and what those that are not finished will cost."""
    for number, cell in enumerate(cells):
        _say(f"{number:>4}  {states[cell.name].what:<8}  {cell.title}")
    left = [cell for cell in cells if states[cell.name].what != "finished"]
    _say(f"{len(cells)} cells, {len(left)} to run, {jobs} at a time")
    arms: dict[tuple[str, ...], list[Cell]] = {}
    for cell in left:
        arms.setdefault(cell.labels, []).append(cell)
    threads = request.threads or max(1, (os.cpu_count() or 1) // jobs)
    total, unknown = 0.0, []
    for labels, arm_cells in arms.items():
        title = " · ".join(filter(None, labels)) or arm_cells[0].recipe.task.name
        known = [
            float(states[cell.name].results["seconds"])
            for cell in cells
            if cell.labels == labels and "seconds" in states[cell.name].results
        ]
        seconds = sum(known) / len(known) if known else cost.seconds(arm_cells[0], catalog, threads)
        if seconds is None:
            unknown.append(title)
            continue
        source = "as those that are finished" if known else "from its first updates"
        _say(f"cost  {title}: {len(arm_cells)} x {duration(seconds)} ({source})")
        total += seconds * len(arm_cells)
    if arms:
        _say(f"cost  about {duration(total / jobs)} of training on this machine, starts and evaluations not counted")
    if unknown:
        _say(f"cost  not known (no update within two minutes, or a failure): {', '.join(unknown)}")


def collected(request: Study, folder: Folder, cells: list[Cell]) -> dict[str, State]:
    """Write the tables of what is there; returns where each cell stands."""
    states = {cell.name: folder.state(cell) for cell in cells}
    result = tables.tables(request, cells, states)
    files.write_whole(folder.path / "results.jsonl", tables.as_jsonl(cells, states))
    files.write_whole(folder.path / "results.md", tables.as_markdown(request, result))
    files.write_whole(folder.path / "results.html", tables.as_html(request, result))
    return states


def _concluded(folder: Folder, cells: list[Cell], states: dict[str, State]) -> int:
    count = {what: sum(state.what == what for state in states.values()) for what in ("finished", "failed")}
    left = len(cells) - count["finished"] - count["failed"]
    print((folder.path / "results.md").read_text(encoding="utf-8"))
    print(f"tables  {folder.path / 'results.md'}, {folder.path / 'results.html'}, {folder.path / 'results.jsonl'}")
    if count["failed"]:
        print(f"{count['failed']} of {len(cells)} cells failed; --retry runs them again", file=sys.stderr)
    if left:
        print(f"{left} of {len(cells)} cells are not finished; the same command goes on with them", file=sys.stderr)
    return int(count["failed"] + left > 0)
