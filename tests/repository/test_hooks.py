"""Each of the seven hooks: documented with its exact arguments, tested by itself, used by this repository."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commandline import install, unlabel
from distributions import offering, write
from packaging.version import Version

from unlabel import Catalog
from unlabel.catalog import hookspecs

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "core" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BUILT_IN = ROOT / "core/src/unlabel/catalog/builtin.py"
PLUGINS = sorted((ROOT / "plugins").glob("*/src/unlabel_*/plugin.py"))


def signature(hook: str) -> inspect.Signature:
    return inspect.signature(getattr(hookspecs, hook))


def implementations(source: str) -> Iterator[ast.FunctionDef]:
    """The functions marked as hooks in a source."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            marks = [ast.unparse(mark) for mark in node.decorator_list]
            if any(mark.startswith("hookimpl") for mark in marks):
                yield node


def shown(page: Path) -> Iterator[ast.FunctionDef]:
    """The hooks that a page's Python blocks implement."""
    for block in re.findall(r"^```python.*?\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        if "@hookimpl" in block:
            yield from implementations(block)


# Documented


def test_the_guide_has_a_table_of_all_hooks_with_their_exact_arguments() -> None:
    guide = (ROOT / "docs" / "plugins" / "first.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(.+)` \|$", guide, re.MULTILINE)
    expected = [
        (
            hook,
            ", ".join(f"`{name}`" for name in signature(hook).parameters) or "none",
            signature(hook).return_annotation,
        )
        for hook in hookspecs.HOOKS
    ]
    assert rows == expected


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_hook_that_a_page_implements_has_the_arguments_of_the_hook(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for function in shown(page):
        if f"there is no hook {function.name!r}" in text:  # the page shows what a misspelt one gets
            continue
        assert function.name in hookspecs.HOOKS
        assert [argument.arg for argument in function.args.args] == list(signature(function.name).parameters)


@pytest.mark.parametrize("hook", hookspecs.HOOKS)
def test_every_hook_is_implemented_in_the_guide(hook: str) -> None:
    assert hook in {function.name for page in PAGES for function in shown(page)}


@pytest.mark.parametrize("hook", hookspecs.HOOKS)
def test_every_hook_is_used_by_a_plugin_or_the_core(hook: str) -> None:
    users = [
        path.parts[-4]
        for path in (*PLUGINS, BUILT_IN)
        for function in implementations(path.read_text())
        if function.name == hook
    ]
    assert users, f"no plugin implements {hook}()"


@pytest.mark.parametrize("hook", hookspecs.HOOKS)
def test_every_hook_has_a_test_of_its_own(hook: str) -> None:
    functions = [node for node in ast.parse(Path(__file__).read_text()).body if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions if function.name.startswith(f"test_hook_{hook}_")]


def test_old_names_are_gone_in_the_version_that_was_said() -> None:
    late = [
        f"{plugin.distribution} {plugin.version} still knows {name}, to be removed in {moved.removed_in}"
        for plugin in Catalog.installed().plugins
        for (_, name), moved in plugin.moved.items()
        if Version(moved.removed_in) <= Version(plugin.version)
    ]
    assert late == []


# Tested, each through the command line as its users do


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of the import path with the toy plugin installed in it, and room for one called radar."""
    folder = tmp_path / "site"
    folder.mkdir()
    install(folder, "toy", "toysonar.plugin")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("UNLABEL_PLUGINS", "toy,radar")
    monkeypatch.chdir(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("radar_plugin")]:
        del sys.modules[name]


def radar(site: Path, hook: str, names: dict[str, str], module: str) -> None:
    """Install a plugin that offers these names through one hook; they live in its module `things`."""
    targets = {name: f"radar_plugin.things:{attribute}" for name, attribute in names.items()}
    write(site, "radar", offering(hook, targets), modules={"things": module})


def train(*words: object) -> None:
    answer = unlabel("train", *words, "--recipe", "tiny", "--steps", 2, "--out", "run", "--no-evaluate")
    assert answer.code == 0, answer.err


TASK = '''
"""Sweep: fill in gaps, twice as slowly."""
from toysonar import echo
from unlabel import Ref

class Sweep(echo.Echo):
    """Fill in gaps of a sweep."""

def tiny():
    """As the toy's."""
    return echo.tiny().model_copy(update={"task": Ref("radar/sweep")})
'''


def test_hook_tasks_makes_a_task_that_is_listed_shown_and_trained(site: Path) -> None:
    radar(site, "tasks", {"radar/sweep": "Sweep"}, TASK)

    assert "radar/sweep            Sweep: fill in gaps, twice as slowly." in unlabel("list", "tasks").out
    assert json.loads(unlabel("show", "radar/sweep", "--json").out)["kind"] == "task"
    train("radar/sweep")
    assert json.loads(Path("run/recipe.json").read_text())["task"]["name"] == "radar/sweep"


def test_hook_encoders_makes_an_encoder_that_a_task_takes(site: Path) -> None:
    module = (
        "from torch import nn\nfrom toysonar.echo import linear\n\n"
        "def dish(*, dim: int = 3) -> nn.Module:\n    '''A dish.'''\n    return linear(dim=dim)\n"
    )
    radar(site, "encoders", {"radar/dish": "dish"}, module)

    assert "radar/dish             A dish." in unlabel("list", "encoders").out
    train("toy/echo", "--encoder", "radar/dish", "--set", "encoder.dim=5")
    assert json.loads(Path("run/recipe.json").read_text())["encoder"] == {"name": "radar/dish", "dim": 5}


def test_hook_datasets_makes_a_dataset_that_is_inspected_and_trained_on(site: Path) -> None:
    module = "from toysonar.pings import Pings\n\nclass Sky(Pings):\n    '''The sky.'''\n"
    radar(site, "datasets", {"radar/sky": "Sky"}, module)

    assert "radar/sky              The sky." in unlabel("list", "datasets").out
    assert json.loads(unlabel("inspect", "radar/sky", "--json").out)["samples"] == 64
    train("toy/echo", "--data", "radar/sky")
    assert json.loads(Path("run/recipe.json").read_text())["dataset"]["name"] == "radar/sky"


def test_hook_evaluations_makes_an_evaluation_with_keywords(site: Path) -> None:
    module = (
        "from unlabel import Frozen\n\n"
        "def width(frozen: Frozen, *, times: int = 1) -> dict[str, float]:\n    '''Width of the features.'''\n"
        "    return {'width': times * frozen.features('train')[0].shape[1]}\n"
    )
    radar(site, "evaluations", {"radar_width": "width"}, module)

    assert "radar_width            Width of the features." in unlabel("list", "evaluations").out
    train("toy/echo")
    answer = unlabel("evaluate", "run", "radar_width", "--set", "radar_width.times=2", "--json")
    assert json.loads(answer.out) == {"radar_width": {"width": 8}}


def test_hook_optimizers_makes_an_optimizer_that_a_recipe_names(site: Path) -> None:
    module = (
        "from torch.optim import SGD\n\n"
        "class Slow(SGD):\n    '''Slow.'''\n"
        "    def __init__(self, params, lr: float = 0.1, *, times: float = 0.5):\n"
        "        super().__init__(params, lr=lr, momentum=times)\n"
    )
    radar(site, "optimizers", {"radar/slow": "Slow"}, module)

    assert "radar/slow             Slow." in unlabel("list", "optimizers").out
    settings = ("optimizer=radar/slow", "optimizer.times=0.9", "weight_decay=0")
    train("toy/echo", *(word for setting in settings for word in ("--set", f"stages.0.{setting}")))
    stage = json.loads(Path("run/recipe.json").read_text())["stages"][0]
    assert stage["optimizer"] == {"name": "radar/slow", "times": 0.9}
    assert unlabel("resume", "run", "--no-evaluate").code == 0


COMMAND = '''
from typing import Annotated
import typer
from unlabel import UsageError

def sweep(angle: float, turns: Annotated[int, typer.Option(help="How often.")] = 1) -> int:
    """Turn the dish."""
    if not 0 <= angle < 360:
        raise UsageError(f"angle {angle:g} is outside [0, 360)")
    if turns > 9:
        raise RuntimeError("the motor is hot")
    print(angle * turns)
    return 0 if turns else 5

def wrong(*things: "no type") -> None:
    """Cannot be parsed."""
'''


def test_hook_commands_adds_a_command_with_help_exit_codes_and_one_line_errors(site: Path) -> None:
    names = {"sweep": "sweep", "wrong": "wrong", "absent": "absent"}
    radar(site, "commands", names, COMMAND)

    assert unlabel("sweep", 90, "--turns", 2) == (0, "180.0\n", "")
    assert unlabel("sweep", 90, "--turns", 0) == (5, "0.0\n", "")
    assert unlabel("sweep", 400) == (2, "", "error: angle 400 is outside [0, 360)\n")
    assert unlabel("sweep", 1, "--turns", 10).code == 1
    assert unlabel("sweep", 1, "--turns", 10).err.startswith("error: RuntimeError: the motor is hot")
    assert unlabel("sweep", "north").err == (
        "error: Invalid value for 'angle': Input should be a valid number, unable to parse string as a number "
        "(see `unlabel sweep --help`)\n"
    )
    assert "How often." in unlabel("sweep", "--help").out
    absent, wrong = unlabel("absent"), unlabel("wrong")
    assert (absent.code, wrong.code) == (2, 2)
    assert "absent of plugin 'radar' cannot be loaded from radar_plugin.things:absent" in absent.err
    assert "command 'wrong' of plugin 'radar' cannot be used, because radar_plugin.things:wrong is no" in wrong.err


def test_hook_commands_are_in_the_help_and_among_the_suggestions(site: Path) -> None:
    radar(site, "commands", {"sweep": "sweep"}, COMMAND)

    text = unlabel("--help").out
    assert "Commands of plugin radar" in text
    assert re.search(r"sweep +Turn the dish\.", text)
    assert "radar_plugin.things" not in sys.modules
    assert "Did you mean 'sweep'?" in unlabel("swep").err
    assert "1 command" in unlabel("plugins").out
    assert "sweep" not in unlabel("list", "--help").out


OBSERVER = '''
import json
from unlabel import Observer, UsageError

class Journal(Observer):
    """Writes down what it is told."""

    needs = True

    @classmethod
    def check(cls):
        if not cls.needs:
            raise UsageError("radar/journal needs a pencil")

    def tell(self, *what):
        with open(self.folder / type(self).__name__.lower(), "a") as file:
            file.write(" ".join(map(str, what)) + "\\n")

    def start(self, recipe): self.tell("start", recipe.task.name)
    def stage(self, number, stage, start): self.tell("stage", number, stage.steps, start)
    def log(self, progress, metrics): self.tell("log", progress.total_step, *sorted({"loss", "knn"} & set(metrics)))
    def event(self, progress, name, details): self.tell(name, progress.total_step)
    def close(self): self.tell("close")

class Clumsy(Journal):
    def log(self, progress, metrics):
        self.tell("log", progress.total_step)
        if progress.total_step == 2:
            raise RuntimeError("dropped [the] pencil")

class Late(Journal):
    def close(self):
        raise SystemExit("never mind")

class Refuses(Journal):
    def start(self, recipe): raise OSError("no paper")

class Unmade(Journal):
    def __init__(self, folder): raise OSError("no desk")

class Needy(Journal):
    needs = False
'''
NAMES = {f"radar/{name.lower()}": name for name in ("Journal", "Clumsy", "Late", "Refuses", "Unmade", "Needy")}


def test_hook_observers_tells_an_observer_everything_in_order(site: Path) -> None:
    radar(site, "observers", NAMES, OBSERVER)

    train("toy/echo", "--observe", "radar/journal, radar/journal")

    told = Path("run/journal").read_text().splitlines()
    assert told[:4] == ["start toy/echo", "stage 0 2 0", "begun 1", "log 1 loss"]
    assert {"log 2 loss", "log 2 knn", "saved 2"} <= set(told)
    assert told.count("close") == told.count("log 2 loss") == 1
    assert told[-1] == "close"


def test_hook_observers_that_fail_while_the_run_goes_on_do_not_end_it(site: Path) -> None:
    radar(site, "observers", NAMES, OBSERVER)
    words = ["train", "toy/echo", "--recipe", "tiny", "--steps", 4, "--no-evaluate", "--out", "run"]

    answer = unlabel(*words, "--observe", "radar/clumsy,radar/late")

    assert answer.code == 0
    assert Path("run/clumsy").read_text().splitlines()[-2:] == ["log 2", "close"]
    assert "log 4 loss" in Path("run/late").read_text().splitlines()
    said = [line.removesuffix("; the run goes on without it") for line in answer.err.splitlines() if "warning" in line]
    assert said == [
        "warning: observer radar/clumsy failed in log(): RuntimeError: dropped [the] pencil",
        "warning: observer radar/late failed in close(): SystemExit: never mind",
    ]
    assert len([line for line in Path("run/metrics.jsonl").read_text().splitlines() if '"loss"' in line]) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("radar/refuses", "--observe radar/refuses does not work: OSError: no paper"),
        ("radar/unmade", "--observe radar/unmade does not work: OSError: no desk"),
        ("radar/needy", "radar/journal needs a pencil"),
        ("radar/jurnal", "no observer is called 'radar/jurnal'; did you mean radar/journal"),
        ("toy/function", "no observer is called 'toy/function'"),
    ],
)
def test_hook_observers_that_cannot_begin_are_an_error_and_leave_no_run(site: Path, name: str, message: str) -> None:
    radar(site, "observers", NAMES, OBSERVER)
    answer = unlabel("train", "toy/echo", "--recipe", "tiny", "--out", "run", "--observe", name)
    assert answer.code == 2
    assert f"error: {message}" in answer.err
    assert not Path("run").exists()


def test_hook_observers_must_name_observers(site: Path) -> None:
    radar(site, "observers", {"radar/function": "print"}, "print = print\n")
    answer = unlabel("train", "toy/echo", "--recipe", "tiny", "--out", "run", "--observe", "radar/function")
    assert (answer.code, Path("run").exists()) == (2, False)
    assert "observer 'radar/function' of plugin 'radar' is no subclass of unlabel.Observer: <built-in" in answer.err


OLD = """
from unlabel import Moved, hookimpl

@hookimpl
def tasks():
    return {"radar/sweep": "radar_plugin.things:Sweep", "radar/turn": Moved("radar/sweep", removed_in="7")}

@hookimpl
def encoders():
    return {"radar/dish": "toysonar.echo:linear", "radar/bowl": Moved("radar/dish", removed_in="7")}

@hookimpl
def datasets():
    return {"radar/sky": "toysonar.pings:Pings", "radar/air": Moved("radar/sky", removed_in="7")}

@hookimpl
def commands():
    return {"sweep": "radar_plugin.commands:sweep", "spin": Moved("sweep", removed_in="7")}
"""


@pytest.mark.slow
def test_old_names_work_wherever_names_do_and_are_mentioned_once(site: Path) -> None:
    write(site, "radar", OLD, modules={"things": TASK, "commands": COMMAND})

    def said(kind: str, old: str, new: str) -> str:
        return f"warning: {kind} radar/{old} is now called radar/{new}; unlabel-radar 7 will not know the old name"

    task, encoder, dataset = (
        said("task", "turn", "sweep"),
        said("encoder", "bowl", "dish"),
        said("dataset", "air", "sky"),
    )
    words = ["--recipe", "tiny", "--steps", 2, "--no-evaluate", "--out"]

    answer = unlabel("train", "radar/turn", "--data", "radar/air", "--encoder", "radar/bowl", *words, "run")
    assert answer.code == 0
    assert [line for line in answer.err.splitlines() if "warning" in line] == [task, encoder, dataset]
    recipe = json.loads(Path("run/recipe.json").read_text())
    assert [recipe[part]["name"] for part in ("task", "dataset", "encoder")] == [
        "radar/sweep",
        "radar/sky",
        "radar/dish",
    ]

    text = Path("run/recipe.json").read_text()  # as an older release would have written it
    for new, old in (("sweep", "turn"), ("sky", "air"), ("dish", "bowl")):
        text = text.replace(f"radar/{new}", f"radar/{old}")
    Path("old.json").write_text(text)
    for name in ("radar/turn", "radar/sweep"):
        answer = unlabel("train", name, *words, name.replace("/", "-"), "--recipe", "old.json", "--steps", 2)
        assert answer.code == 0, answer.err
        assert sorted(line for line in answer.err.splitlines() if "warning" in line) == sorted([task, encoder, dataset])
    resumed = unlabel("resume", "radar-turn")
    assert resumed.code == 0
    assert resumed.err.count(task) == 1

    assert json.loads(unlabel("show", "radar/turn", "--json").out)["name"] == "radar/sweep"
    assert unlabel("show", "radar/turn", "--json").err == task + "\n"
    assert json.loads(unlabel("inspect", "radar/air", "--json").out)["dataset"] == "radar/sky"
    spun = unlabel("spin", 90)
    assert (spun.code, spun.out) == (0, "90.0\n")
    assert spun.err == "warning: command spin is now called sweep; unlabel-radar 7 will not know the old name\n"
    assert "radar/turn" not in unlabel("list").out
    assert "radar/turn" not in json.dumps(json.loads(unlabel("plugins", "--json").out))
