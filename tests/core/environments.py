"""Real temporary environments: a virtual environment with the core's wheel in it, installed by pip, and no plugin.

    def test_it(environment, tmp_path):                      # the fixture is in tests/conftest.py
        path = environments.project(tmp_path, "sonar", plugin="raise RuntimeError('no water')")
        environment.install(path)                            # sources or wheels; really with pip, about a second
        answer = environment.run("unlabel", "list")          # -> Answer(code, out, err), in an empty folder
        assert answer.code == 0

Each test gets an environment of its own (0.1 s), copied from one that is made once a test session (3 s). Third-party
libraries are those of the interpreter that runs the tests, behind symbolic links: nothing is downloaded or installed
twice, and no network is needed. `environment.here` is the commands' folder, `environment.variables` what they see of
the shell's variables; ``unlabel``, ``python``, ``pip`` and ``pytest`` can be run, and ``pip install ./x`` works as
typed. Building needs hatchling, and ``pip install -e`` editables, in the environment of the tests.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from textwrap import dedent, indent

from commandline import Answer

__all__ = ["CORE", "Environment", "clone", "project", "template"]

CORE = Path(__file__).resolve().parents[2] / "core"


class Environment:
    """A virtual environment below `folder`, and an empty folder beside it to run commands in.

    Attributes:
        folder: the environment.
        here: where commands run.
        variables: of the shell; changing them changes what later commands see.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.here = folder, folder.parent / "here"
        ours = ("PYTHON", "PYTEST", "PIP_", "UNLABEL")
        # CI and BUILD_NUMBER: pytest prints longer lines where they are set than an author's terminal shows.
        dropped = {"CI", "BUILD_NUMBER"}
        kept = {name: v for name, v in os.environ.items() if not name.startswith(ours) and name not in dropped}
        self.variables = kept | {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(folder),
            "OMP_NUM_THREADS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of `build_isolation`: this means no isolation
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    @property
    def site(self) -> Path:
        """Its folder of installed packages."""
        [found] = self.folder.glob("lib/python*/site-packages")
        return found

    def run(self, *words: object, timeout: float = 300) -> Answer:
        """Exit code, standard output and error of a command of this environment, run in `here`."""
        command = [str(self.folder / "bin" / str(words[0])), *map(str, words[1:])]
        answer = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=self.here, env=self.variables, timeout=timeout
        )
        return Answer(answer.returncode, answer.stdout, answer.stderr)

    def install(self, *paths: Path) -> None:
        """Install source folders or wheels with pip, all at once, without what they require."""
        with tempfile.TemporaryDirectory() as wheels:
            found = [path if path.suffix == ".whl" else wheel(path, Path(wheels)) for path in paths]
            _checked([self.folder / "bin" / "pip", "install", "-q", "--no-deps", *found], self.variables)


def project(
    folder: Path,
    name: str,
    plugin: str,
    *,
    modules: Mapping[str, str] | None = None,
    requires: Iterable[str] = ("unlabel",),
    version: str = "0.1",
    distribution: str | None = None,
    entry: str | None = None,
) -> Path:
    """Write the sources of a small distribution, package ``unlabel_<name>``, and return their folder.

    Args:
        folder: where; its name will be the distribution's.
        name: name of the entry point, which is the plugin's.
        plugin: source of the package's ``plugin.py``.
        modules: further modules of the package: name -> source.
        requires: requirement lines.
        version: of the distribution.
        distribution: its name, if not ``unlabel-<name>``.
        entry: target of the entry point, if not ``unlabel_<name>.plugin``.
    """
    distribution = distribution or f"unlabel-{name}"
    root, package = folder / distribution, distribution.replace("-", "_")
    sources = root / "src" / package
    sources.mkdir(parents=True)
    (sources / "__init__.py").write_text("")
    for module, source in {"plugin": plugin, **(modules or {})}.items():
        (sources / f"{module}.py").write_text(dedent(source))
    (root / "pyproject.toml").write_text(
        f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "{version}"
dependencies = {list(requires)!r}

[project.entry-points.unlabel]
{name} = "{entry or f"{package}.plugin"}"
"""
    )
    return root


def wheel(source: Path, into: Path) -> Path:
    """Build the wheel of a source folder."""
    into = Path(tempfile.mkdtemp(dir=into))  # of its own, so that its only file is the wheel
    _checked([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", into], dict(os.environ), source)
    [found] = into.iterdir()
    return found


def template(folder: Path) -> Path:
    """Make the environment that others are copied from, once, whichever of several processes comes first.

    Args:
        folder: the test session's, shared by its processes.

    Returns:
        The template's folder.
    """
    done = folder / "template"
    with (folder / "template.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            made, links = folder / "template.making", folder / "libraries"
            shutil.rmtree(made, ignore_errors=True)
            _link_libraries(links)
            _checked([sys.executable, "-m", "venv", "--without-pip", made], dict(os.environ))
            environment = Environment(made)
            (environment.site / "libraries.pth").write_text(f"{links}\n")
            for name in ("pip", "pytest"):
                script = made / "bin" / name
                # with an installer's guard: the processes that multiprocessing starts import the script again
                call = f"import runpy\n    runpy.run_module({name!r}, run_name='__main__')"
                script.write_text(f"#!{made / 'bin' / 'python'}\nif __name__ == '__main__':\n    {call}\n")
                script.chmod(0o755)
            environment.install(CORE)
            made.rename(done)
    return done


def clone(template: Path, folder: Path) -> Environment:
    """Copy an environment to ``folder/environment``, with its scripts naming their new place."""
    environment = Environment(folder / "environment")
    shutil.copytree(template, environment.folder, symlinks=True)
    environment.here.mkdir()
    old = f"#!{template.with_suffix('.making') / 'bin'}/"
    for script in (environment.folder / "bin").iterdir():
        if not script.is_symlink() and script.read_text().startswith(old):
            script.write_text(script.read_text().replace(old, f"#!{environment.folder / 'bin'}/", 1))
    return environment


def _link_libraries(links: Path) -> None:
    """Symbolic links to everything installed for this interpreter that is not ours and no plugin of ours."""
    links.mkdir(exist_ok=True)
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for item in Path(place).iterdir():
            ours = "unlabel" in item.name.lower() or _offers_to_us(item)
            if not ours and item.suffix != ".pth" and item.name != "__pycache__" and not (links / item.name).exists():
                (links / item.name).symlink_to(item)


def _offers_to_us(item: Path) -> bool:
    entries = item / "entry_points.txt"
    return item.suffix == ".dist-info" and entries.is_file() and "[unlabel]" in entries.read_text()


def _checked(words: list[object], variables: dict[str, str], where: Path | None = None) -> None:
    """Run a command that is no part of the test; if it fails, its words are the test's failure."""
    answer = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, env=variables, cwd=where
    )
    if answer.returncode:
        shown = indent(answer.stdout + answer.stderr, "  ")
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {answer.returncode}:\n{shown}")
