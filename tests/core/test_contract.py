"""Every check of the contract catches what it is for, and only that; what is right passes all of them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import distributions
import pytest
import wrongs
from commandline import install

from unlabel import Catalog
from unlabel.testing.checks import CHECKS, PLUGIN_CHECKS
from unlabel.testing.contract import Case, cases, results


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the import path with the plugins right, wrong, noisy and heavy."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "right", "toyright.plugin")
    wrongs.write_all(folder)
    quiet = distributions.offering("commands", {"hum": "os:getcwd"})
    distributions.write(folder, "noisy", f"print('hello')\n{quiet}")
    distributions.write(folder, "stray", distributions.offering("encoders", {"linear": "toyright.encoders:linear"}))
    distributions.write(folder, "broken", "raise OSError('no sound card')")
    distributions.write(folder, "heavy", f"import numpy\n{quiet.replace('hum', 'ham')}")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("UNLABEL_PLUGINS", "right,wrong,noisy,heavy,stray,broken")
        yield folder
    for name in [
        name
        for name in sys.modules
        if name.startswith(("wrong_plugin", "noisy_plugin", "heavy_plugin", "stray_plugin", "broken_plugin"))
    ]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def catalog(site: Path) -> Catalog:
    return Catalog.installed()


def outcomes(chosen: list[Case]) -> dict[str, dict[str, str]]:
    """Outcome -> id of a check -> reason."""
    found: dict[str, dict[str, str]] = {"ok": {}, "failed": {}, "not applicable": {}}
    for result in results(chosen):
        found[result.outcome][result.case.id] = result.reason
    return found


@pytest.mark.slow
def test_the_right_plugin_passes_every_check(catalog: Catalog) -> None:
    found = outcomes(cases("right", catalog))

    assert found["failed"] == {}
    unasked = {name.rpartition("-")[2] for name in found["not applicable"] if "right/echo" in name or "diary" in name}
    assert unasked == set()  # there is something to check in each of them
    assert found["not applicable"]["right/tide-measures"] == "there is no water (right/echo, right/phases)"
    checked = {name.rpartition("-")[2] for name in found["ok"]}
    assert checked == {check.name for check in (*CHECKS, *PLUGIN_CHECKS)}


@pytest.mark.slow
@pytest.mark.parametrize("wrong", wrongs.WRONGS, ids=lambda wrong: f"{wrong.kind}-{wrong.name}")
def test_a_wrong_toy_is_caught_by_the_check_it_is_for_and_by_no_other(wrong: wrongs.Wrong, catalog: Catalog) -> None:
    mine = [case for case in cases("wrong", catalog) if (case.kind, case.component) == (wrong.kind, wrong.name)]
    failed = outcomes(mine)["failed"]

    assert set(failed) == ({f"{wrong.name}-{wrong.check}"} if wrong.check else set()), failed
    for message in failed.values():
        assert re.search(wrong.says, message)


def test_every_check_has_a_wrong_toy() -> None:
    caught = {wrong.check for wrong in wrongs.WRONGS}
    assert {check.name for check in CHECKS} <= caught
    assert {check.name for check in PLUGIN_CHECKS} == {"loads", "imports_nothing_heavy"}  # see below


@pytest.mark.parametrize(
    ("plugin", "check", "says"),
    [
        ("noisy", "loads", "prints while being imported: 'hello'"),
        ("stray", "loads", "encoder 'linear' does not begin with the plugin's own 'stray/'; not used"),
        ("heavy", "imports_nothing_heavy", "the plugin's entry point imports numpy: name components by strings"),
        ("broken", "loads", "OSError: no sound card"),
        ("wrnog", "loads", "no plugin called 'wrnog' is installed; did you mean wrong?"),
    ],
)
def test_a_plugin_is_caught_that_is_wrong_as_a_whole(plugin: str, check: str, says: str, catalog: Catalog) -> None:
    whole = [case for case in cases(plugin, catalog) if case.kind == "plugin"]
    [(name, reason)] = outcomes(whole)["failed"].items()
    assert name == f"{plugin}-{check}"
    assert reason.startswith(says)
