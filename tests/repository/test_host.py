"""Whatever is installed beside it, `unlabel` works and says whose fault it is.

One small distribution for each way of being broken, all really installed by pip in one environment. What is not here
cannot be survived in one process: a plugin that calls ``os._exit`` or crashes the interpreter while it is imported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environments
import pytest
from commandline import Answer
from distributions import HOOKS, offering
from environments import Environment

from unlabel import __version__

pytestmark = pytest.mark.slow

GOOD = offering("tasks", {"sonar/echo": "unlabel_sonar.echo:Echo"})

# name -> source of plugin.py, and what `unlabel plugins` says of it
SET_ASIDE = {
    "raises": ("raise RuntimeError('no licence found')", "RuntimeError: no licence found"),
    "exits": ("import sys\nsys.exit(3)", "called sys.exit(3) while being imported"),
    "quits": ("raise KeyboardInterrupt", "raised KeyboardInterrupt while being imported"),
    "oddly": ("class Odd(BaseException): pass\nraise Odd('so there')", "Odd: so there"),
    "endless": ("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "lacks": ("import a_library_nobody_has", "ModuleNotFoundError: No module named 'a_library_nobody_has'"),
    "garbled": ("def tasks(:", "SyntaxError: invalid syntax"),
    "misspelt": (offering("taskss", {"misspelt/a": "m:A"}), "there is no hook 'taskss'; did you mean tasks"),
    "listing": (
        HOOKS + "@hookimpl\ndef tasks(): return ['listing/a']",
        "hook tasks() must return a dictionary of name -> 'module:attribute', got list",
    ),
    "eager": (
        HOOKS + "@hookimpl\ndef encoders(): return {'eager/a': dict}",
        "hook encoders() maps 'eager/a' to <class 'dict'>; expected 'name': 'package.module:attribute'",
    ),
    "curious": (
        HOOKS + "@hookimpl\ndef tasks(catalog): return {'curious/a': 'm:A'}",
        "Argument(s) {'catalog'} are declared in the hookimpl but can not be found in the hookspec",
    ),
    "unmarked": ("def tasks(): return {'unmarked/a': 'm:A'}", "offers nothing: does unlabel_unmarked.plugin mark"),
}

# these work as far as they can
PARTLY = {
    "chatty": (
        "print('Welcome!')\n" + offering("tasks", {"chatty/a": "m:A"}),
        "prints while being imported: 'Welcome!",
    ),
    "shouty": (
        "import sys\nprint('Welcome!', file=sys.stderr)\n" + offering("tasks", {"shouty/a": "m:A"}),
        "prints while being imported: 'Welcome!",
    ),
    "lowly": (
        "import os\nos.write(1, b'Welcome!\\n')\n" + offering("tasks", {"lowly/a": "m:A"}),
        "prints while being imported: 'Welcome!",
    ),
    "thief": (
        offering("tasks", {"sonar/echo": "m:A", "thief/a": "m:A"}),
        "task 'sonar/echo' does not begin with the plugin's own 'thief/'; not used",
    ),
    "twice": (
        offering("tasks", {"twice/a": "m:A"}) + "@hookimpl(specname='tasks')\ndef more(): return {'twice/a': 'm:B'}\n",
        "task 'twice/a' is offered twice, as m:",
    ),
    "measures": (
        offering("evaluations", {"knn": "m:A", "measures/a": "m:A"}),
        "evaluation 'knn' is claimed by unlabel (core) and unlabel-measures (measures); not used from here",
    ),
    "watches": (
        offering("observers", {"tensorboard": "m:A", "watches/a": "m:A"}),
        "observer 'tensorboard' is claimed by unlabel (core) and unlabel-watches (watches); not used from here",
    ),
    "commands": (
        offering("commands", {"list": "m:A", "other": "m:A"}),
        "command 'list' is the core's; not used from here",
    ),
    "left": (
        offering("evaluations", {"shared": "m:A", "left/a": "m:A"}),
        "evaluation 'shared' is claimed by unlabel-left (left) and unlabel-right (right); not used from here",
    ),
    "right": (
        offering("evaluations", {"shared": "m:A", "right/a": "m:A"}),
        "evaluation 'shared' is claimed by unlabel-left (left) and unlabel-right (right); not used from here",
    ),
}

HANGING = {
    "sleeping": "import time\ntime.sleep(3600)",
    "spinning": "while True: pass",
    "waiting": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
}

WARNS = "import warnings\nwarnings.warn('old', DeprecationWarning)\nwarnings.warn('new')\n"
HEAVY = "import torch\n" + offering("tasks", {"heavy/a": "m:A"})


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with all of them in it."""
    session = tmp_path_factory.getbasetemp()
    session = session.parent if "PYTEST_XDIST_WORKER" in os.environ else session
    folder = tmp_path_factory.mktemp("crowded")
    made = environments.clone(environments.template(session), folder)

    def project(name: str, plugin: str, **more: Any) -> Path:
        return environments.project(folder, name, plugin, **more)

    made.install(
        project("sonar", GOOD, modules={"echo": '"""Echo: what was it?"""\nclass Echo: ...'}, version="1.2"),
        *(project(name, source) for name, (source, _) in {**SET_ASIDE, **PARTLY}.items()),
        *(project(name, source) for name, source in HANGING.items()),
        project("newer", GOOD, requires=["numpy", "unlabel>=9.1,<9.2"]),
        project("nowhere", GOOD, entry="unlabel_nowhere.plugins"),
        project("double", offering("tasks", {"double/a": "m:A"})),
        project("double", offering("tasks", {"double/a": "m:A", "double/b": "m:B"}), distribution="sonar-fork"),
        project("warns", WARNS + offering("tasks", {"warns/a": "m:A"})),
        project("heavy", HEAVY),
    )
    return made


LEFT_OUT = {*HANGING, "heavy"}  # they take seconds, and have tests of their own


def run(environment: Environment, *words: str, plugins: set[str] | None = None, seconds: str = "60") -> Answer:
    """Run a command with all plugins but those that take long, or with these only."""
    everything = {"sonar", "newer", "nowhere", "double", "warns", *SET_ASIDE, *PARTLY}
    environment.variables["UNLABEL_PLUGINS"] = ",".join(everything if plugins is None else plugins)
    environment.variables["UNLABEL_PLUGIN_SECONDS"] = seconds
    return environment.run(*words)


@pytest.fixture(scope="module")
def reported(crowded: Environment) -> dict[str, dict[str, Any]]:
    """What `unlabel plugins --json` says, by distribution; nothing but JSON is on standard output."""
    answer = run(crowded, "unlabel", "plugins", "--json")
    assert (answer.code, answer.err) == (0, "")
    return {entry["distribution"]: entry for entry in json.loads(answer.out)}


@pytest.fixture(scope="module")
def listed(crowded: Environment) -> Answer:
    return run(crowded, "unlabel", "list", "--json")


def test_listing_works_and_shows_what_can_be_used(listed: Answer) -> None:
    found = json.loads(listed.out)
    assert listed.code == 0
    [echo] = [entry for entry in found["tasks"] if entry["name"] == "sonar/echo"]
    assert (echo["plugin"], echo["summary"]) == ("sonar", "Echo: what was it?")
    names = {entry["name"] for entries in found.values() for entry in entries}
    assert {
        "chatty/a",
        "shouty/a",
        "lowly/a",
        "thief/a",
        "twice/a",
        "measures/a",
        "left/a",
        "right/a",
        "warns/a",
    } <= names
    assert not {name for name in names if name.partition("/")[0] in SET_ASIDE} | names & {"shared", "double/a"}
    assert {entry["plugin"] for entry in found["evaluations"] if entry["name"] == "knn"} == {"core"}


@pytest.mark.parametrize("name", [*SET_ASIDE, *PARTLY])
def test_the_user_reads_distribution_version_and_reason(
    reported: dict[str, dict[str, Any]], listed: Answer, name: str
) -> None:
    entry, reason = reported[f"unlabel-{name}"], {**SET_ASIDE, **PARTLY}[name][1]

    assert (entry["name"], entry["version"]) == (name, "0.1")
    [problem] = entry["problems"]
    assert reason in problem
    assert "\n" not in problem
    if name in SET_ASIDE:
        assert entry["offers"] == {}
    if name != "commands":  # which are not listed
        assert f"warning: plugin {name} (unlabel-{name}): {problem}\n" in listed.err


def test_the_good_one_has_no_problem(reported: dict[str, dict[str, Any]], listed: Answer) -> None:
    assert reported["unlabel-sonar"] == {
        "name": "sonar",
        "distribution": "unlabel-sonar",
        "version": "1.2",
        "offers": {"tasks": ["sonar/echo"]},
        "problems": [],
        "notes": [],
    }
    assert "unlabel-sonar)" not in listed.err


def test_built_for_another_version_of_the_core(reported: dict[str, dict[str, Any]]) -> None:
    [problem] = reported["unlabel-newer"]["problems"]
    bounds = "<9.2,>=9.1"  # in the order in which hatchling writes them
    assert problem == f"needs unlabel{bounds}, but unlabel {__version__} is installed: upgrade one of them"


def test_an_entry_point_that_points_nowhere(reported: dict[str, dict[str, Any]]) -> None:
    [problem] = reported["unlabel-nowhere"]["problems"]
    assert problem.endswith(
        "its entry point names unlabel_nowhere.plugins, and there is no module unlabel_nowhere.plugins"
    )


def test_two_distributions_of_one_name_are_both_named(reported: dict[str, dict[str, Any]]) -> None:
    for distribution in ("unlabel-double", "sonar-fork"):
        [problem] = reported[distribution]["problems"]
        assert "unlabel-double (double)" in problem
        assert "sonar-fork (double)" in problem
    assert reported["sonar-fork"]["offers"] == {"tasks": ["double/a", "double/b"]}


def test_a_warning_is_no_noise(reported: dict[str, dict[str, Any]], listed: Answer) -> None:
    assert reported["unlabel-warns"]["problems"] == []
    assert reported["unlabel-warns"]["notes"] == ["warns while being imported: DeprecationWarning: old"]
    assert "DeprecationWarning" not in listed.err
    assert {line.partition(":")[0] for line in listed.err.splitlines()} == {"warning"}


def test_for_people_the_same_is_said_in_words(crowded: Environment) -> None:
    answer = run(crowded, "unlabel", "plugins", plugins={"sonar", "raises", "chatty", "warns"})

    assert answer.code == 0
    assert answer.out.splitlines()[1:] == [
        "chatty  unlabel-chatty 0.1: 1 task",
        "  problem: prints while being imported: 'Welcome!'",
        "raises  unlabel-raises 0.1: nothing",
        "  problem: RuntimeError: no licence found",
        "sonar  unlabel-sonar 1.2: 1 task",
        "warns  unlabel-warns 0.1: 1 task",
        "  note: warns while being imported: DeprecationWarning: old",
    ]
    assert answer.err == ""


@pytest.mark.parametrize("name", HANGING)
def test_one_that_hangs_is_interrupted_and_named(crowded: Environment, name: str) -> None:
    answer = run(crowded, "unlabel", "list", "tasks", plugins={name, "sonar"}, seconds="0.5")

    assert answer.code == 0
    assert "sonar/echo" in answer.out
    line = HANGING[name].count("\n") + 1
    place = crowded.site / f"unlabel_{name}" / "plugin.py"
    assert answer.err == (
        f"warning: plugin {name} (unlabel-{name}): is not done after 0.5 s (interrupted at {place}, line {line}); "
        "UNLABEL_PLUGIN_SECONDS sets the limit\n"
    )


def test_one_that_imports_torch_to_be_listed_is_told(crowded: Environment) -> None:
    [_, heavy, sonar] = json.loads(run(crowded, "unlabel", "plugins", "--json", plugins={"heavy", "sonar"}).out)

    assert heavy["offers"] == {"tasks": ["heavy/a"]}
    assert heavy["problems"] == sonar["notes"] == []
    [note] = heavy["notes"]
    assert note.startswith("imports torch")
    assert note.endswith("to be listed, which slows every command")


def test_asking_for_what_is_broken_names_the_plugins_in_question(crowded: Environment) -> None:
    answer = run(crowded, "unlabel", "train", "raises/thing", plugins={"raises", "sonar"})
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        "error: no task is called 'raises/thing'; there are sonar/echo (with problems: raises; see `unlabel plugins`)\n"
    )


def test_a_command_of_the_core_stays_the_cores(crowded: Environment) -> None:
    answer = run(crowded, "unlabel", "--help", plugins={"commands", "sonar"})
    assert answer.code == 0
    assert answer.out.count(" list ") == 1
    assert " other " in answer.out


@pytest.fixture
def trap(crowded: Environment) -> Iterator[Path]:
    """The current folder looks like a place where plugins are installed, and holds modules of the names imported."""
    here, executed = crowded.here, crowded.here / "executed"
    line = f"open({str(executed)!r}, 'w').close()\n"
    for name in ("unlabel_trap", "unlabel_sonar", "pluggy", "typer", "plugin"):
        (here / name).mkdir()
        (here / name / "__init__.py").write_text(line)
        (here / name / "plugin.py").write_text(line + offering("tasks", {"trap/a": "m:A"}))
    metadata = here / "unlabel_trap-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: unlabel-trap\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[unlabel]\ntrap = unlabel_trap.plugin\n")
    yield executed
    for path in here.iterdir():
        if path.is_dir():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()


@pytest.mark.parametrize("words", [("unlabel",), ("python", "-m", "unlabel")], ids=["script", "module"])
def test_nothing_is_loaded_because_of_what_lies_in_the_current_folder(
    crowded: Environment, trap: Path, words: tuple[str, ...]
) -> None:
    assert "PYTHONPATH" not in crowded.variables
    answer = run(crowded, *words, "list", "tasks", plugins={"sonar"})
    assert answer.code == 0
    assert "sonar/echo" in answer.out

    refused = run(crowded, *words, "list", plugins={"sonar", "trap"})
    assert (refused.code, refused.out) == (2, "")
    assert "UNLABEL_PLUGINS names 'trap', which is not installed" in refused.err

    assert not trap.exists()
