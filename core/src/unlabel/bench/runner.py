"""Runs the cells of a study, each in a process of its own, so that none can take the others down.

What is done is read off the disk, never remembered: a cell is finished when its run has its ``evaluations.json``, begun
when it has its recipe (and is resumed then, to the same bit), and failed when the runner has written down why. So a
study may be killed at any time, and nothing that was finished is repeated.

    OUT/cells/NAME/          the run of a cell
    OUT/recipes/NAME.json    what it runs
    OUT/logs/NAME.log        what it printed
    OUT/failed/NAME.json     exit code and last words of one that failed
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from unlabel.bench.study import Cell
from unlabel.errors import RunError, UsageError
from unlabel.storage import files, lock

__all__ = ["Folder", "State", "duration", "one", "run"]

_STOPPED = (130, 143, -signal.SIGINT, -signal.SIGTERM, -signal.SIGKILL)
"""How a process ends that was stopped from outside: it did not fail, and goes on next time."""


@dataclass(frozen=True)
class State:
    """Where a cell stands.

    Attributes:
        what: ``finished``, ``failed``, ``begun`` or ``open``.
        results: its evaluations.json, if finished.
        code, words: exit code and last words, if failed.
    """

    what: str
    results: dict[str, Any] = field(default_factory=dict)
    code: int = 0
    words: str = ""


@dataclass(frozen=True)
class Folder:
    """The folder of a study."""

    path: Path

    def run(self, cell: Cell) -> Path:
        """Folder of a cell's run."""
        return self.path / "cells" / cell.name

    def recipe(self, cell: Cell) -> Path:
        """File of a cell's recipe."""
        return self.path / "recipes" / f"{cell.name}.json"

    def log(self, cell: Cell) -> Path:
        """File of what a cell printed."""
        return self.path / "logs" / f"{cell.name}.log"

    def failure(self, cell: Cell) -> Path:
        """File that says why a cell failed."""
        return self.path / "failed" / f"{cell.name}.json"

    def state(self, cell: Cell) -> State:
        """Where a cell stands, as the disk says."""
        with contextlib.suppress(OSError, ValueError):  # not there; damaged, so measured again
            results = json.loads((self.run(cell) / "evaluations.json").read_text(encoding="utf-8"))
            if isinstance(results, dict):
                return State("finished", results)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            failed = json.loads(self.failure(cell).read_text(encoding="utf-8"))
            return State("failed", code=int(failed["code"]), words=str(failed["words"]))
        return State("begun" if (self.run(cell) / "recipe.json").is_file() else "open")

    def prepare(self, cells: list[Cell]) -> None:
        """Make the folders and write the recipes.

        Raises:
            UsageError: the folder cannot be written.
        """
        try:
            for name in ("cells", "recipes", "logs", "failed"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            for cell in cells:
                files.write_whole(self.recipe(cell), cell.recipe.to_json())
        except OSError as error:
            raise UsageError(f"--out {self.path} cannot be written: {error.strerror or error}") from error

    def command(self, cell: Cell) -> list[str]:
        """What to start for a cell: the rest of its run, or all of it."""
        folder = self.run(cell)
        if (folder / "recipe.json").is_file():
            return [sys.executable, "-m", "unlabel", "resume", str(folder)]
        recipe = ["--recipe", str(self.recipe(cell)), "--out", str(folder)]
        return [sys.executable, "-m", "unlabel", "train", cell.recipe.task.name, *recipe]


def run(
    folder: Folder,
    cells: list[Cell],
    *,
    jobs: int = 1,
    threads: int | None = None,
    retry: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Run what is not finished, `jobs` cells at a time; a cell that fails is written down, and the rest goes on.

    Args:
        folder: of the study; must not be in use by another process.
        cells: of the study.
        jobs: processes at a time.
        threads: of each; default: the cores shared out.
        retry: also those that failed.
        say: gets one line for each cell that ends.

    Raises:
        UsageError: the folder cannot be written, or another process runs this study.
        RunError: stopped by a signal; the cells saved where they were, and its exit code is that of the signal.
    """
    folder.prepare(cells)
    with lock.held(folder.path), _Signals() as signals:
        todo = [cell for cell in cells if folder.state(cell).what in ("open", "begun", *(["failed"] if retry else []))]
        _Pool(folder, todo, len(cells), jobs, threads or max(1, (os.cpu_count() or 1) // jobs), say).run(signals)
        left = sum(folder.state(cell).what in ("open", "begun") for cell in cells)
        if signals.received is not None:
            stopped = RunError(f"stopped; {len(cells) - left} of {len(cells)} cells are done, the others saved")
            stopped.exit_code = 128 + signals.received
            raise stopped


def one(folder: Folder, cell: Cell, threads: int | None = None) -> int:
    """Run one cell in the foreground, as a task of a job array does; returns its exit code (0 if it was finished)."""
    folder.prepare([cell])
    if folder.state(cell).what == "finished":
        return 0
    with _Signals() as signals:
        pool = _Pool(folder, [cell], 1, 1, threads or os.cpu_count() or 1, print)
        pool.run(signals)
    state = folder.state(cell)
    return 128 + signals.received if signals.received else {"finished": 0, "failed": state.code or 1}.get(state.what, 1)


class _Signals:
    """Remembers Ctrl-C and SIGTERM, so that cells can be told and waited for."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number


class _Pool:
    """The processes of the cells that are running."""

    def __init__(
        self, folder: Folder, todo: list[Cell], count: int, jobs: int, threads: int, say: Callable[[str], None]
    ) -> None:
        self.folder, self.todo, self.jobs, self.say = folder, todo, jobs, say
        self.done, self.count = count - len(todo), count
        self.begun = time.perf_counter()
        self.ended_here = 0
        self.running: dict[str, tuple[Cell, subprocess.Popen[bytes], float]] = {}
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}

    def run(self, signals: _Signals) -> None:
        """Until all have ended, or a signal came and those that were running have saved."""
        waiting = iter(self.todo)
        stopping = False
        while True:
            while signals.received is None and len(self.running) < self.jobs and (cell := next(waiting, None)):
                self._start(cell)
            if not self.running:
                return
            if signals.received is not None and not stopping:
                stopping = True
                self.say("stopping; the cells that are running are being saved")
                for _, process, _ in self.running.values():
                    process.send_signal(signal.SIGTERM)  # a second Ctrl-C has reached them already, and stops at once
            for cell, process, since in list(self.running.values()):
                if process.poll() is not None:
                    del self.running[cell.name]
                    self._ended(cell, process.returncode, time.perf_counter() - since, stopping=stopping)
            time.sleep(0.1)

    def _start(self, cell: Cell) -> None:
        run = self.folder.run(cell)
        if run.is_dir() and not (run / "recipe.json").is_file():
            shutil.rmtree(run)  # killed before it was a run: nothing is in it
        damaged = run / "evaluations.json"
        damaged.unlink(missing_ok=True)  # this cell is not finished, so what is there could not be read
        self.folder.failure(cell).unlink(missing_ok=True)
        with self.folder.log(cell).open("ab") as log:
            process = subprocess.Popen(
                self.folder.command(cell),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment,
                preexec_fn=_ends_with(os.getpid()) if sys.platform == "linux" else None,  # no threads here
            )
        self.running[cell.name] = (cell, process, time.perf_counter())

    def _ended(self, cell: Cell, code: int, seconds: float, stopping: bool) -> None:
        if code and (stopping or code in _STOPPED):
            self.say(f"stopped   {cell.title}")
            return
        self.done, self.ended_here = self.done + 1, self.ended_here + 1
        if code or self.folder.state(cell).what != "finished":
            words = _last_words(self.folder.log(cell)) or "said nothing"
            files.write_whole(self.folder.failure(cell), json.dumps({"code": code, "words": words}, indent=2) + "\n")
            self.say(f"[{self.done}/{self.count}] failed    {cell.title}: {words}  ({self.folder.log(cell)})")
            return
        rate = (time.perf_counter() - self.begun) / self.ended_here
        left = duration(rate * (self.count - self.done))
        self.say(f"[{self.done}/{self.count}] finished  {cell.title}  in {duration(seconds)}; about {left} left")


def _ends_with(parent: int) -> Callable[[], None]:
    """For a new process: to be told to stop when its parent is gone, however that ended."""
    library = ctypes.CDLL(None, use_errno=True)

    def ask() -> None:
        library.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it is gone already
            os.kill(os.getpid(), signal.SIGKILL)

    return ask


def _last_words(log: Path) -> str:
    """The last line that says ``error``, or else the last line at all."""
    lines = list(_lines(log))
    errors = [line for line in lines if line.startswith("error:")]
    return (errors or lines or [""])[-1].removeprefix("error:").strip()[:400]


def _lines(log: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-200:]:
            if line.strip():
                yield line.strip()


def duration(seconds: float) -> str:
    """``8 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
