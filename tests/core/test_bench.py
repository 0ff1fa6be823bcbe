"""Studies: the plan, the tables, and that a killed study ends as one that never was."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import install, unlabel
from hypothesis import given
from hypothesis import strategies as st

from unlabel import UsageError
from unlabel.bench import study as studies
from unlabel.bench import tables
from unlabel.bench.runner import Folder, State
from unlabel.bench.tables import interval
from unlabel.catalog.plugins import Catalog

STUDY = """
name: pings
tasks:
  - toy/echo
  - {value: toy/echo, label: nearly all, set: {task.ratio: 0.9}}
  - {value: toy/echo, label: broken, set: {task.fail_at: 5}}
recipe: tiny
seeds: [3, 5]
"""


@pytest.fixture(scope="module", autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The toy plugin is installed, and nothing else; for the processes of cells too."""
    site = tmp_path_factory.mktemp("site")
    install(site, "toy", "toysonar.plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(__file__).parent)]))
        patch.setenv("UNLABEL_PLUGINS", "toy")
        yield


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the study in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def cells(text: str) -> list[studies.Cell]:
    """The cells of a study in this folder."""
    Path("some.yaml").write_text(text)
    return studies.cells(studies.load(Path("some.yaml")), Catalog.installed(), Path.cwd())


# the plan


def test_cells_are_every_combination_and_each_is_the_recipe_it_says() -> None:
    found = cells(
        "tasks: [toy/echo, {value: toy/echo, label: absolute, set: {task.mode: absolute}}]\n"
        "variants: [{set: {stages.0.lr: 0.5}}, {label: slow, set: {stages.0.lr: 0.1}}]\n"
        "seeds: 2\nset: {encoder.dim: 6}\nsteps: 7\n"
    )
    assert len({cell.name for cell in found}) == len(found) == 8
    assert [cell.seed for cell in found] == [0] * 4 + [1] * 4
    assert [cell.labels for cell in found[:4]] == [
        ("toy/echo", "", "", "stages.0.lr=0.5"),
        ("toy/echo", "", "", "slow"),
        ("absolute", "", "", "stages.0.lr=0.5"),
        ("absolute", "", "", "slow"),
    ]
    last = found[-1].recipe
    assert (last.task.options["mode"], last.stages[0].lr, last.stages[0].steps) == ("absolute", 0.1, 7)
    assert (last.encoder.options["dim"], last.seed) == (6, 1)


def test_a_changed_recipe_is_another_cell_and_the_same_one_is_the_same() -> None:
    names = [cells(f"tasks: toy/echo\nsteps: {steps}\nseeds: 1\n")[0].name for steps in (5, 5, 6)]
    assert names[0] == names[1] != names[2]


def test_data_are_looked_for_beside_the_study(here: Path) -> None:
    import numpy as np

    (here / "sub" / "pings").mkdir(parents=True)
    for number in range(8):
        np.save(here / "sub" / "pings" / f"fast{number}.npy", np.zeros(16, np.float32))
    study = studies.Study(tasks="toy/echo", data=["pings"], seeds=1)
    (cell,) = studies.cells(study, Catalog.installed(), here / "sub")
    assert cell.recipe.dataset.options["path"] == str(here / "sub" / "pings")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: toy/echo", "task: no such field; did you mean tasks"),
        ("tasks: []", "tasks: Value should have at least 1 item"),
        ("tasks: [toy/ecko]", "toy/ecko"),
        ("tasks: [{label: a}]", "an entry of `tasks` has no `value`"),
        ("tasks: [{value: toy/echo, sett: {}}]", "tasks.0.sett: no such field; did you mean set?"),
        ("tasks: [toy/echo, toy/echo]", "2 cells are called 'toy/echo': give their entries a `label`"),
        ("tasks: toy/echo\nseeds: [1, 1]", "seeds: seeds must be different"),
        ("tasks: toy/echo\nseeds: 0", "seeds"),
        ("tasks: toy/echo\nset: {task.ratioo: 1}", "task.ratioo"),
        ("tasks: [toy/echo, {value: toy/echo, label: b}]\nbaseline: c", "baseline 'c' is no label here"),
        ("- a", "expected fields such as tasks, data, seeds; got list"),
        ("tasks: [", "is not YAML of plain values"),
        ("tasks: !!python/object/apply:os.system [echo]", "is not YAML of plain values"),
        ("tasks: toy/echo\ndata: nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(here: Path, text: str, words: str) -> None:
    (here / "wrong.yaml").write_text(text)
    answer = unlabel("bench", "wrong.yaml")
    assert answer.code == 2
    assert "wrong" in answer.err
    assert words in answer.err
    assert "Traceback" not in answer.err
    assert not (here / "studies").exists()


def test_a_study_that_is_not_there_is_answered_with_the_nearest(here: Path) -> None:
    answer = unlabel("bench", "studi.yaml")
    assert answer.code == 2
    assert "studi.yaml cannot be read: No such file or directory; did you mean study.yaml?" in answer.err


# the numbers


def test_intervals_are_students() -> None:
    found = interval([0.7, 0.75, 0.8])  # t(0.975, 2) = 4.302653, s = 0.05
    assert found.mean == pytest.approx(0.75)
    assert found.half == pytest.approx(4.302653 * 0.05 / math.sqrt(3), rel=1e-6)
    assert str(found) == "0.750 ± 0.124 (3)"
    assert str(interval([0.5])) == "0.500 (1)"
    assert not interval([0.5]).excludes_zero


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.floats(-5, 5))
def test_an_interval_moves_with_its_values(values: list[float], shift: float) -> None:
    one, other = interval(values), interval([value + shift for value in values])
    assert other.mean == pytest.approx(one.mean + shift, abs=1e-9)
    assert other.half == pytest.approx(one.half, abs=1e-9)


def finished(accuracy: float, before: float) -> State:
    """Results of a cell."""
    return State(
        "finished",
        {
            "after": {"knn": {"accuracy": accuracy, "k": 20}},
            "before": {"knn": {"accuracy": before, "k": 20}},
            "seconds": 9.5,
        },
    )


def made() -> tuple[studies.Study, list[studies.Cell], dict[str, State]]:
    """Two tasks, two seeds: the seeds differ by much, the tasks within a seed by exactly 0.1 and 0.12."""
    text = "tasks: [toy/echo, {value: toy/echo, label: other, set: {task.ratio: 0.9}}]\nseeds: 2\n"
    found = cells(text)
    numbers = [finished(0.5, 0.2), finished(0.6, 0.2), finished(0.8, 0.1), finished(0.92, 0.3)]
    return studies.load(Path("some.yaml")), found, dict(zip([cell.name for cell in found], numbers, strict=True))


def test_differences_are_taken_within_a_seed() -> None:
    study, found, states = made()
    by_title = {table.title: table for table in tables.tables(study, found, states)}
    assert by_title["Trained"].columns == ["", "knn accuracy"]  # k is a setting: the same everywhere
    assert by_title["Trained"].rows[0] == ["toy/echo", str(interval([0.5, 0.8]))]
    assert by_title["Gain over random init"].rows[1][1] == "+0.510 ± 1.398 (2)"
    # of unpaired values nothing could be seen
    assert by_title["Difference from toy/echo, paired by seed"].rows == [["other", "+0.110 ± 0.127 (2)"]]


def test_a_difference_whose_interval_excludes_zero_is_bold() -> None:
    study, found, states = made()
    states[found[3].name] = finished(0.901, 0.3)
    by_title = {table.title: table for table in tables.tables(study, found, states)}
    assert by_title["Difference from toy/echo, paired by seed"].rows == [["other", "**+0.100 ± 0.006 (2)**"]]


def test_what_is_missing_is_left_out_of_means_counted_and_listed() -> None:
    study, found, states = made()
    states[found[0].name] = State("failed", code=1, words="out of <memory> | disk")
    states[found[2].name] = State("open")
    by_title = {table.title: table for table in tables.tables(study, found, states)}
    assert by_title["Trained"].rows == [["other", str(interval([0.6, 0.92]))]]
    assert "Difference from toy/echo, paired by seed" not in by_title
    assert by_title["Failed"].rows == [["toy/echo · seed 0", "1", "out of <memory> | disk"]]
    assert by_title["Not finished"].rows == [["toy/echo · seed 1", "open"]]
    page = tables.as_html(study, list(by_title.values()))
    assert "out of &lt;memory&gt; | disk" in page
    assert "out of <memory> \\| disk" in tables.as_markdown(study, list(by_title.values()))


def test_an_unknown_baseline_is_answered_with_the_labels() -> None:
    study, found, states = made()
    study.baseline = "othr"
    with pytest.raises(UsageError, match="did you mean other"):
        tables.tables(study, found, states)


# running


def command(*words: object) -> list[str]:
    """A study in a process of its own."""
    return [sys.executable, "-m", "unlabel", "bench", "study.yaml", *map(str, words)]


@pytest.mark.slow
def test_a_study_killed_twice_ends_with_the_table_of_one_that_never_was(here: Path) -> None:
    whole = subprocess.run(command("--out", "whole", "--jobs", 2), capture_output=True, text=True, check=False)
    assert whole.returncode == 1  # two cells fail, and the others do not mind
    assert "2 of 6 cells failed; --retry runs them again" in whole.stderr
    assert "| broken · seed 3 | 1 | KeyError: 'no echo'" in whole.stdout

    for lines in (1, 2):  # killed as soon as so many cells have ended
        killed = subprocess.Popen(command("--out", "killed"), stdout=subprocess.PIPE, text=True)
        assert killed.stdout is not None
        for _ in range(lines):
            killed.stdout.readline()
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        killed.stdout.close()
    done = {path.parent.name: path.stat().st_mtime_ns for path in here.glob("killed/cells/*/evaluations.json")}
    assert 0 < len(done) < 4
    wait_for_cells(here / "killed")
    again = subprocess.run(command("--out", "killed", "--jobs", 2), capture_output=True, text=True, check=False)
    assert again.returncode == 1
    for name, changed in done.items():  # no finished cell was repeated
        assert (here / "killed" / "cells" / name / "evaluations.json").stat().st_mtime_ns == changed
    for name in ("results.md", "results.html"):
        assert (here / "killed" / name).read_text() == (here / "whole" / name).read_text()
    records = [json.loads(line) for line in (here / "killed" / "results.jsonl").read_text().splitlines()]
    assert [record["state"] for record in records] == ["finished", "finished", "failed"] * 2


def wait_for_cells(folder: Path) -> None:
    """Until the cells of a killed study have stopped too; the system tells them."""
    from unlabel.storage import lock

    for run in folder.glob("cells/*"):
        while lock.holder(run):
            os.sched_yield()


def test_a_run_that_was_not_one_yet_and_a_damaged_result_are_done_again(here: Path) -> None:
    study = studies.load(Path("study.yaml"))
    cell = studies.cells(study, Catalog.installed(), here)[0]
    folder = Folder(here / "out")
    assert folder.state(cell).what == "open"
    folder.prepare([cell])
    folder.run(cell).mkdir()
    assert folder.state(cell).what == "open"
    assert folder.command(cell)[3] == "train"
    (folder.run(cell) / "recipe.json").write_text(cell.recipe.to_json())
    (folder.run(cell) / "evaluations.json").write_text('{"after": {')
    assert folder.state(cell).what == "begun"
    assert folder.command(cell)[3:] == ["resume", str(folder.run(cell))]


def test_lines_for_a_cluster_name_the_cells_that_are_left(here: Path) -> None:
    answer = unlabel("bench", "study.yaml", "--launch", "slurm")
    assert answer.code == 0
    assert "#SBATCH --array=0,1,2,3,4,5\n" in answer.out
    assert f'unlabel bench {here}/study.yaml --out {here}/studies/pings --cell "$SLURM_ARRAY_TASK_ID"' in answer.out
    lines = unlabel("bench", "study.yaml", "--launch", "torchrun").out.splitlines()
    assert len(lines) == 7
    recipe = lines[1].split("--recipe ")[1].split()[0]
    assert lines[1].startswith("torchrun --standalone --nproc-per-node auto -m unlabel train toy/echo --recipe ")
    assert json.loads(Path(recipe).read_text())["seed"] == 3
    assert "expected slurm or torchrun; did you mean slurm?" in unlabel("bench", "study.yaml", "--launch", "slrm").err
    assert "the study has cells 0 to 5" in unlabel("bench", "study.yaml", "--cell", "6").err
    assert "there is no folder" in unlabel("bench", "study.yaml", "--collect", "--out", "nowhere").err
