"""The command line, run in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from unlabel import cli


class Answer(NamedTuple):
    """Exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def unlabel(*words: object) -> Answer:
    """What a command answers."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["unlabel", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
    return Answer(stopped.value.code, out.getvalue(), err.getvalue())


def install(site: Path, name: str, module: str) -> None:
    """Make a module that can be imported already known as plugin `name`, as an installer would."""
    metadata = site / f"unlabel_{name}-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: unlabel-{name}\nVersion: 0.1\nRequires-Dist: unlabel\n"
    )
    (metadata / "entry_points.txt").write_text(f"[unlabel]\n{name} = {module}\n")
