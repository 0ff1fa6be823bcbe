"""The Catalog with real distributions: whatever a stranger's plugin does, the others work and the user is told."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import install, unlabel
from distributions import HOOKS, offering, write
from packaging.specifiers import SpecifierSet

from unlabel import __version__
from unlabel.catalog import hookspecs, plugins, requirements
from unlabel.catalog.plugins import Catalog, Plugin
from unlabel.errors import UsageError


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
    catalog = Catalog.installed()
    for kind, names in {"evaluations": {"knn", "linear_probe"}, "observers": {"tensorboard", "wandb"}}.items():
        assert names <= {offer.name for offer in catalog.offers(kind) if offer.plugin == "core"}


@pytest.mark.parametrize("active", [True, False])
def test_the_collector_waits_while_something_is_imported(tmp_path, monkeypatch, active: bool):
    (tmp_path / "collecting.py").write_text("import gc\nseen = gc.isenabled()\n")
    (tmp_path / "breaking.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        (gc.enable if active else gc.disable)()
        assert plugins.Offer("tasks", "toy/one", "collecting:seen", "toy").load() is False
        assert gc.isenabled() is active
        with pytest.raises(UsageError):
            plugins.Offer("tasks", "toy/two", "breaking:none", "toy").load()
        assert gc.isenabled() is active
    finally:
        gc.enable()


@pytest.mark.parametrize("hook", hookspecs.HOOKS)
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
    "quits": ("raise KeyboardInterrupt", "raised KeyboardInterrupt while being imported"),
    "generating": ("raise GeneratorExit", "GeneratorExit"),
    "endless": ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "hanging": ("import time\ntime.sleep(3600)", "is not done after 0.2 s (interrupted at "),
    "yielding": (
        HOOKS + "@hookimpl\ndef tasks(): yield 'yielding/a'",
        "hook tasks() must return a dictionary of name -> 'module:attribute', got generator",
    ),
    "dashing": (offering("tasks", {"dashing/-a": "m:A"}), "hook tasks() offers 'dashing/-a'"),
    "failing": (HOOKS + "@hookimpl\ndef tasks(): return 1 / 0", "ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_set_aside_with_the_reason_and_the_others_work(
    site: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good(site)
    source, reason = BROKEN[name]
    write(site, name, source)
    if name == "hanging":
        monkeypatch.setenv("UNLABEL_PLUGIN_SECONDS", "0.2")
        monkeypatch.setenv("UNLABEL_PLUGINS", "hanging,sonar")

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


@pytest.mark.parametrize("version", ["0.1.0", "0.1", "1.10.2", "2", "0.1.1.dev3"])
def test_plain_requirements_are_read_as_packaging_reads_them(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "__version__", version)
    bounds = ["0.1", "0.1.0", "0.2", "1.9", "1.10", "1.10.2.0", "2.0", "2.0.1", "0"]
    clauses = [f"{operator}{bound}" for operator in (">=", "<=", "<", ">") for bound in bounds]
    wanted = [*clauses, *(f"{left}, {right}" for left in clauses for right in clauses[::5]), ""]
    for specifier in wanted:
        admitted = requirements.admits(specifier)
        expected = SpecifierSet(specifier).contains(version, prereleases=True)
        assert admitted == (None if "dev" in version and specifier else expected), specifier
    for specifier in (
        "==0.1",
        "~=0.1",
        "!=0.1",
        ">=0.1; python_version > '3'",
        ">=0.1a1",
        "@ file:///somewhere",
        ">=0..1",
    ):
        assert requirements.admits(specifier) is None


@pytest.mark.parametrize(
    ("requirement", "fits"),
    [
        ("unlabel<0.1", False),
        ("Unlabel >=9 , <10", False),
        ("unlabel[onnx]>=9", False),
        (f"unlabel=={__version__}", True),
        ("unlabel (<0.1)", False),
        ("unlabel~=9.1", False),
        ("unlabel!=0.0.1", True),
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


def test_a_name_with_somebody_elses_prefix_is_not_used(site: Path) -> None:
    good(site)
    names = {"sonar/echo": "thief_plugin.plugin:Wrong", "thief/own": "m:A", "bare": "m:A"}
    write(site, "thief", offering("tasks", names))

    catalog = Catalog.installed()

    assert catalog.find("tasks", "sonar/echo").plugin == "sonar"
    assert "thief/own" in catalog.names("tasks")
    assert plugin(catalog, "thief").problems == [
        "task 'sonar/echo' does not begin with the plugin's own 'thief/'; not used",
        "task 'bare' does not begin with the plugin's own 'thief/'; not used",
    ]
    assert plugin(catalog, "sonar").problems == []


def test_evaluations_commands_and_observers_may_do_without_a_prefix(site: Path) -> None:
    for kind in ("evaluations", "commands", "observers"):
        write(site, kind, offering(kind, {"plain": "m:A", f"{kind}/own": "m:A", "sonar/foreign": "m:A"}))

    catalog = Catalog.installed()

    for kind in ("evaluations", "commands", "observers"):
        assert {"plain", f"{kind}/own"} <= set(catalog.names(kind))
        assert problem(catalog, kind) == (
            f"{kind[:-1]} 'sonar/foreign' does not begin with the plugin's own '{kind}/'; not used"
        )


def test_a_name_that_belongs_to_neither_claimant_is_used_from_neither(site: Path) -> None:
    for name in ("left", "right"):
        write(site, name, offering("evaluations", {"shared": "m:A"}))

    catalog = Catalog.installed()

    assert "shared" not in catalog.names("evaluations")
    with pytest.raises(
        UsageError, match=r"claimed by unlabel-left \(left\) and unlabel-right \(right\): uninstall one"
    ):
        catalog.find("evaluations", "shared")


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


def test_a_folder_of_packages_may_be_the_current_one(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(site)
    monkeypatch.chdir(site)
    assert "sonar/echo" not in Catalog.installed().names("tasks")

    monkeypatch.setattr("site.getsitepackages", lambda: [str(site)])
    assert "sonar/echo" in Catalog.installed().names("tasks")


def test_a_link_to_the_current_folder_is_the_current_folder(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good(site)
    link = site.parent / "link"
    link.symlink_to(site)
    monkeypatch.setattr(sys, "path", [str(link), *(place for place in sys.path if place != str(site))])
    monkeypatch.chdir(site)

    assert "sonar/echo" not in Catalog.installed().names("tasks")


def test_the_current_folder_may_be_gone(site: Path, tmp_path: Path) -> None:
    good(site)
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    answer = subprocess.run(
        [sys.executable, "-c", code, "-m", "unlabel", "list"],
        cwd=gone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (answer.returncode, answer.stderr) == (0, "")
    assert "sonar/echo" in answer.stdout


def test_a_damaged_distribution_hides_no_other(site: Path) -> None:
    good(site)
    damages = [b"[unlabel]\nno equals sign\n", b"[unlabel]\na = b = c : d : e [", b"\0", b"[unlabel]\na = \xff\xfe"]
    for number, text in enumerate(damages):
        metadata = site / f"damaged{number}-0.1.dist-info"
        metadata.mkdir()
        (metadata / "entry_points.txt").write_bytes(text)

    catalog = Catalog.installed()

    assert "sonar/echo" in catalog.names("tasks")
    damaged = [found for found in catalog.plugins if found.name not in ("core", "sonar") and found.problems]
    assert {found.distribution for found in damaged} == {"a distribution without a name"}


def test_a_run_goes_well_beside_a_damaged_distribution(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(site, "toy", "toysonar.plugin")
    metadata = site / "damaged-0.1.dist-info"
    metadata.mkdir()
    (metadata / "entry_points.txt").write_text("[unlabel]\na = b = c : d : e [")  # and without a name

    answer = unlabel("train", "toy/echo", "--recipe", "tiny", "--steps", 1, "--no-evaluate", "--out", "run")

    assert answer.code == 0, answer.err
    versions = json.loads(Path("run/environment.json").read_text())["versions"]
    assert (versions["unlabel"], versions["unlabel-toy"]) == (__version__, "0.1")
    assert {"torch", "numpy"} <= versions.keys()
    assert "pytest" not in versions  # which an extra needs


def test_a_distribution_in_the_older_format_is_read(site: Path) -> None:
    write(site, "old", offering("tasks", {"old/a": "m:A"}), requires=[])
    modern = site / "unlabel_old-0.1.dist-info"
    older = modern.rename(site / "unlabel_old-0.1.egg-info")
    (older / "METADATA").rename(older / "PKG-INFO")
    (older / "requires.txt").write_text("unlabel>=9\n")

    [found] = [found for found in Catalog.installed().plugins if found.name == "old"]

    assert (found.distribution, found.version) == ("unlabel-old", "0.1")
    assert found.problems == [f"needs unlabel>=9, but unlabel {__version__} is installed: upgrade one of them"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("sonar = nowhere.plugin", "its entry point names nowhere.plugin, and there is no module nowhere"),
        ("sonar = sonar_plugin.nowhere", "names sonar_plugin.nowhere, and there is no module sonar_plugin.nowhere"),
        ("sonar = sonar_plugin.plugin:hooks", "its entry point must name a module, e.g. package.plugin; got sonar"),
        ("sonar = not a module!", "its entry point names not a module!, and there is no module not a module!"),
        ("sonar = .relative", "TypeError: the 'package' argument is required"),
        ("core = sonar_plugin.plugin", "no plugin may be called 'core', which is what the core's own names go by"),
    ],
)  # fmt: skip
def test_an_entry_point_that_leads_nowhere_is_explained(site: Path, entry: str, reason: str) -> None:
    good(site, "other")
    write(site, "sonar", offering("evaluations", {"knn": "m:A"}))
    (site / "unlabel_sonar-0.1.dist-info" / "entry_points.txt").write_text(f"[unlabel]\n{entry}\n")

    catalog = Catalog.installed()

    [found] = [found for found in catalog.plugins if found.distribution == "unlabel-sonar"]
    assert reason in found.problems[0]
    assert catalog.find("evaluations", "knn").plugin == "core"
    assert "other/echo" in catalog.names("tasks")


def test_an_entry_point_may_name_extras(site: Path) -> None:
    good(site)
    lines = "[unlabel]\nsonar = sonar_plugin.plugin [water, deep]\n"
    (site / "unlabel_sonar-0.1.dist-info" / "entry_points.txt").write_text(lines)

    assert "sonar/echo" in Catalog.installed().names("tasks")


def test_an_entry_point_that_stands_twice_counts_once(site: Path) -> None:
    good(site)
    lines = "[unlabel]\nsonar = sonar_plugin.plugin\nsonar = sonar_plugin.other\n"
    (site / "unlabel_sonar-0.1.dist-info" / "entry_points.txt").write_text(lines)

    catalog = Catalog.installed()

    assert "sonar/echo" in catalog.names("tasks")
    assert problem(catalog, "sonar") == (
        "entry point 'sonar' stands twice in unlabel-sonar; sonar_plugin.other is not used"
    )


def test_a_name_offered_twice_by_one_plugin_is_the_first_one(site: Path) -> None:
    more = "@hookimpl(specname='tasks')\ndef more(): return {'sonar/a': 'm:B'}"
    write(site, "sonar", offering("tasks", {"sonar/a": "m:A"}) + more)

    catalog = Catalog.installed()

    assert problem(catalog, "sonar").startswith("task 'sonar/a' is offered twice, as m:")
    assert catalog.names("tasks").count("sonar/a") == 1


def test_a_name_of_two_kinds_works_and_its_author_is_told(site: Path) -> None:
    hooks = "@hookimpl\ndef tasks(): return {'sonar/a': 'm:A'}\n@hookimpl\ndef encoders(): return {'sonar/a': 'm:B'}"
    write(site, "sonar", HOOKS + hooks)

    catalog = Catalog.installed()

    assert (catalog.find("tasks", "sonar/a").target, catalog.find("encoders", "sonar/a").target) == ("m:A", "m:B")
    assert plugin(catalog, "sonar").problems == []
    assert plugin(catalog, "sonar").notes == [
        "'sonar/a' means several things: task, encoder; `unlabel show` shows the task"
    ]


@pytest.mark.parametrize("seconds", ["soon", "-1", "nan", "inf"])
def test_the_time_limit_must_be_a_number(site: Path, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("UNLABEL_PLUGIN_SECONDS", seconds)
    with pytest.raises(UsageError, match=f"UNLABEL_PLUGIN_SECONDS is '{seconds}'; expected seconds, e.g. 5, or 0"):
        Catalog.installed()


MOVED = """
from unlabel import Moved, hookimpl

@hookimpl
def tasks():
    return {"sonar/echo": "sonar_plugin.echo:Echo", "sonar/ping": Moved("sonar/echo", removed_in="0.2")}
"""


def test_an_old_name_goes_on_working_with_a_warning_that_names_the_new_one(site: Path) -> None:
    write(site, "sonar", MOVED, modules={"echo": "class Echo: ..."})
    catalog = Catalog.installed()

    message = "task sonar/ping is now called sonar/echo; unlabel-sonar 0.2 will not know the old name"
    with pytest.warns(FutureWarning, match=message) as caught:
        assert catalog.find("tasks", "sonar/ping").name == "sonar/echo"
    assert caught[0].filename == __file__
    with pytest.warns(FutureWarning, match=message):
        assert catalog.load("tasks", "sonar/ping").__name__ == "Echo"

    assert catalog.names("tasks").count("sonar/echo") == 1
    assert "sonar/ping" not in catalog.names("tasks")
    assert catalog.current("tasks", "sonar/echo") == "sonar/echo"
    assert catalog.current("tasks", "sonar/unknown") == "sonar/unknown"
    with pytest.raises(UsageError, match="no encoder is called 'sonar/ping'"):
        catalog.find("encoders", "sonar/ping")


def test_an_old_name_must_lead_to_one_of_the_plugins_own(site: Path) -> None:
    good(site, "other")
    write(site, "sonar", MOVED.replace('Moved("sonar/echo"', 'Moved("other/echo"'))

    catalog = Catalog.installed()

    assert problem(catalog, "sonar") == "task 'sonar/ping' has moved to 'other/echo', which the plugin does not offer"
    with pytest.raises(UsageError, match="no task is called 'sonar/ping'"):
        catalog.find("tasks", "sonar/ping")


def test_somebody_elses_name_cannot_be_moved(site: Path) -> None:
    good(site)
    write(site, "thief", MOVED.replace("sonar/echo", "thief/a").replace("sonar/ping", "sonar/echo"))

    assert Catalog.installed().find("tasks", "sonar/echo").plugin == "sonar"


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
    with pytest.raises(UsageError, match=r"no observer is called 'carrier pigeon'; there are .*tensorboard, wandb"):
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
