"""The script that compares the weights of two checkouts finds what differs, and says where."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "same_weights.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    yield importlib.import_module("same_weights")
    del sys.modules["same_weights"]


def test_weights_are_compared_to_the_bit(script: ModuleType, tmp_path: Path) -> None:
    weights = {"encoder.a": torch.tensor([1.0, float("nan")]), "head.b": torch.zeros(2), "count": torch.tensor(3)}

    def file(name: str, **changes: torch.Tensor) -> Path:
        save_file({**weights, **changes}, tmp_path / name)
        return tmp_path / name

    before = file("before")
    assert script.unlike(before, file("same")) == ""
    assert script.unlike(script.parts(before), file("same")) == ""
    for changes, words, part in (
        ({"encoder.a": torch.tensor([1.5, float("nan")])}, "encoder.a by 0.5 (largest 1)", "encoder"),
        ({"head.b": -torch.zeros(2)}, "head.b by 0 (largest 0)", "head"),
        ({"count": torch.tensor(4)}, "count by 1 (largest 3)", "count"),
        ({"count": torch.tensor(3.0)}, "count: torch.int64 (), then torch.float32 ()", "count"),
        ({"head.c": torch.zeros(1)}, "head.c is in one of them only", "head"),
    ):
        after = file("after", **changes)
        assert script.unlike(before, after) == words
        assert script.unlike(script.parts(before), after) == f"{part} (1 of 3 parts)"


def test_what_is_missing_or_fails_is_a_difference_and_what_is_new_is_not(script: ModuleType, tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "a")
    before = {("gone", 0): tmp_path / "a", ("fails", 0): "error: nan", ("breaks", 0): tmp_path / "a"}
    after = {("new", 0): tmp_path / "a", ("fails", 0): "error: nan", ("breaks", 0): "error: inf"}
    assert list(script.compared(before, after)) == [
        ("breaks", 0, "not trained: error: inf", True),
        ("fails", 0, "fails alike: error: nan", False),
        ("gone", 0, "no longer there", True),
        ("new", 0, "new", False),
    ]


def test_a_setting_of_all_stages_is_one_a_stage(script: ModuleType) -> None:
    assert script.spelt_out(["stages.*.lr=1", "seed=2"], 2) == ["stages.0.lr=1", "stages.1.lr=1", "seed=2"]


@pytest.mark.slow
def test_a_checkout_is_like_itself_and_unlike_one_with_another_number_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNLABEL_PLUGINS", "graph")
    for name in ("core", "plugins/graph"):
        shutil.copytree(ROOT / name / "src", tmp_path / "other" / name / "src")
    changed = tmp_path / "other/plugins/graph/src/unlabel_graph/agreement.py"
    changed.write_text(changed.read_text(encoding="utf-8").replace("hidden.mean(dim=0)", "hidden.sum(dim=0)"))

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        fixed = ["--tasks", "graph/dgi", "--seeds", "3", "--runs", str(tmp_path / "runs")]
        command = [sys.executable, str(SCRIPT), *map(str, words), *fixed]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    answer = run(ROOT, ROOT, "--record", tmp_path / "record.json")
    assert (answer.returncode, answer.stdout.split()[:3]) == (0, ["graph/dgi", "3", "equal"]), answer.stderr
    assert [cell["task"] for cell in json.loads((tmp_path / "record.json").read_text())["cells"]] == ["graph/dgi"]

    answer = run(ROOT, tmp_path / "other")
    assert answer.returncode == 1
    assert "0 of 1 runs end with the same weights" in answer.stdout
    assert "before" not in answer.stderr, "what is there is not trained again"
    answer = run(tmp_path / "record.json", tmp_path / "other")
    assert (answer.returncode, "critic, encoder (2 of 2 parts)" in answer.stdout) == (1, True)
