"""metrics.csv: the same rows as metrics.jsonl, however the run came to its end."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import install, unlabel
from distributions import HOOKS, write

from unlabel import Progress, Stage
from unlabel_spreadsheet import table
from unlabel_spreadsheet.metrics import CSV

KILL = """
import os, signal
from unlabel import Observer

class Kill(Observer):
    def log(self, progress, metrics):
        if progress.total_step == 6 and "loss" in metrics:
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The toy plugin is installed beside this one, and one whose observer kills the process at update 6."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, "toy", "toysonar.plugin")
    offers = HOOKS + "@hookimpl\ndef observers():\n    return {'kill': 'kill_plugin.kill:Kill'}\n"
    write(folder, "kill", offers, modules={"kill": KILL})
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("UNLABEL_PLUGINS", "toy,spreadsheet,kill")
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("kill_plugin")]:
        del sys.modules[name]


def rows(run: str) -> list[dict[str, str]]:
    return table.read(Path(run) / "metrics.csv")


def without_speed(found: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in found]


def agrees_with_jsonl(run: str) -> bool:
    """Cell by cell, and what a row does not have is empty."""
    records = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    return [{name: float(text) for name, text in row.items() if text} for row in rows(run)] == records


def train(out: str, *words: object) -> None:
    answer = unlabel("train", "toy/echo", "--recipe", "tiny", "--out", out, "--no-evaluate", *words)
    assert answer.code in (0, 128 + signal.SIGTERM), answer.err


def test_a_run_has_the_rows_and_columns_of_its_metrics(tmp_path: Path) -> None:
    train("run", "--observe", "csv")

    assert agrees_with_jsonl("run")
    with open("run/metrics.csv", encoding="utf-8-sig") as file:
        header = next(csv.reader(file))
    assert header[:5] == ["stage", "step", "epoch", "total_step", "loss"]
    assert "knn" in header  # logged first by the online check at update 6, when rows without it were there already
    assert not list(Path("run").glob(".*"))


def test_an_interrupted_and_resumed_run_ends_with_the_same_file() -> None:
    train("whole", "--observe", "csv")
    train("cut", "--observe", "csv,toy/stop")
    assert [row["total_step"] for row in rows("cut")][-1] == "6"

    assert unlabel("resume", "cut", "--observe", "csv", "--no-evaluate").code == 0

    assert agrees_with_jsonl("cut")
    assert without_speed(rows("cut")) == without_speed(rows("whole"))


@pytest.mark.slow
def test_a_killed_and_resumed_run_ends_with_the_same_file(site: Path) -> None:
    """Killed at update 6, after its row was written and two after the checkpoint; and the row is torn."""
    train("whole", "--observe", "csv")
    command = ["train", "toy/echo", "--recipe", "tiny", "--out", "cut", "--observe", "csv,kill", "--no-evaluate"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path]), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-m", "unlabel", *command], env=environment, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [row["total_step"] for row in rows("cut")][-1] == "6"
    with open("cut/metrics.csv", "a") as file:
        file.write('0,7,"')

    assert unlabel("resume", "cut", "--observe", "csv", "--no-evaluate").code == 0

    assert agrees_with_jsonl("cut")
    assert without_speed(rows("cut")) == without_speed(rows("whole"))


def test_asked_for_on_resume_only_it_has_the_beginning_too() -> None:
    train("run", "--observe", "toy/stop")
    assert unlabel("resume", "run", "--observe", "csv", "--no-evaluate").code == 0
    assert agrees_with_jsonl("run")

    before = Path("run/metrics.csv").read_bytes()
    assert unlabel("resume", "run", "--observe", "csv", "--no-evaluate").code == 0  # nothing left to do
    assert Path("run/metrics.csv").read_bytes() == before


def test_columns_grow_and_no_row_is_lost(tmp_path: Path) -> None:
    observer = CSV(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    observer.stage(0, Stage(steps=2, lr=1), 0)
    observer.log(Progress(0, 1, 2, 0, 1), {"loss": 1 / 3})
    assert len(table.read(observer.path)) == 1  # flushed
    observer.log(Progress(0, 2, 2, 0, 2), {"loss": float("nan"), "länge, in m": 1e-30})
    observer.stage(1, Stage(steps=1, lr=1), 0)
    observer.log(Progress(1, 1, 1, 0, 3), {"other": 3})
    observer.close()

    place = {"stage": "0", "step": "1", "epoch": "0", "total_step": "1"}
    assert table.read(observer.path) == [
        {**place, "loss": "0.3333333", "länge, in m": "", "other": ""},
        {**place, "step": "2", "total_step": "2", "loss": "nan", "länge, in m": "1e-30", "other": ""},
        {**place, "stage": "1", "total_step": "3", "loss": "", "länge, in m": "", "other": "3.0"},
    ]


def test_a_full_disk_ends_the_table_and_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = CSV.log

    def full(self: CSV, progress: Progress, metrics: dict[str, float]) -> None:
        if progress.total_step == 5:
            raise OSError(28, "No space left on device")
        written(self, progress, metrics)

    monkeypatch.setattr(CSV, "log", full)
    answer = unlabel("train", "toy/echo", "--recipe", "tiny", "--out", "run", "--observe", "csv", "--no-evaluate")

    assert answer.code == 0
    assert answer.err.count("warning: observer csv failed in log(): OSError: [Errno 28] No space left on device") == 1
    assert "the run goes on without it" in answer.err
    assert [row["total_step"] for row in rows("run")] == ["1", "2", "3", "4"]
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == 14
