"""A run is written by one process at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unlabel import UsageError
from unlabel.storage import lock

HOLDER = """
import os, pathlib, signal, sys
from unlabel.storage import lock

with lock.held(pathlib.Path(sys.argv[1])):
    if "forking" in sys.argv:
        child = os.fork()
        if not child:
            signal.pause()
        print(child, flush=True)
    print("held", flush=True)
    signal.pause()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_folder_that_another_process_holds_is_refused_and_named(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    assert lock.holder(tmp_path) == f"another process ({other.pid})"
    with pytest.raises(UsageError, match=rf"another process \({other.pid}\)"), lock.held(tmp_path):
        pass


def test_a_lock_ends_with_the_process_that_was_killed(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with lock.held(tmp_path):
        pass
    assert lock.holder(tmp_path) is None


def test_what_nobody_holds_is_free_and_stays_free_of_files(tmp_path: Path) -> None:
    assert lock.holder(tmp_path) is None
    with lock.held(tmp_path):
        pass
    with lock.held(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_forked_process_does_not_keep_the_lock_of_one_that_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path), "forking"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        try:
            assert process.stdout.readline() == "held\n"
            assert lock.holder(tmp_path) == f"another process ({process.pid})"
            process.kill()
            process.wait()
            os.kill(child, 0)  # it is still there
            assert lock.holder(tmp_path) is None
        finally:
            os.kill(child, signal.SIGKILL)
