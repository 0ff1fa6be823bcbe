"""Every block of the documents is run, as a reader would, page by page from top to bottom.

What a fence means:

- ``python title="PATH"`` (or any language with a title): the block is the content of that file;
- ``python``, ``pycon``: run in one namespace a page, and tests that are defined there at its end; a pycon's answers
  must come out;
- ``console``: lines that begin with ``$`` are typed in a shell, and what follows must be the answer;
- ``bash``: typed line by line, and must succeed.

Other languages are refused. Answers are compared word by word; numbers may differ, since times do, and learning rounds
differently on another processor. Lines about progress, processor and health are left out for the same reason, and a
line ``...`` stands for any number of lines.

Pages on which something is installed or tested run in a temporary environment with the core's wheel and nothing else;
of the others, ``unlabel`` runs in this process, which takes a fraction of the time. To write the answers anew after
a change: ``UNLABEL_WRITE_ANSWERS=1 python -m pytest tests/repository/test_guide.py``.
"""

from __future__ import annotations

import doctest
import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import commandline
import pytest
from environments import Environment

from unlabel.catalog import hookspecs

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "plugins"
FIRST = GUIDE / "first.md"
WRITE = "UNLABEL_WRITE_ANSWERS" in os.environ

NOT_RUN = {
    "twine upload": "publishes",
    "pip install ./core": "what the environment is made of",
    "unlabel train vision/mae --recipe quick": "takes minutes; its outcome is the picture on that page",
    "torchrun": "tests/vision/test_processes.py",
}
"""Beginnings of commands that are shown and not run, and why."""


OURS = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
    "PIP_NO_INDEX": "1",
    "PIP_NO_BUILD_ISOLATION": "0",  # which is pip's way of asking for none
}
"""The shell's variables where no environment was made: this interpreter's programs, and no network."""


@dataclass(frozen=True)
class Block:
    """A fenced block: language, title if it has one, content, and where the content begins: character and line."""

    language: str
    title: str
    text: str
    place: int
    line: int


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found, text = [], page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        title = re.search(r'title="([^"]+)"', match[2])
        found.append(
            Block(
                match[1], title[1] if title else "", match[3], match.start(3), text.count("\n", 0, match.start(3)) + 1
            )
        )
    return found


def write_files(page: Path, folder: Path) -> list[Path]:
    """Write the titled blocks of a page below a folder."""
    written = []
    for block in blocks(page):
        if block.title:
            path = folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            written.append(path)
    return written


class Shell:
    """Types commands in a temporary environment, or, without one, in this process: nothing is imported anew then."""

    def __init__(self, here: Path, environment: Environment | None = None) -> None:
        self.here, self.environment = here, environment

    def __call__(self, line: str) -> tuple[int, str]:
        """Exit code and everything printed; the reader's folder is called /home/you."""
        code, text = self._typed(line) if self.environment or not line.startswith("unlabel ") else self._called(line)
        return code, text.replace(str(self.here), "/home/you")

    def _typed(self, line: str) -> tuple[int, str]:
        variables = self.environment.variables if self.environment else OURS
        answer = subprocess.run(
            ["bash", "-c", line],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            cwd=self.here,
            env={**variables, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "100"},
            timeout=300,
        )
        return answer.returncode, answer.stdout

    def _called(self, line: str) -> tuple[int, str]:
        forget("unlabel_audio")  # its files may have changed
        code, out, err = commandline.unlabel(*shlex.split(line)[1:])
        return code, err + out


def forget(package: str) -> None:
    """Make the next import of a package read its files again."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


def dialogue(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the answer that is shown."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        yield command, shown


def comparable(answer: str) -> list[str]:
    """Lines of an answer without those that depend on the machine, empty lines, numbers, and the width of columns."""
    plain = (re.sub(r"\d[\d,]*(\.\d+)?(e[-+]?\d+)?", "0", line) for line in answer.splitlines())
    lines = (" ".join(line.replace(" (0:0:0)", "").split()) for line in plain)  # as pytest adds after a minute
    return [line for line in lines if line and not re.match(r"update 0/0|engine |health |[.s]+ \[0%\]", line)]


def agree(shown: str, real: str) -> bool:
    """Whether what is shown is what came out."""
    wanted, found = comparable(shown), comparable(real)
    if "..." not in wanted:
        return wanted == found
    pattern = "".join("*" if line == "..." else line.replace("[", "[[]") + "\n" for line in wanted)
    return fnmatchcase("".join(line + "\n" for line in found), pattern.replace("?", "[?]"))


def play(page: Path, shell: Shell, here: Path) -> None:
    """Run a page from top to bottom."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    written: dict[int, tuple[str, str]] = {}
    text = page.read_text(encoding="utf-8")
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.title:
            path = here / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True), namespace)
        elif block.language == "pycon":
            answers(block, namespace, where)
        elif block.language == "bash":
            for line in filter(None, block.text.splitlines()):
                if not line.startswith(tuple(NOT_RUN)):
                    code, real = shell(line.partition("  #")[0])
                    assert code == 0, f"{where}: {line}\n{real}"
        elif block.language == "console":
            anew = ""
            for command, shown in dialogue(block):
                code, real = shell(command)
                assert code == 0 or re.search("error:|FAILED", shown), f"{where}: {command} ended with {code}:\n{real}"
                if not WRITE:
                    assert agree(shown, real), f"{where}: {command} (exit code {code}) answered\n{real}\nnot\n{shown}"
                abridged = re.search(r"^\.\.\.$", shown, re.MULTILINE) and agree(shown, real)
                anew += f"$ {command}\n" + (shown if abridged else trimmed(real))
            written[block.place] = (block.text, anew)
        else:
            pytest.fail(f"{where}: blocks in {block.language or 'no language'} cannot be run")
    for name, made in list(namespace.items()):
        if name.startswith("test_") and inspect.isfunction(made) and not inspect.signature(made).parameters:
            made()
    if WRITE:
        for place, (before, anew) in sorted(written.items(), reverse=True):
            text = text[:place] + anew + text[place + len(before) :]
        page.write_text(text, encoding="utf-8")


def trimmed(answer: str) -> str:
    """An answer without blanks at the ends of its lines."""
    return "".join(f"{line.rstrip()}\n" for line in answer.splitlines())


def answers(block: Block, namespace: dict[str, object], where: str) -> None:
    """Run an interactive block; every answer must be as shown."""
    test = doctest.DocTestParser().get_doctest(block.text, namespace, where, str(where), 0)
    test.globs = namespace  # the parser takes a copy
    report: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append, clear_globs=False)
    assert not report, "".join(report)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    folder = tmp_path / "here"
    folder.mkdir(exist_ok=True)  # it is also the temporary environment's, if there is one
    monkeypatch.chdir(folder)
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))  # not the one of whoever runs the tests
    return folder


@pytest.fixture
def audio(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The tutorial's package, written out, and known to this process as the only plugin."""
    site = tmp_path / "known"
    site.mkdir()
    write_files(FIRST, here)
    commandline.install(site, "audio", "unlabel_audio.plugin")
    monkeypatch.syspath_prepend(str(here / "unlabel-audio" / "src"))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("UNLABEL_PLUGINS", "audio")
    yield
    forget("unlabel_audio")


def named(paths: Iterable[Path]) -> list[Any]:
    """Pages as parameters of a test."""
    return [pytest.param(path, id=str(path.relative_to(ROOT).with_suffix(""))) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize("page", named([FIRST, GUIDE / "contract.md", ROOT / "core" / "README.md"]))
def test_what_the_author_types_works_in_an_environment_with_nothing_but_the_core(
    page: Path, environment: Environment, here: Path, audio: None
) -> None:
    """The tutorial starts from nothing; pip really installs its package, and the page goes on from there."""
    shell = Shell(here, environment)
    if page.name == "contract.md":
        shell("pip install -q -e ./unlabel-audio")
    play(page, shell, here)


@pytest.mark.slow
@pytest.mark.parametrize("page", named(sorted({*GUIDE.glob("*.md")} - {FIRST, GUIDE / "contract.md"})))
def test_the_guide_does_what_it_says(page: Path, here: Path, audio: None) -> None:
    play(page, Shell(here), here)


@pytest.fixture
def photos(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of pictures as a practitioner might have, one of them damaged."""
    image, photos_of = pytest.importorskip("PIL.Image"), pytest.importorskip("unlabel_vision.datasets.photos")
    monkeypatch.setenv("UNLABEL_PLUGINS", "vision")
    source = photos_of.Photos(crop=48)
    for kind in range(4):
        folder = here / "photos" / source.classes[kind]
        folder.mkdir(parents=True)
        for number, index in enumerate((source.labels == kind).nonzero()[0][:20]):
            image.fromarray(source[int(index)]["image"]).save(folder / f"{number:03}.jpg")
    (here / "photos" / source.classes[0] / "020.jpg").write_bytes(b"\xff\xd8 torn")


@pytest.mark.slow
@pytest.mark.parametrize("page", named(sorted((ROOT / "docs").glob("*.md"))))
def test_the_practitioners_pages_do_what_they_say(page: Path, here: Path, photos: None) -> None:
    play(page, Shell(here), here)


def test_hooks_are_documented_with_their_arguments_and_what_they_return() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| `(.+)` \|$", FIRST.read_text(encoding="utf-8"), re.MULTILINE)
    real = []
    for name in hookspecs.HOOKS:
        signature = inspect.signature(getattr(hookspecs, name))
        real.append((name, ", ".join(signature.parameters) or "none", signature.return_annotation))
    assert rows == real
