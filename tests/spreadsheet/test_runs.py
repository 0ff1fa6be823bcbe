"""``unlabel spreadsheet``: what a table of several runs says, and what bad input gets."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import install, unlabel

from unlabel_spreadsheet import runs, table


@pytest.fixture(scope="module", autouse=True)
def _plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The toy plugin beside this one."""
    site = tmp_path_factory.mktemp("site")
    install(site, "toy", "toysonar.plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("UNLABEL_PLUGINS", "toy,spreadsheet")
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs: evaluated, not evaluated, and interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    words = ["train", "toy/echo", "--recipe", "tiny", "--out"]
    assert unlabel(*words, folder / "first").code == 0
    assert unlabel(*words, folder / "second", "--set", "task.ratio=0.25", "--seed", 7, "--no-evaluate").code == 0
    assert unlabel(*words, folder / "third", "--observe", "toy/stop").code == 143
    return folder


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_one_row_a_run_with_what_differs_and_what_came_out() -> None:
    answer = unlabel("spreadsheet", "first", "second", "third", "--out", "table.csv")

    first, second, third = table.read(Path("table.csv"))
    assert answer == (0, f"table.csv: 3 runs, {len(first)} columns\n", "")
    assert list(first)[:6] == ["run", "task", "task.ratio", "seed", "updates", "finished"]
    assert [row["run"] for row in (first, second, third)] == ["first", "second", "third"]
    assert (first["task"], first["task.ratio"], second["task.ratio"]) == ("toy/echo", "", "0.25")
    assert [row["seed"] for row in (first, second, third)] == ["0", "7", "0"]
    assert [row["updates"] for row in (first, second, third)] == ["12", "12", "6"]
    assert [row["finished"] for row in (first, second, third)] == ["yes", "yes", "no"]
    last = [json.loads(line) for line in Path("first/metrics.jsonl").read_text().splitlines()][-2]
    assert float(first["final.loss"]) == last["loss"]
    results = json.loads(Path("first/evaluations.json").read_text())
    assert float(first["before.knn.accuracy"]) == results["before"]["knn"]["accuracy"]
    assert float(first["after.linear_probe.C"]) == results["after"]["linear_probe"]["C"]
    assert float(first["seconds"]) == results["seconds"]
    assert second["after.knn.accuracy"] == third["after.knn.accuracy"] == third["health"] == ""
    assert first["health"].startswith(results["health"][0][0] + ": ")


def test_without_a_file_the_table_goes_to_standard_output_and_nothing_else_does() -> None:
    answer = unlabel("spreadsheet", "first", "first", "second")

    assert (answer.code, answer.err) == (0, "")
    assert [row["run"] for row in csv.DictReader(io.StringIO(answer.out))] == ["first", "second"]


def test_all_fields_are_named_as_set_takes_them() -> None:
    [row] = csv.DictReader(io.StringIO(unlabel("spreadsheet", "first", "--all-fields").out))
    assert (row["stages.0.lr"], row["stages.0.optimizer.name"], row["encoder.dim"]) == ("0.01", "adamw", "4")
    [row] = csv.DictReader(io.StringIO(unlabel("spreadsheet", "first").out))
    assert not [name for name in row if name.startswith(("stages", "encoder"))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("frist --out table.csv", "error: frist is not a run: it does not exist; did you mean first"),
        ("first . --out table.csv", "error: . is not a run: it has no recipe.json"),
        ("first --out table.xlsx", "error: --out table.xlsx: expected a file ending in .csv"),
        ("first --out no/table.csv", "error: --out no/table.csv: there is no folder no"),
        ("", "error: Missing argument 'RUN'"),
        ("first --ot table.csv", "error: No such option: --ot"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(words: str, message: str) -> None:
    answer = unlabel("spreadsheet", *words.split())

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(message)
    assert answer.err.count("\n") == 1
    assert not Path("table.csv").exists()


def test_a_file_that_cannot_be_written_leaves_the_old_one(here: Path) -> None:
    Path("table.csv").mkdir()
    answer = unlabel("spreadsheet", "first", "--out", "table.csv")
    assert answer == (1, "", "error: --out table.csv cannot be written: Is a directory\n")
    assert not [name for name in os.listdir() if "writing" in name]


def test_a_damaged_file_of_a_run_is_named_and_what_to_do_about_it() -> None:
    Path("first/evaluations.json").write_text("{")
    answer = unlabel("spreadsheet", "second", "first")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("error: first/evaluations.json is damaged (")
    assert answer.err.endswith("; delete it, and `unlabel resume first` measures again\n")

    Path("first/evaluations.json").unlink()
    assert unlabel("resume", "first").code == 0
    assert json.loads(Path("first/evaluations.json").read_text())["after"]

    Path("second/metrics.jsonl").unlink()
    [row] = csv.DictReader(io.StringIO(unlabel("spreadsheet", "second").out))
    assert (row["updates"], row["finished"]) == ("0", "yes")


def test_text_that_a_spreadsheet_would_execute_is_text() -> None:
    assert [table.cell(value) for value in ("=1+1", "-x", "@a", "+b", "a=b", -1, None)] == [
        "'=1+1", "'-x", "'@a", "'+b", "a=b", -1, None
    ]  # fmt: skip


def test_fields_differ_where_one_lacks_them_too() -> None:
    recipes = [
        runs.flat({"a": 1, "b": {"c": [1, 2], "d": [{"e": 1}]}}),
        runs.flat({"a": 1, "b": {"c": [1, 2]}, "f": None}),
    ]
    assert recipes[0] == {"a": 1, "b.c": "1 2", "b.d.0.e": 1}
    assert runs.differing(recipes) == ["b.d.0.e", "f"]


def test_the_help_names_the_command_without_importing_what_it_needs() -> None:
    assert "spreadsheet" in unlabel("--help").out
    answer = unlabel("spreadsheet", "--help")
    assert answer.code == 0
    assert "--all-fields" in answer.out
    assert "spreadsheet" in unlabel("spredsheet").err
