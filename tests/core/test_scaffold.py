"""`unlabel new-plugin`: what it refuses, what it leaves when it is stopped, and what it writes."""

from __future__ import annotations

import ast
import errno
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import commandline
import pytest
from commandline import unlabel
from distributions import offering, write

import unlabel as core
from unlabel.scaffold import plugin

WRITTEN = {
    ".github/workflows/tests.yml",
    ".gitignore",
    "README.md",
    "pyproject.toml",
    "src/unlabel_sonar/__init__.py",
    "src/unlabel_sonar/calls.py",
    "src/unlabel_sonar/order.py",
    "src/unlabel_sonar/plugin.py",
    "src/unlabel_sonar/py.typed",
    "src/unlabel_sonar/windows.py",
    "tests/test_contract.py",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the import path, to install things into."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def refused(*words: object) -> str:
    """What a usage error says; it has exit code 2, prints no result and shows no traceback."""
    answer = unlabel("new-plugin", *words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert "Traceback" not in answer.err
    return answer.err


# What it writes


def test_everything_is_written_and_listed(here: Path) -> None:
    answer = unlabel("new-plugin", "sonar")

    written = {path.relative_to(here / "unlabel-sonar") for path in here.rglob("*") if path.is_file()}
    assert {path.as_posix() for path in written} == WRITTEN
    assert answer.code == 0
    assert answer.err == ""
    lines = answer.out.splitlines()
    assert lines[0] == "unlabel-sonar/"
    assert {line.strip() for line in lines[1 : lines.index("")]} == WRITTEN
    assert list(here.iterdir()) == [here / "unlabel-sonar"], "nothing else is left"


def test_the_next_commands_are_printed_as_a_shell_takes_them(here: Path) -> None:
    (here / "my plugins").mkdir()

    answer = unlabel("new-plugin", "sonar", "--into", "my plugins")

    assert answer.out.partition("Next:\n")[2].splitlines() == [
        "  pip install -e './my plugins/unlabel-sonar[test]'",
        "  pytest './my plugins/unlabel-sonar'",
        "  unlabel train sonar/order --recipe quick --out runs/sonar",
        "  unlabel evaluate runs/sonar",
    ]
    assert plugin.commands("sonar", Path("/abs/unlabel-sonar"))[1] == "pytest /abs/unlabel-sonar"


def test_the_requirement_admits_this_minor_version_of_the_core_only() -> None:
    project = tomllib.loads(plugin.files("sonar")[PurePosixPath("pyproject.toml")])["project"]

    major, minor = (int(part) for part in core.__version__.split(".")[:2])
    assert project["dependencies"] == [f"unlabel>={major}.{minor},<{major}.{minor + 1}"]
    assert project["name"] == "unlabel-sonar"
    assert project["entry-points"]["unlabel"] == {"sonar": "unlabel_sonar.plugin"}


def test_the_contract_test_is_three_lines() -> None:
    text = plugin.files("sonar")[PurePosixPath("tests/test_contract.py")]
    assert text == (
        'from unlabel.testing import contract\n\n\n@contract("sonar")\ndef test_contract(check):\n    check()\n'
    )


@pytest.mark.parametrize("name", ["x", "sonar", "a_2", "long_name_of_thirty_characters"])
def test_what_is_written_is_complete_whatever_the_name(name: str) -> None:
    for path, text in plugin.files(name).items():
        assert not re.search(r"NAME|CORE|NEXT|dot-|\.txt", f"{path} {text}"), path
        assert path.suffix == ".md" or max((len(line) for line in text.splitlines()), default=0) <= 120, path
        if path.suffix == ".py" and path.name != "test_contract.py":
            tree = ast.parse(text)
            assert ast.get_docstring(tree), path
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    bare = [a.arg for a in [*node.args.args, *node.args.kwonlyargs] if a.annotation is None]
                    assert bare in ([], ["self"])
                    assert node.returns is not None
    names = re.findall(r'"([^"]+)": "([^"]+)"', plugin.files(name)[PurePosixPath(f"src/unlabel_{name}/plugin.py")])
    assert [offered for offered, _ in names] == [f"{name}/order", f"{name}/windows", f"{name}/calls"]
    for _, target in names:
        module, _, attribute = target.partition(":")
        source = plugin.files(name)[PurePosixPath("src", *module.split(".")).with_suffix(".py")]
        assert f"class {attribute}(" in source


def test_the_task_is_sixty_lines_at_most() -> None:
    assert len(plugin.files("sonar")[PurePosixPath("src/unlabel_sonar/order.py")].splitlines()) <= 60


def test_the_readme_names_files_that_are_there_and_five_commands() -> None:
    found = plugin.files("sonar")
    readme = found[PurePosixPath("README.md")]

    named = set(re.findall(r"`((?:src|tests)/[\w/.]+)`", readme))
    assert named == {path for path in WRITTEN if path.endswith(".py") and "__init__" not in path}
    block = readme.partition("```bash\n")[2].partition("```")[0]
    assert len(block.splitlines()) == 5


# What it refuses


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Sonar", "lower-case letters, digits and single underscores, beginning with a letter"),
        ("Sonar", "did you mean sonar?"),
        ("my-radar", "did you mean my_radar?"),
        ("unlabel-sonar", "did you mean sonar?"),
        ("unlabel_sonar", "did you mean sonar?"),
        ("sonar/order", "did you mean sonar_order?"),
        ("../sonar", "did you mean sonar?"),
        ("2d", "beginning with a letter"),
        ("_x", "did you mean x?"),
        ("x_", "did you mean x?"),
        ("a__b", "did you mean a_b?"),
        ("größe", "lower-case letters"),
        ("", "'' cannot be a plugin's name"),
        ("a" * 31, "at most 30"),
        ("lambda", "one of Python's keywords"),
        ("signal", "a module of Python's standard library"),
        ("core", "kept for unlabel itself"),
        ("unlabel", "without 'unlabel'"),
        ("test", "kept for unlabel itself"),
        ("vision", "unlabel-vision"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused_with_the_reason(here: Path, name: str, words: str) -> None:
    assert words in refused("--", name)
    assert list(here.iterdir()) == []


def test_a_name_of_an_installed_plugin_is_refused(here: Path, site: Path) -> None:
    write(site, "sonar", offering("tasks", {"sonar/echo": "sonar_plugin.echo:Echo"}))

    assert "plugin 'sonar' of unlabel-sonar already goes by 'sonar'" in refused("sonar")


def test_a_broken_plugin_keeps_its_name(here: Path, site: Path) -> None:
    write(site, "sonar", "raise RuntimeError('no water')")

    assert "already goes by 'sonar'" in refused("sonar")


def test_a_plugin_that_is_kept_from_being_loaded_keeps_its_name(
    here: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(site, "sonar", offering("tasks", {"sonar/echo": "sonar_plugin.echo:Echo"}), distribution="depth-finder")
    monkeypatch.setenv("UNLABEL_PLUGINS", "")

    assert "a plugin 'sonar' is already installed (sonar_plugin.plugin)" in refused("sonar")


def test_a_distribution_of_the_same_name_is_refused_however_it_is_spelt(here: Path, site: Path) -> None:
    write(site, "depth", offering("tasks", {"depth/echo": "depth_plugin.echo:Echo"}), distribution="Unlabel.My-Sonar")

    assert "a distribution Unlabel.My-Sonar is already installed" in refused("my_sonar")


def test_a_package_that_can_be_imported_is_refused(here: Path, site: Path) -> None:
    (site / "unlabel_sonar.py").write_text("raise RuntimeError('not to be imported for this')")

    assert f"a package unlabel_sonar can already be imported from {site}/unlabel_sonar.py" in refused("sonar")


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "link to nowhere"])
def test_what_is_already_there_is_never_overwritten(here: Path, kind: str) -> None:
    target = here / "unlabel-sonar"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link to nowhere":
        target.symlink_to(here / "nowhere")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "mine").write_text("mine")

    assert "unlabel-sonar already exists and is never overwritten" in refused("sonar")
    assert [path.name for path in here.iterdir()] == ["unlabel-sonar"]
    assert kind != "folder" or (target / "mine").read_text() == "mine"


def test_the_folder_to_write_into_must_be_one(here: Path) -> None:
    (here / "file").write_text("")

    assert "--into nowhere does not exist; give an existing folder" in refused("sonar", "--into", "nowhere")
    assert "--into file is a file; give an existing folder" in refused("sonar", "--into", "file")


def test_a_folder_that_cannot_be_written_to_is_refused(here: Path) -> None:
    locked = here / "locked"
    locked.mkdir(mode=0o555)
    if os.geteuid() == 0:  # who may write anywhere, but makes no folders here
        locked = Path("/proc/self")

    assert f"--into {locked} cannot be written to: " in refused("sonar", "--into", locked)


# What is left when it is stopped


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(here: Path) -> None:
    """For want of a disk to fill, the system refuses files of more than a thousand bytes, in the middle of one."""
    code = (
        "import resource, signal, sys\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from unlabel import cli\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "sys.argv = ['unlabel', 'new-plugin', 'sonar']\ncli.main()"
    )
    answer = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=False)

    assert answer.returncode == 1
    assert "unlabel-sonar could not be written, and nothing is left of it" in answer.stderr
    assert os.strerror(errno.EFBIG) in answer.stderr
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_kill_leaves_no_half_plugin_and_the_next_try_clears_up(here: Path) -> None:
    """Its third file is made a pipe that nobody reads, so that it waits in the middle to be killed."""
    code = (
        "import os, pathlib, sys\nfrom unlabel import cli\nmade = pathlib.Path.write_text\ncount = []\n"
        "def slow(self, *words, **named):\n"
        "    count.append(self)\n"
        "    if len(count) == 3:\n"
        "        print('here', flush=True)\n"
        "        os.mkfifo(self)\n"
        "    return made(self, *words, **named)\n"
        "pathlib.Path.write_text = slow\nsys.argv = ['unlabel', 'new-plugin', 'sonar']\ncli.main()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    [left] = here.iterdir()
    assert left.name.startswith(".unlabel-sonar.")
    assert left.name.endswith(".writing")

    assert commandline.unlabel("new-plugin", "sonar").code == 0
    assert [path.name for path in here.iterdir()] == ["unlabel-sonar"]
    assert (here / "unlabel-sonar/.gitignore").is_file()
