"""The Catalog with real distributions: whatever a stranger's plugin does, the others work and the user is told."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import unlabel
from distributions import HOOKS, offering, write

from unlabel import __version__
from unlabel.errors import UsageError
from unlabel.plugins import Catalog, Plugin


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the import path for the distributions of one test; the current folder is another one."""
    monkeypatch.delenv("UNLABEL_PLUGINS", raising=False)
    folder, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(str(folder))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if "_plugin" in name:
            del sys.modules[name]


def plugin(catalog: Catalog, name: str) -> Plugin:
    return next(plugin for plugin in catalog.plugins if plugin.name == name)


def problem(catalog: Catalog, name: str) -> str:
    [found] = plugin(catalog, name).problems
    return found


def good(site: Path, name: str = "sonar") -> None:
    write(
        site, name, offering("tasks", {f"{name}/echo": f"{name}_plugin.echo:Echo"}), modules={"echo": "class Echo: ..."}
    )


def test_an_installed_plugin_offers_its_names_without_importing_what_they_name(site: Path) -> None:
    good(site)

    catalog = Catalog.installed()

    assert "sonar/echo" in catalog.names("tasks")
    assert (plugin(catalog, "sonar").distribution, plugin(catalog, "sonar").version) == ("unlabel-sonar", "0.1")
    assert plugin(catalog, "sonar").problems == []
    assert "sonar_plugin.echo" not in sys.modules
    assert catalog.load("tasks", "sonar/echo").__name__ == "Echo"


def test_the_core_offers_its_own_through_the_same_hooks(site: Path) -> None:
    assert {"knn", "linear_probe"} <= set(Catalog.installed().names("evaluations"))
    assert {offer.plugin for offer in Catalog.installed().offers("observers")} == {"core"}


@pytest.mark.parametrize("hook", ["tasks", "encoders", "datasets", "evaluations", "commands", "observers"])
def test_every_hook_reaches_the_catalog(site: Path, hook: str) -> None:
    write(
        site,
        "sonar",
        offering(hook, {"sonar/thing": "sonar_plugin.things:Thing"}),
        modules={"things": "class Thing: ..."},
    )

    assert Catalog.installed().load(hook, "sonar/thing").__name__ == "Thing"


BROKEN = {
    "raises": ("raise RuntimeError('no licence\\nfound')", "RuntimeError: no licence found"),
    "exits": ("raise SystemExit(3)", "called sys.exit(3)"),
    "lacks": ("import a_library_nobody_has", "ModuleNotFoundError: No module named 'a_library_nobody_has'"),
    "garbled": ("def tasks(:", "SyntaxError"),
    "misspelt": (offering("taskss", {"misspelt/a": "m:A"}), "there is no hook 'taskss'; did you mean tasks"),
    "curious": (HOOKS + "@hookimpl\ndef tasks(catalog): return {}", "catalog"),
    "listing": (
        HOOKS + "@hookimpl\ndef tasks(): return ['listing/a']",
        "hook tasks() must return a dictionary of name -> 'module:attribute', got list",
    ),
    "forgetful": (
        HOOKS + "@hookimpl\ndef tasks(): {'forgetful/a': 'm:A'}",
        "hook tasks() must return a dictionary of name -> 'module:attribute', got NoneType",
    ),
    "eager": (
        HOOKS + "@hookimpl\ndef tasks(): return {'eager/a': dict}",
        "expected 'name': 'package.module:attribute'",
    ),
    "dotted": (
        HOOKS + "@hookimpl\ndef tasks(): return {'dotted/a': 'm.A'}",
        "expected 'name': 'package.module:attribute'",
    ),
    "spaced": (offering("tasks", {"spaced/a b": "m:A"}), "hook tasks() offers 'spaced/a b'"),
    "unmarked": (
        "def tasks(): return {'unmarked/a': 'm:A'}",
        "offers nothing: does unmarked_plugin.plugin mark its functions with @hookimpl?",
    ),
    "failing": (HOOKS + "@hookimpl\ndef tasks(): return 1 / 0", "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_set_aside_with_the_reason_and_the_others_work(site: Path, name: str) -> None:
    good(site)
    source, reason = BROKEN[name]
    write(site, name, source)

    catalog = Catalog.installed()

    assert reason in problem(catalog, name)
    assert plugin(catalog, name).offers == []
    assert "sonar/echo" in catalog.names("tasks")
    assert plugin(catalog, "sonar").problems == []


def test_the_user_reads_which_plugin_is_broken_and_why(site: Path) -> None:
    good(site)
    write(site, "raises", BROKEN["raises"][0])

    text = unlabel("plugins").out
    assert "raises  unlabel-raises 0.1: nothing\n  problem: RuntimeError: no licence found\n" in text

    found = unlabel("list", "tasks")
    assert found.code == 0
    assert "sonar/echo" in found.out
    assert "warning: plugin raises (unlabel-raises): RuntimeError: no licence found" in found.err

    assert "(with problems: raises; see `unlabel plugins`)" in unlabel("train", "raises/thing").err


@pytest.mark.parametrize(
    ("requirement", "fits"),
    [
        ("unlabel<0.1", False),
        ("Unlabel >=9 , <10", False),
        ("unlabel[onnx]>=9", False),
        (f"unlabel=={__version__}", True),
        ("unlabel-vision-like-names>=9", True),
        ('unlabel>=9; extra == "later"', True),
        ('unlabel>=9; python_version < "3"', True),
    ],
)
def test_a_plugin_for_another_version_of_the_core_is_not_loaded(site: Path, requirement: str, fits: bool) -> None:
    good(site, "other")
    write(site, "sonar", offering("tasks", {"sonar/a": "m:A"}), requires=["numpy", requirement])

    catalog = Catalog.installed()

    assert ("sonar/a" in catalog.names("tasks")) == fits
    assert "other/echo" in catalog.names("tasks")
    if not fits:
        assert f"but unlabel {__version__} is installed: upgrade one of them" in problem(catalog, "sonar")
        assert "sonar_plugin" not in sys.modules


def test_an_unreadable_requirement_breaks_its_own_plugin_only(site: Path) -> None:
    good(site)
    write(site, "vague", offering("tasks", {"vague/a": "m:A"}), requires=["unlabel somewhat new"])

    catalog = Catalog.installed()

    assert problem(catalog, "vague").startswith("InvalidRequirement")
    assert "sonar/echo" in catalog.names("tasks")


def test_of_two_claimants_the_one_whose_prefix_it_is_keeps_the_name(site: Path) -> None:
    good(site)
    write(site, "thief", offering("tasks", {"sonar/echo": "thief_plugin.plugin:Wrong", "thief/own": "m:A"}))

    catalog = Catalog.installed()

    assert catalog.find("tasks", "sonar/echo").plugin == "sonar"
    assert "thief/own" in catalog.names("tasks")
    assert problem(catalog, "thief") == (
        "task 'sonar/echo' is claimed by unlabel-sonar (sonar) and unlabel-thief (thief); not used from here"
    )
    assert plugin(catalog, "sonar").problems == []


def test_a_name_that_belongs_to_neither_claimant_is_used_from_neither(site: Path) -> None:
    for name in ("left", "right"):
        write(site, name, offering("tasks", {"shared/a": "m:A"}))

    catalog = Catalog.installed()

    assert "shared/a" not in catalog.names("tasks")
    with pytest.raises(
        UsageError, match=r"claimed by unlabel-left \(left\) and unlabel-right \(right\): uninstall one"
    ):
        catalog.find("tasks", "shared/a")


def test_two_distributions_of_one_plugin_name_are_both_named(site: Path) -> None:
    good(site)
    second = site.parent / "second"
    write(second, "sonar", offering("tasks", {"sonar/echo": "m:A"}), distribution="sonar-fork")
    sys.path.append(str(second))
    try:
        with pytest.raises(
            UsageError, match=r"unlabel-sonar \(sonar\) and sonar-fork \(sonar\)|sonar-fork.* and unlabel-sonar"
        ):
            Catalog.installed().find("tasks", "sonar/echo")
    finally:
        sys.path.remove(str(second))


@pytest.mark.parametrize("name", ["knn", "shadow"])  # a plugin may even be called like the built-in
def test_no_plugin_can_shadow_a_built_in(site: Path, name: str) -> None:
    write(site, name, offering("evaluations", {"knn": "m:A"}))

    catalog = Catalog.installed()

    assert catalog.find("evaluations", "knn").plugin == "core"
    assert "'knn' is claimed by unlabel (core) and unlabel-" in problem(catalog, name)


def test_no_plugin_can_shadow_a_command(site: Path) -> None:
    names = {"list": "ping_plugin.commands:ping", "ping": "ping_plugin.commands:ping"}
    commands = "def ping(times: int = 1) -> None:\n    print('pong ' * times)\n"
    write(site, "ping", offering("commands", names), modules={"commands": commands})

    assert "knn" in unlabel("list", "evaluations").out
    assert "problem: command 'list' is the core's; not used from here" in unlabel("plugins").out


def test_a_plugin_adds_a_subcommand_with_its_own_options(site: Path) -> None:
    commands = "def ping(times: int = 1) -> None:\n    print('pong ' * times)\n"
    write(site, "ping", offering("commands", {"ping": "ping_plugin.commands:ping"}), modules={"commands": commands})

    for _ in range(2):
        assert unlabel("ping", "--times", 3) == (0, "pong pong pong \n", "")
        assert unlabel("plugins").out.count("problem") == 0
    assert unlabel("ping", "--times", "many").code == 2


def test_what_a_plugin_prints_does_not_spoil_the_output(site: Path) -> None:
    noise = "print('Welcome to sonar 3000!')\n"
    write(
        site,
        "sonar",
        noise + offering("encoders", {"sonar/echo": "sonar_plugin.echo:Echo"}),
        modules={"echo": noise + "class Echo: ..."},
    )

    found = unlabel("list", "encoders", "--json")
    assert "sonar/echo" in {entry["name"] for entry in json.loads(found.out)["encoders"]}
    assert "warning: plugin sonar (unlabel-sonar): prints while being imported: 'Welcome to sonar 3000!'" in found.err

    shown = unlabel("show", "sonar/echo", "--json")
    assert json.loads(shown.out)["name"] == "sonar/echo"
    assert shown.err == "Welcome to sonar 3000!\n"


def test_the_variable_restricts_which_plugins_are_loaded(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second", "third"):
        good(site, name)
    monkeypatch.setenv("UNLABEL_PLUGINS", "third, first")

    catalog = Catalog.installed()

    assert [plugin.name for plugin in catalog.plugins] == ["core", "first", "third"]
    assert "second_plugin.plugin" not in sys.modules

    monkeypatch.setenv("UNLABEL_PLUGINS", "")
    assert [plugin.name for plugin in Catalog.installed().plugins] == ["core"]


def test_the_core_alone_says_what_to_install(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABEL_PLUGINS", "")

    answer = unlabel("list")

    assert answer.code == 0
    assert "tasks  (none)" in answer.out
    assert re.search(r"No plugin is installed.*\n  pip install unlabel-\w+\n$", answer.out, re.DOTALL)
    assert (
        "no installed plugin offers tasks: install one, e.g. `pip install unlabel-sonar`"
        in unlabel("train", "sonar/echo").err
    )


def test_the_variable_names_installed_plugins_only(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(site)
    monkeypatch.setenv("UNLABEL_PLUGINS", "snoar")

    with pytest.raises(UsageError, match="UNLABEL_PLUGINS names 'snoar', which is not installed; did you mean sonar"):
        Catalog.installed()


def test_nothing_is_loaded_because_of_a_file_in_the_current_folder(tmp_path: Path) -> None:
    """``python -m`` puts the current folder on the path, with whatever lies there."""
    here, site = tmp_path / "here", tmp_path / "site"
    trap = "open('executed', 'w').close()\n"
    write(here, "trap", trap + offering("tasks", {"trap/a": "m:A"}))
    good(site)
    (here / "sonar_plugin").mkdir()  # shadows the installed one
    (here / "sonar_plugin" / "__init__.py").write_text(trap)

    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "unlabel", "list", "tasks"]
    answer = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=True)

    assert "sonar/echo" in answer.stdout
    assert "trap" not in answer.stdout
    assert not (here / "executed").exists()


def test_a_damaged_distribution_hides_no_other(site: Path) -> None:
    good(site)
    for number, text in enumerate(["[unlabel]\nno equals sign\n", "[unlabel]\na = b = c : d : e [", "\0"]):
        metadata = site / f"damaged{number}-0.1.dist-info"
        metadata.mkdir()
        (metadata / "entry_points.txt").write_text(text)

    assert "sonar/echo" in Catalog.installed().names("tasks")


def test_a_task_that_cannot_be_imported_names_its_plugin(site: Path) -> None:
    write(
        site,
        "sonar",
        offering("tasks", {"sonar/a": "sonar_plugin.bad:A", "sonar/b": "sonar_plugin.plugin:B"}),
        modules={"bad": "1 / 0"},
    )
    catalog = Catalog.installed()

    with pytest.raises(
        UsageError, match=r"sonar/a of plugin 'sonar' cannot be loaded .*ZeroDivisionError: division by zero"
    ):
        catalog.load("tasks", "sonar/a")
    with pytest.raises(UsageError, match=r"sonar/b of plugin 'sonar' cannot be loaded .* has no attribute 'B'"):
        catalog.load("tasks", "sonar/b")


def test_a_wrong_name_is_answered_with_the_nearest_and_the_right_kind(site: Path) -> None:
    good(site)
    catalog = Catalog.installed()

    with pytest.raises(UsageError, match="no task is called 'sonar/ehco'; did you mean sonar/echo"):
        catalog.find("tasks", "sonar/ehco")
    with pytest.raises(UsageError, match="'knn' is one of the evaluations, not of the tasks"):
        catalog.find("tasks", "knn")
    with pytest.raises(UsageError, match="no observer is called 'carrier pigeon'; there are tensorboard, wandb"):
        catalog.find("observers", "carrier pigeon")
    with pytest.raises(
        UsageError, match=r"no installed plugin offers tasks: install one, e.g. `pip install unlabel-radar`"
    ):
        Catalog([]).find("tasks", "radar/x")


def test_catalogs_share_nothing(site: Path) -> None:
    good(site)
    first = Catalog.installed()
    first.trusted.add("os:system")
    write(site, "later", offering("tasks", {"later/a": "m:A"}))
    second = Catalog.installed()

    assert "later/a" in second.names("tasks")
    assert "later/a" not in first.names("tasks")
    assert second.trusted == set()
    assert first.plugins[0] is not second.plugins[0]
