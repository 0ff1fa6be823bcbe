"""Which checks of the contract are in every run of the tests: chosen without importing anything."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unlabel.catalog.plugins import Offer
from unlabel.testing import tiers
from unlabel.testing.checks import CHECKS
from unlabel.testing.contract import Case, later

SOURCES = {
    "one": "raise RuntimeError('imported')\nclass One(Task): pass\n",
    "two": "class Two(kinds.Task): pass\n",
    "three": "class Three(Masked): pass\n",
    "four": "class Four(Masked): longer = True\n",
    "made": "Made = type('Made', (), {})\n",
    "torn": "class Torn(\n",
    "whole/__init__": "class Whole(Masked): pass\n",
    "whole/part": "",
}


@pytest.fixture
def offers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Offer]]:
    """Tasks of a package, and an encoder twice; the package is a repository in which nothing is changed."""
    package = tmp_path / "tiered"
    for name, source in {"__init__": "", **SOURCES}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / f"{name}.py").write_text(source)
    for words in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "all")):
        named = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *named, *words], check=True)
    monkeypatch.syspath_prepend(tmp_path)
    names = ["one", "two", "three", "four", "made", "torn", "whole"]
    tasks = [Offer("tasks", f"tiered/{name}", f"tiered.{name}:{name.title()}", "tiered") for name in names]
    encoders = [Offer("encoders", f"tiered/e{number}", f"tiered.one:e{number}", "tiered") for number in (1, 2)]
    yield [*tasks, *encoders, Offer("tasks", "tiered/gone", "tiered.gone:Gone", "tiered")]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tiered"]:
        del sys.modules[name]


def test_the_shortest_of_each_base_class_and_what_cannot_be_told_is_in_full(offers: list[Offer]) -> None:
    expected = {f"tiered/{name}" for name in ("two", "three", "made", "torn", "gone")}
    assert tiers.in_full(offers) == expected
    assert "tiered.one" not in sys.modules


@pytest.mark.parametrize(
    ("changed", "name"), [("four.py", "four"), ("whole/part.py", "whole"), ("whole/new.py", "whole")]
)
def test_what_git_sees_as_changed_is_in_full(offers: list[Offer], tmp_path: Path, changed: str, name: str) -> None:
    before = tiers.in_full(offers)
    (tmp_path / "tiered" / changed).write_text("class Four(Masked): longer = 1  # changed\n")
    assert tiers.in_full(offers) - before == {f"tiered/{name}"}


def test_without_git_nothing_is_changed(offers: list[Offer], monkeypatch: pytest.MonkeyPatch) -> None:
    before = tiers.in_full(offers)
    monkeypatch.setenv("PATH", "")
    assert tiers.in_full(offers) == before


def test_only_costly_checks_of_the_others_come_later(offers: list[Offer]) -> None:
    every = [
        Case("tiered", offer.kind, offer.name, check, None, offer)
        for offer in offers
        for check in CHECKS
        if offer.kind in check.kinds
    ]
    expected = {f"tiered/{name}" for name in ("one", "four", "whole", "e1", "e2")}
    assert {name.rpartition("-")[0] for name in later(every)} == expected
    costly = {check.name for check in CHECKS if check.costly}
    assert {name.rpartition("-")[2] for name in later(every)} == costly & {case.check.name for case in every}
    assert {"resolves", "keywords_documented", "recipes_are_whole"}.isdisjoint(costly)
    assert {"trains", "resumes_exactly", "two_processes_are_one", "keeps_to_its_device"} <= costly
