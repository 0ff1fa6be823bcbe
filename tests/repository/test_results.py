"""Published figures: every table is what its script makes of what it measured, and stands where it is published."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
TABLES = sorted(path.stem for path in RESULTS.glob("*.json"))
PAGES = {  # scripts that keep the runs behind their rows, and how they make a page of them
    "graph_paretognn": lambda script, content: script.page(content["cells"], content["steps"]),
    "vision_croco": lambda script, content: script.page(content["cells"]),
    "vision_first": lambda script, content: script.page(content["cells"]),
    "vision_masked": lambda script, content: script.page(content["cells"]),
    "vision_segmentation": lambda script, content: script.page(content["cells"]),
}


@pytest.fixture(scope="module")
def scripts() -> Iterator[pytest.MonkeyPatch]:
    """Scripts under ``benchmarks/`` can be imported."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield patch
    for name in {"machine", "readme", *PAGES} & (sys.modules.keys() - before):
        del sys.modules[name]


@pytest.fixture
def readme(scripts: pytest.MonkeyPatch) -> ModuleType:
    """The script that writes all pages."""
    return importlib.import_module("readme")


def content_of(name: str) -> dict[str, Any]:
    """What is kept of a table."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_every_table_and_the_readme_are_what_the_figures_make_of_them() -> None:
    script = ROOT / "benchmarks/readme.py"
    answer = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_a_figure_changed_by_hand_is_found(readme: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a table, in the README, or on a page that nothing was measured for."""
    for name in ("loading.json", "loading.md"):
        (tmp_path / name).write_text((RESULTS / name).read_text(encoding="utf-8"), encoding="utf-8")
    main = tmp_path / "README.md"
    main.write_text(f"before {readme.START} old {readme.END} after", encoding="utf-8")
    monkeypatch.setattr(readme.machine, "RESULTS", tmp_path)
    monkeypatch.setattr(readme, "README", main)
    monkeypatch.setattr(readme, "HERE", tmp_path / "benchmarks")

    def run(*words: str) -> object:
        monkeypatch.setattr(sys, "argv", ["readme.py", *words])
        try:
            readme.main()
        except SystemExit as stopped:
            return stopped.code
        return 0

    assert run() == 0
    assert run("--check") == 0
    assert readme.machine.rendered(content_of("loading")).partition("\n")[2] in main.read_text(encoding="utf-8")
    for path in (tmp_path / "loading.md", main):
        good = path.read_text(encoding="utf-8")
        path.write_text(good.replace("0.9", "1.9", 1), encoding="utf-8")
        assert run("--check") == f"not as their figures are: {path.name}; run python benchmarks/readme.py"
        assert run() == 0
        assert path.read_text(encoding="utf-8") == good, "and is mended"
    (tmp_path / "typed.md").write_text("# By hand\n", encoding="utf-8")
    assert "typed.md" in str(run("--check"))


@pytest.mark.parametrize("name", TABLES)
def test_the_command_beside_a_table_is_one_that_can_be_typed(name: str) -> None:
    command = content_of(name)["command"]
    assert (RESULTS / f"{name}.md").read_text(encoding="utf-8").split("\n")[2].startswith(f"`{command}` on ")
    python, script, *words = shlex.split(command)
    assert python == "python"
    source = (ROOT / script).read_text(encoding="utf-8")
    for word in words:
        assert not word.startswith("--") or f'"{word}"' in source, f"{script} has no {word}"
    assert name.startswith(Path(script).stem), "the script has the table's name"


@pytest.mark.parametrize("name", PAGES)
def test_rows_and_notes_are_those_of_the_runs_behind_them(name: str, scripts: pytest.MonkeyPatch) -> None:
    content = content_of(name)
    if "cells" not in content:
        pytest.skip(f"{name} was written before its runs were kept beside it")
    made = PAGES[name](importlib.import_module(name), content)
    assert made == {field: content[field] for field in ("title", "rows", "notes")}


def test_results_of_older_scripts_get_title_and_notes_from_their_page(readme: ModuleType) -> None:
    for name in TABLES:
        content = content_of(name)
        old = {field: value for field, value in content.items() if field not in ("title", "notes")}
        found = readme.adopted(old, readme.machine.rendered(content))
        assert readme.machine.rendered(found) == readme.machine.rendered(content)


def test_the_command_of_a_table_is_the_script_and_what_is_not_at_its_default(readme: ModuleType) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--preset", choices=["cpu"])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--cells", type=int, default=9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/somewhere/else/vision.py"])
        told = [
            readme.machine.command(parser, parser.parse_args(words), "cells")
            for words in ([], ["--seeds", "3", "--preset", "cpu", "--quick", "--only", "a", "b", "--cells", "1"])
        ]
    assert told == ["python benchmarks/vision.py", "python benchmarks/vision.py --seeds 3 --preset cpu --quick"]


def test_the_site_shows_every_table_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "generate"))
    generator = importlib.import_module("pages")
    try:
        overview, *pages = generator._results()
    finally:
        for name in ("pages", "components", "reference", "docstrings"):
            sys.modules.pop(name, None)
    assert [Path(path).stem for path, _, _ in pages] == TABLES
    for path, title, text in pages:
        table = (RESULTS / f"{Path(path).stem}.md").read_text(encoding="utf-8")
        heading, _, body = table.partition("\n")
        assert heading == f"# {title}"
        assert text.endswith(body)
        assert f"]({path})" in overview[2]
