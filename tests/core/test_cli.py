"""The command line: what bad input gets, what is printed, and that nothing is lost."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import Answer, install, unlabel
from safetensors.torch import load_file

import unlabel as package
from unlabel.catalog.plugins import Catalog
from unlabel.storage import lock


@pytest.fixture(scope="module", autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The toy plugin is installed, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    install(site, "toy", "toysonar.plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("UNLABEL_PLUGINS", "toy")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """One run that went well, and what it said."""
    folder = tmp_path_factory.mktemp("runs") / "well"
    return folder, unlabel("train", "toy/echo", "--recipe", "tiny", "--out", folder)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test in a folder of its own, with a few things lying around."""
    monkeypatch.chdir(tmp_path)
    pings = tmp_path / "pings"
    pings.mkdir()
    for number in range(12):
        np.save(pings / f"{'fast' if number % 2 else 'slow'}{number}.npy", np.full(16, number, np.float32))
    (tmp_path / "void").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("buy milk")
    (tmp_path / "file.csv").write_text("x" * 5000)
    return tmp_path


def train(*words: object, out: str = "new") -> Answer:
    return unlabel("train", "toy/echo", "--recipe", "tiny", "--no-evaluate", "--out", out, *words)


def refused(answer: Answer, reason: str, code: int = 2) -> None:
    """It was refused with this reason, in one line, and without a traceback."""
    assert re.search(reason, answer.err), answer.err
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, answer.err
    assert "bug" not in answer.err
    assert answer.out == ""
    assert answer.code == code


# What goes well


def test_a_run_ends_with_results_and_the_next_commands(finished: tuple[Path, Answer]) -> None:
    folder, answer = finished

    assert answer.code == 0
    assert answer.out == "", "messages go to standard error"
    for expected in ("toy/echo  149 trainable parameters", "48 training samples", "random init", "trained in"):
        assert expected in answer.err
    assert f"unlabel evaluate {folder}" in answer.err
    assert f"unlabel export {folder} --out {folder}/encoder" in answer.err
    assert {path.name for path in folder.iterdir()} == {
        "recipe.json", "environment.json", "metrics.jsonl", "evaluations.json", "checkpoints", "embeddings.npz",
        "report.html",
    }  # fmt: skip
    results = json.loads((folder / "evaluations.json").read_text())
    assert set(results["before"]) == set(results["after"]) == {"knn", "linear_probe"}
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["versions"]["torch"] == importlib.metadata.version("torch")
    assert environment["versions"]["unlabel-toy"] == "0.1"


def test_python_writes_the_same_files_as_the_command_line_and_says_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = train("--steps", 2)
    found = package.train(package.Run("new").recipe, out="quiet", evaluate=False)
    assert capsys.readouterr() == ("", "")
    assert found.folder == Path("quiet")
    typed, called = ({path.relative_to(folder) for path in Path(folder).rglob("*")} for folder in ("new", "quiet"))
    assert called == typed
    assert "toy/echo: quiet" in Path("quiet/report.html").read_text()
    assert "report   new/report.html" in answer.err


def test_a_run_does_not_fail_for_its_report(here: Path) -> None:
    assert train("--steps", 2).code == 0
    Path("new/report.html").write_text("my own notes")
    answer = unlabel("resume", "new", "--no-evaluate")
    assert answer.code == 0
    assert re.search(r"report   not written: UsageError: .*new/report\.html is there already", answer.err)
    assert Path("new/report.html").read_text() == "my own notes"


def test_what_is_printed_can_be_typed(finished: tuple[Path, Answer], here: Path) -> None:
    folder, _ = finished
    odd = here / "my runs [/a]"
    shutil.copytree(folder, odd)

    answer = unlabel("resume", odd)

    assert answer.code == 0
    assert f"unlabel evaluate '{odd}'" in answer.err


def test_resuming_a_complete_run_changes_nothing(finished: tuple[Path, Answer], here: Path) -> None:
    shutil.copytree(finished[0], here / "copy")
    kept = (path for path in sorted((here / "copy").rglob("*")) if path.name != "report.html")  # names its folder
    before = {path: path.read_bytes() for path in kept if path.is_file()}

    answer = unlabel("resume", "copy", "--no-evaluate")

    assert answer.code == 0
    assert "complete after update 12" in answer.err
    assert {path: path.read_bytes() for path in before} == before


def test_options_reach_the_recipe(here: Path) -> None:
    answer = train(
        "--steps",
        3,
        "--batch-size",
        4,
        "--seed",
        5,
        "--set",
        "task.ratio=0.25",
        "--set",
        "stages.0.lr=3e-4",
        "--max-bad",
        0.5,
    )

    assert answer.code == 0
    recipe = json.loads((here / "new" / "recipe.json").read_text())
    stage = recipe["stages"][0]
    assert (stage["steps"], stage["batch_size"], stage["lr"]) == (3, 4, 3e-4)
    assert (recipe["seed"], recipe["max_bad"], recipe["task"]["ratio"]) == (5, 0.5, 0.25)


def test_a_path_to_data_is_kept_absolute_so_that_the_run_resumes_from_anywhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train("--data", "pings", "--steps", 2).code == 0
    monkeypatch.chdir(here / "void")

    assert unlabel("evaluate", here / "new", "knn").code == 0
    assert json.loads((here / "new" / "recipe.json").read_text())["dataset"]["path"] == str(here / "pings")


def test_first_weights_may_be_gone_when_the_run_is_used(
    finished: tuple[Path, Answer], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0], here / "origin")
    answer = train("--steps", 2, "--init", "origin")
    assert "2 of 2 tensors loaded" in answer.err
    shutil.rmtree(here / "origin")

    assert unlabel("evaluate", "new", "knn").code == 0
    assert unlabel("resume", "new", "--no-evaluate").code == 0


def test_json_output_is_json_with_the_documented_fields(finished: tuple[Path, Answer]) -> None:
    listing = json.loads(unlabel("list", "--json").out)
    assert set(listing) == {"tasks", "encoders", "datasets", "evaluations", "optimizers"}
    assert listing["tasks"][0] == {
        "name": "toy/echo",
        "plugin": "toy",
        "summary": "Echo: hear a ping with gaps, say what was there.",
        "arxiv": "3101.00001",
    }
    assert list(json.loads(unlabel("list", "datasets", "--json").out)) == ["datasets"]

    shown = json.loads(unlabel("show", "toy/echo", "--json").out)
    assert {
        "name",
        "plugin",
        "kind",
        "summary",
        "arxiv",
        "document",
        "keywords",
        "encoders",
        "evaluations",
        "loss",
        "expected",
        "outputs",
        "recipes",
        "show",
    } == set(shown)
    assert shown["keywords"][0] == {
        "name": "ratio",
        "type": "float",
        "default": 0.5,
        "required": False,
        "meaning": "share of the wave that is silenced, in (0, 1).",
    }
    assert shown["recipes"]["tiny"]["recipe"]["stages"][0]["steps"] == 12

    [core, toy] = json.loads(unlabel("plugins", "--json").out)
    assert set(core) == set(toy) == {"name", "distribution", "version", "offers", "problems", "notes"}
    assert toy["offers"]["observers"] == ["toy/stop"]

    measured = json.loads(unlabel("evaluate", finished[0], "knn", "--set", "knn.k=3", "--json").out)
    assert measured["knn"]["k"] == 3


def test_an_evaluation_judges_the_data_as_they_are_set(finished: tuple[Path, Answer], here: Path) -> None:
    """Twelve pings or sixty, of the dataset named or of the run's own: it shows in how many neighbours there are."""
    for data in (["--data", "toy/pings"], []):
        few, many = (
            unlabel(
                "evaluate", finished[0], "knn", *data, "--set", f"dataset.count={count}", "--set", "knn.k=40", "--json"
            )
            for count in (12, 60)
        )
        assert json.loads(few.out)["knn"]["k"] == 8, "two of six of each class are held out"
        assert json.loads(many.out)["knn"]["k"] == 40
    recipe = json.loads((finished[0] / "recipe.json").read_text())
    assert "count" not in recipe["dataset"], "the run's own recipe stays"


def test_inspect_says_the_same_of_a_name_and_of_a_path(here: Path) -> None:
    assert json.loads(unlabel("inspect", "toy/pings", "--json").out)["samples"] == 64
    np.save(here / "pings" / "bad.npy", np.zeros(3))

    found = json.loads(unlabel("inspect", "pings", "--json").out)

    assert (found["dataset"], found["samples"]) == ("toy/files", 13)
    assert found["broken"] == [{"path": "pings/bad.npy", "reason": "a ping of 3 numbers, not 16"}]
    assert "broken" not in json.loads(unlabel("inspect", "pings", "--no-verify", "--json").out)


def test_show_prints_paper_keywords_encoders_and_recipes() -> None:
    text = unlabel("show", "toy/echo").out

    for expected in (
        'Nobody, Nowhere, "Echoes", 2031, arXiv 3101.00001.',
        "ratio: float = 0.5\n      share of the wave that is silenced, in (0, 1).",
        "mode: 'square' | 'absolute' = 'square'",
        "fail_at: int | None = None",
        "encoders\n  toy/deep, toy/linear",
        "evaluations\n  knn, linear_probe",
        "recipe tiny  (data: toy/pings)\n  Twelve updates",
    ):
        assert expected in text
    assert "encoders\n  toy/deep\n" in unlabel("show", "toy/strict").out, "only what fits the annotation"


def test_version_and_help_end_well() -> None:
    assert unlabel("--version") == Answer(0, f"unlabel {package.__version__}\n", "")
    assert "train" in unlabel("--help").out
    assert "--batch-size" in unlabel("train", "-h").out
    nothing = unlabel()
    assert nothing.code == 2
    assert "Usage: unlabel [OPTIONS] COMMAND" in nothing.out + nothing.err


# What is refused

WRONG = {
    "--data pingz": "--data pingz: there is no such path, and no dataset of that name; did you mean pings",
    "--data toy/pigns": "did you mean toy/pings",
    "--data void": "void is none of toy/files: the folder is empty; toy/absent of plugin 'toy' cannot be loaded",
    "--data notes": r"notes is none of toy/files: the folder holds .txt \(1\)",
    "--data file.csv": "file.csv is none of toy/files: it is a .csv file of 5 kB",
    "--data toy/files": "toy/files needs dataset.path: give a path instead of this name",
    "--data toy/absent": "toy/absent of plugin 'toy' cannot be loaded from toysonar.absent:Absent: No module named",
    "--encoder toy/lineer": "no encoder is called 'toy/lineer'; did you mean toy/linear",
    "--encoder toy/linear:9": "toy/linear takes no model after a colon",
    "--encoder nowhere:Net": "nowhere:Net: 'nowhere' cannot be imported .*PYTHONPATH",
    "--encoder torch.nn:Lnear": "module 'torch.nn' has no 'Lnear'; did you mean Linear",
    "--recipe tniy": "toy/echo has no recipe 'tniy': expected quick, tiny or a .json/.yaml file; did you mean tiny",
    "--recipe file.csv": r"file.csv: expected a recipe \(task, encoder, dataset, stages\), got str",
    "--recipe notes": "recipe notes cannot be read",
    "--set task.rato=1": "toy/echo has no keyword 'rato'; did you mean ratio",
    "--set task.ratio=1.5": "task.ratio=1.5 is outside",
    "--set task.ratio=loud": "task.ratio: should be a valid number.* not 'loud'",
    "--set stages.0.optimizer=adamm": "optimizer 'adamm' is unknown; did you mean adam",
    "--set 'stages.0.groups=[{patern: x}]'": "stages.0.groups.0.pattern: Field required",
    "--set 'stages.0.groups=[{pattern: dekoder.*}]'": "pattern 'dekoder.*' matches no parameter",
    "--set stages.0.optimizer=sgd --set stages.0.nesterov=true --set stages.0.momentum=0": "stage 'main': Nesterov",
    "--batch-size 49": "batch size 49 is larger than the 48 training samples: use --batch-size 48 or less",
    "--set stages.0.accumulate=3": "batch size 8 does not divide by 1 processes x 3 micro-batches: use --batch-size",
    "--device gpu": "--device 'gpu': expected auto, cpu, cuda or cuda:N",
    "--precision fp8": "execution.precision: should be 'auto', 'fp32', 'bf16' or 'fp16', not 'fp8'",
    "--precision fp16 --device cpu": "--precision fp16 needs a GPU",
    "--shard": "--shard needs several processes: start with `torchrun",
    "--observe carrier": "no observer is called 'carrier'; there are tensorboard, toy/stop, wandb",
    "--steps 0": "Invalid value for '--steps'",
    "--steps many": "Invalid value for '--steps'",
    "--epochs 0": "--epochs: stages.0.epochs: should be greater than 0, not 0",
    "--epochs 1 --steps 2": "give --steps or --epochs, not both",
    "--stepz 3": "No such option: --stepz.*--steps",
    "--init nothing": "--init nothing: there is no such file or run",
    "--init pings": "pings is neither a run nor a safetensors export",
    "--init file.csv": "--init .*file.csv holds more than weights, or is damaged .* it was not run",
    "--init hub:net": "Linear knows no published weights",
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_wrong_options_are_explained_before_anything_is_written(words: str, here: Path) -> None:
    refused(train(*shlex.split(words)), WRONG[words])

    assert not (here / "new").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    refused(train("--device", device), f"--device {device}: no CUDA device is available here; use --device cpu")


def test_wrong_commands_and_names_get_the_nearest() -> None:
    refused(unlabel("trian"), "No such command 'trian'. Did you mean 'train'")
    refused(unlabel("train"), "Missing argument")
    refused(unlabel("train", "toy/ehco"), "no task is called 'toy/ehco'; did you mean toy/echo")
    refused(unlabel("train", "radar/ehco"), "no task is called 'radar/ehco'")
    refused(unlabel("train", "toy/pings"), "'toy/pings' is one of the datasets, not of the tasks")
    refused(unlabel("show", "toy/eco"), "nothing installed is called 'toy/eco'; did you mean toy/echo")
    refused(unlabel("list", "taks"), "'taks' is not one of 'tasks'")
    refused(unlabel("inspect", "pigns"), "there is no path and no dataset called 'pigns'; did you mean pings")
    refused(unlabel("inspect", "void"), "the folder is empty")
    refused(unlabel("prepare", "toy/files"), "give a path instead of this name")
    refused(unlabel("resume", "void"), "void is not a run: it has no recipe.json")
    refused(unlabel("evaluate", "nowhere"), "nowhere is not a run: it does not exist")


def test_an_encoder_that_does_not_fit_is_answered_with_what_does() -> None:
    answer = unlabel("train", "toy/strict", "--recipe", "tiny", "--encoder", "toy/linear", "--out", "new")

    refused(answer, "toy/strict reads the second layer, which Linear lacks; use --encoder toy/deep")


def test_wrong_uses_of_a_run_are_explained(finished: tuple[Path, Answer], here: Path) -> None:
    folder = finished[0]

    refused(unlabel("evaluate", folder, "knm"), "no evaluation is called 'knm'; did you mean knn")
    refused(unlabel("evaluate", folder, "--set", "knn.kk=3"), "knn has no keyword 'kk'; did you mean k")
    refused(unlabel("evaluate", folder, "--set", "knn.k"), "expected FIELD=VALUE")
    refused(
        unlabel("evaluate", folder, "--set", "kmn.k=3"),
        "expected EVALUATION.KEYWORD=VALUE with one of .*; did you mean knn",
    )
    refused(
        unlabel("evaluate", folder, "--set", "datset.count=3"),
        "expected .* or dataset.KEYWORD=VALUE; did you mean dataset",
    )
    refused(
        unlabel("evaluate", folder, "--set", "dataset.cuont=3"), "toy/pings has no keyword 'cuont'; did you mean count"
    )
    refused(unlabel("evaluate", folder, "--set", "dataset.count=many"), "dataset.count")
    pings = unlabel("evaluate", folder, "--data", "pings", "--set", "dataset.pth=x")
    refused(pings, "toy/files has no keyword 'pth'; did you mean path")
    refused(unlabel("evaluate", folder, "--data", "void"), "the folder is empty")
    refused(
        unlabel("embed", folder, "--data", "pings", "--out", "features.csv"),
        "expected a file ending in .npz or .parquet",
    )
    refused(unlabel("embed", folder, "--data", "pings", "--out", "absent/features.npz"), "there is no folder absent")
    refused(unlabel("export", folder, "--out", "notes"), "--out notes already exists")
    refused(
        unlabel("export", folder, "--out", "new", "--format", "onx"),
        "'onx': expected safetensors, onnx, torch-export; did you mean onnx",
    )
    refused(unlabel("export", folder, "--out", "file.csv/new"), "--out file.csv/new cannot be written", code=1)
    assert not (here / "new").exists()


# What must not be lost


def test_a_run_is_never_overwritten_unless_asked(here: Path) -> None:
    assert train("--steps", 2).code == 0
    before = (here / "new" / "metrics.jsonl").read_bytes()

    refused(
        train("--steps", 3),
        "--out new already exists and is never overwritten: .*--overwrite, or continue it with `unlabel resume new`",
    )
    assert (here / "new" / "metrics.jsonl").read_bytes() == before
    assert train("--steps", 3, "--overwrite").code == 0
    assert json.loads((here / "new" / "recipe.json").read_text())["stages"][0]["steps"] == 3


def test_overwriting_asked_for_but_impossible_leaves_the_old_run(here: Path) -> None:
    assert train("--steps", 2).code == 0

    refused(train("--overwrite", "--data", "void"), "the folder is empty")
    refused(train("--overwrite", "--batch-size", 1000), "larger than the 48 training samples")

    assert unlabel("evaluate", "new", "knn").code == 0


def test_a_mistake_that_only_the_first_update_shows_leaves_no_folder(here: Path) -> None:
    answer = train("--set", "stages.0.weights={lost: 2}")

    assert answer.code == 2
    assert answer.err.splitlines()[-1] == "error: weight 'lost' belongs to no loss of this task; did you mean loss?"
    assert not (here / "new").exists()


def test_a_folder_that_is_no_run_is_not_overwritten(here: Path) -> None:
    refused(train("--overwrite", out="notes"), "--overwrite: notes holds no run .* left alone")
    assert (here / "notes" / "todo.txt").read_text() == "buy milk"
    refused(train("--overwrite", out="file.csv"), "--out file.csv is a file")


@pytest.mark.parametrize("place", ["file.csv/x", "/proc/nope"])
def test_a_place_that_cannot_be_written_is_refused(place: str) -> None:
    refused(train(out=place), f"--out {place} cannot be written: ")


def test_a_failure_on_the_way_names_the_checkpoint_and_the_command_that_goes_on(here: Path) -> None:
    answer = train("--set", "task.fail_at=7")

    assert answer.code == 1
    assert "error: KeyError: 'no echo' (this may be a bug; --debug shows where)\n" in answer.err
    assert answer.err.endswith("last checkpoint step-00000004; continue with: unlabel resume new\n")
    assert "Traceback" not in answer.err
    again = unlabel("--debug", "resume", "new")
    assert again.code == 1
    assert "Traceback" in again.err
    assert 'raise KeyError("no echo")' in again.err


def test_a_failure_before_the_first_checkpoint_says_so() -> None:
    answer = train("--set", "task.fail_at=0")

    assert answer.code == 1
    assert answer.err.endswith("no checkpoint yet; continue with: unlabel resume new\n")


def test_a_signal_saves_and_the_resumed_run_is_the_uninterrupted_one(finished: tuple[Path, Answer], here: Path) -> None:
    stopped = train("--observe", "toy/stop")

    assert stopped.code == 143
    assert "error: stopped by SIGTERM after update 6; everything is saved\n" in stopped.err
    assert stopped.err.endswith("last checkpoint step-00000006; continue with: unlabel resume new\n")

    assert "continuing after update 6" in unlabel("resume", "new", "--no-evaluate").err
    assert same(here / "new", finished[0])


def same(one: Path, other: Path) -> bool:
    """Whether two finished runs have the same weights to the last bit."""
    [mine, theirs] = [
        load_file(folder / "checkpoints" / "step-00000012" / "task.safetensors") for folder in (one, other)
    ]
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: what a full disk looks like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_the_last_good_checkpoint(here: Path) -> None:
    """Plain SGD keeps no state, so the first stage's checkpoints fit; those of AdamW, thrice as large, do not."""
    stages = [
        {"name": "small", "steps": 6, "batch_size": 8, "optimizer": "sgd", "momentum": 0, "weight_decay": 0},
        {"name": "large", "steps": 6, "batch_size": 8, "optimizer": "adamw"},
    ]
    words = ("--set", f"stages={json.dumps(stages)}", "--set", "task.weights=10000")
    with file_size_limit(60_000):
        full = train(*words)

    assert full.code == 1
    assert re.search(
        r"error: checkpoint new/checkpoints/step-00000010 could not be written .*; earlier checkpoints are untouched\n",
        full.err,
    )
    assert full.err.endswith("last checkpoint step-00000006; continue with: unlabel resume new\n")
    assert sorted(path.name for path in (here / "new" / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]

    assert unlabel("resume", "new", "--no-evaluate").code == 0
    assert train(*words, out="whole").code == 0
    assert same(here / "new", here / "whole")


@pytest.mark.slow
def test_a_full_disk_at_the_log_is_a_failure_on_the_way_too(here: Path) -> None:
    with file_size_limit(15_000):
        full = train("--steps", 200, "--set", "save_every=20", "--set", "monitor_every=100")

    assert full.code == 1
    assert "Traceback" not in full.err
    assert re.search(r"File too large", full.err)
    assert re.search(r"last checkpoint step-00000\d[02468]0; continue with: unlabel resume new\n$", full.err)
    assert unlabel("resume", "new", "--no-evaluate").code == 0
    steps = [
        json.loads(line)["step"] for line in (here / "new" / "metrics.jsonl").read_text().splitlines() if "loss" in line
    ]
    assert steps == list(range(1, 201)), "no line is missing, none is there twice"


@pytest.mark.parametrize("command", ["embed", "export"])
def test_a_full_disk_leaves_no_half_written_result(command: str, here: Path, finished: tuple[Path, Answer]) -> None:
    shutil.copytree(finished[0], here / "copy")
    words = (
        ("--data", "toy/pings", "--out", "features.npz") if command == "embed" else ("--out", "exported", "--no-check")
    )
    with file_size_limit(200):
        answer = unlabel(command, "copy", *words)

    refused(answer, "cannot be written", code=1)
    assert not list(here.glob("*features*")) + list(here.glob("exported"))


def test_a_checkpoint_of_another_task_is_refused(finished: tuple[Path, Answer], here: Path) -> None:
    strict = here / "strict"
    assert unlabel("train", "toy/strict", "--recipe", "tiny", "--steps", 2, "--no-evaluate", "--out", strict).code == 0
    shutil.rmtree(strict / "checkpoints")
    shutil.copytree(finished[0] / "checkpoints", strict / "checkpoints")

    for command in ("resume", "evaluate"):
        refused_after_start = unlabel(command, strict)
        assert refused_after_start.code == 2
        assert re.search(
            r"error: .*step-00000012 is a checkpoint of task 'toy/echo', not of 'toy/strict'\n", refused_after_start.err
        )


def test_a_damaged_checkpoint_is_passed_over_and_said(finished: tuple[Path, Answer], here: Path) -> None:
    shutil.copytree(finished[0], here / "copy")
    with (here / "copy" / "checkpoints" / "step-00000012" / "task.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")

    answer = unlabel("resume", "copy", "--no-evaluate")

    assert answer.code == 0
    assert re.search(
        "damaged checkpoint skipped: .*task.safetensors is damaged: its content does not match the hash", answer.err
    )
    assert "continuing after update 8" in answer.err
    assert same(here / "copy", finished[0])

    for path in (here / "copy" / "checkpoints").iterdir():
        (path / "position.json").write_text("{")
    refused(unlabel("evaluate", "copy"), "no checkpoint in .* is whole: .*is not a whole checkpoint", code=1)


def test_a_damaged_recipe_is_refused(finished: tuple[Path, Answer], here: Path) -> None:
    shutil.copytree(finished[0], here / "copy")
    (here / "copy" / "recipe.json").write_text('{"task": "toy/echo"')

    refused(unlabel("resume", "copy"), "recipe copy/recipe.json is not JSON")


def test_a_strangers_run_cannot_call_what_its_recipe_names(finished: tuple[Path, Answer], here: Path) -> None:
    shutil.copytree(finished[0], here / "copy")
    path = here / "copy" / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["encoder"] = {"name": "os:system", "command": "touch executed"}
    path.write_text(json.dumps(recipe))

    for command in (
        ("resume",),
        ("evaluate",),
        ("export", "--out", "new"),
        ("embed", "--data", "pings", "--out", "f.npz"),
    ):
        refused(unlabel(command[0], "copy", *command[1:]), "encoder 'os:system' stands in a file")
    assert not (here / "executed").exists()


def test_an_encoder_of_the_user_is_trained_and_found_again(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "mine.py").write_text(
        "from toysonar.echo import Linear\n\ndef net(width: int = 6):\n    return Linear(width)\n"
    )
    monkeypatch.syspath_prepend(str(here))

    assert train("--steps", 2, "--encoder", "mine:net", "--set", "encoder.width=5").code == 0
    refused(unlabel("evaluate", "new", "knn"), "confirm it by giving --encoder mine:net")
    assert unlabel("evaluate", "new", "knn", "--encoder", "mine:net").code == 0
    sys.modules.pop("mine")


def test_the_catalog_of_these_tests_holds_the_toy_only() -> None:
    assert [plugin.name for plugin in Catalog.installed().plugins] == ["core", "toy"]


def test_a_run_that_is_being_written_is_not_written_twice(here: Path, finished: tuple[Path, Answer]) -> None:
    shutil.copytree(finished[0], here / "busy")
    with lock.held(here / "busy"):
        for words in (["resume", "busy"], ["train", "toy/echo", "--recipe", "tiny", "--out", "busy", "--overwrite"]):
            answer = unlabel(*words)
            assert answer.code == 2
            assert f"busy is being written by another process ({os.getpid()})" in answer.err
    assert unlabel("resume", "busy").code == 0
