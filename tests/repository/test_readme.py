"""What the README says is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from unlabel import Catalog

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_each_of_the_two_commands_is_one_line_that_sets_itself_up() -> None:
    lines = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert len(lines) == 2
    assert "unlabel train vision/mae --recipe quick" in lines[0]
    assert "pytest" in lines[1]


def test_ci_runs_the_test_command() -> None:
    assert "<!-- test command -->" in README
    assert "test command" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_every_method_in_the_table_is_installed_and_every_task_is_in_the_table() -> None:
    named = set(re.findall(r"`unlabel train ([\w/]+)`", README))
    assert named == set(Catalog.installed().names("tasks"))


def test_links_to_files_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_versions_agree() -> None:
    files = [ROOT / "core/src/unlabel/__init__.py", *ROOT.glob("plugins/*/src/*/__init__.py")]
    versions = {re.search(r'__version__ = "(.*)"', path.read_text(encoding="utf-8")).group(1) for path in files}  # type: ignore[union-attr]
    assert len(versions) == 1
