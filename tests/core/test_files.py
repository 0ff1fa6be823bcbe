"""Files and folders are whole or not there, whatever interrupts the writing, and nothing half written stays."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from unlabel.storage import files
from unlabel.storage.files import write_whole, writing, writing_folder

BEGINS_TO_WRITE = """
import os, sys, pathlib
from unlabel.storage import files
with files.{how}(pathlib.Path({path!r})) as aside:
    {write}
    print("here", flush=True)
    sys.stdin.read()
"""
FILE = {"how": "writing", "write": "aside.write_text('half')"}
FOLDER = {"how": "writing_folder", "write": "(aside / 'one').write_text('half')"}


def killed(path: Path, how: dict[str, str]) -> None:
    """A process that is killed while it writes `path`."""
    code = BEGINS_TO_WRITE.format(path=str(path), **how)
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    process.stdin.close()


@contextmanager
def full_disk(size: int = 100) -> Iterator[None]:
    """No file can become larger than this."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


@pytest.fixture(autouse=True)
def _another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is as a process of its own: it has not looked for leftovers yet."""
    monkeypatch.setattr(files, "_swept", set())


@pytest.mark.parametrize("content", ["text: \u00e9\n", b"\x00bytes\r\n", ""])
@pytest.mark.parametrize("sync", [False, True])
def test_a_file_holds_what_was_written_and_nothing_stays_beside_it(tmp_path: Path, content: str, sync: bool) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_whole(path, content, sync=sync)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_the_old_content_is_there_until_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with writing(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
        assert aside.parent == path.parent  # renaming between file systems is no renaming
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with pytest.raises(error), writing(path) as aside:  # noqa: PT012
        aside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_whole(path, "x" * 1000)
    with full_disk(), pytest.raises(OSError, match="File too large"), writing_folder(tmp_path / "f") as aside:
        (aside / "b").write_text("x" * 1000)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("how", [FILE, FOLDER], ids=["file", "folder"])
def test_a_kill_leaves_the_old_and_the_next_write_clears_up(tmp_path: Path, how: dict[str, str]) -> None:
    (tmp_path / "other").write_text("old")
    killed(tmp_path / "new", how)
    assert not (tmp_path / "new").exists()
    assert len(os.listdir(tmp_path)) == 2  # what was being written is still there
    write_whole(tmp_path / "other", "new")
    assert os.listdir(tmp_path) == ["other"]


def test_what_others_are_writing_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a process that lives, of another host, and files that only look alike."""
    with writing(tmp_path / "a") as aside:
        ours = aside.name
        aside.write_text("ours")
        number = re.sub(r"-\d+-", f"-{os.getppid()}-", ours)
        another = re.sub(r"\.[0-9a-f]{6}-\d+-", ".000000-4194399-", ours)
        for name in (number, another, ".a.writing", "a.000000-1-0.writing"):
            (tmp_path / name).write_text("theirs")
        monkeypatch.setattr(files, "_swept", set())
        write_whole(tmp_path / "b", "b")
        assert sorted(os.listdir(tmp_path)) == sorted(
            [ours, number, another, ".a.writing", "a.000000-1-0.writing", "b"]
        )

    os.utime(tmp_path / another, (0, 0))  # of a host that does not answer any more
    monkeypatch.setattr(files, "_swept", set())
    write_whole(tmp_path / "b", "b")
    assert not (tmp_path / another).exists()


def test_a_dead_process_that_had_our_number_is_cleared_up_after(tmp_path: Path) -> None:
    """In containers the program is process 1 each time."""
    with writing(tmp_path / "a") as aside:
        aside.write_text("a")
        before = aside.name
    left = tmp_path / re.sub(r"-\d+\.writing", "-999999.writing", before)
    left.write_text("half")
    files._swept.clear()
    write_whole(tmp_path / "b", "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def write_often(path: Path, letter: str) -> None:
    for _ in range(200):
        write_whole(path, letter * 10_000)


def test_several_processes_may_write_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=write_often, args=(path, letter)) for letter in "ab"]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        if path.exists():
            content = path.read_text()
            assert content in ("a" * 10_000, "b" * 10_000)
    assert [process.exitcode for process in processes] == [0, 0]
    assert os.listdir(tmp_path) == ["a"]


def test_two_writers_in_one_process_do_not_share_a_name(tmp_path: Path) -> None:
    with writing(tmp_path / "a") as first:
        first.write_text("first")
        write_whole(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"


def test_long_names_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("\u00e9" * 127)  # 254 bytes of at most 255
    write_whole(path, "x")
    assert path.read_text() == "x"


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with writing_folder(path, sync=True) as aside:
        (aside / "deep").mkdir()
        (aside / "deep/one").write_text("1")
        assert not path.exists()
    assert (path / "deep/one").read_text() == "1"
    with pytest.raises(FileExistsError), writing_folder(path) as aside:
        (aside / "two").write_text("2")
    assert os.listdir(tmp_path) == ["f"]
    assert os.listdir(path) == ["deep"]


def test_a_folder_that_is_replaced_gives_way_to_a_whole_one_only(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(ValueError, match="no"), writing_folder(path, replace=True) as aside:  # noqa: PT012
        (aside / "new").write_text("half")
        raise ValueError("no")
    assert os.listdir(path) == ["old"]
    with writing_folder(path, replace=True) as aside:
        (aside / "new").write_text("new")
        assert os.listdir(path) == ["old"]
    assert os.listdir(path) == ["new"]
    assert os.listdir(tmp_path) == ["f"]


def test_a_folder_whose_replacement_was_killed_half_way_comes_back(tmp_path: Path) -> None:
    """Between the two renames; the second kill comes after both, before the old one was removed."""
    with writing_folder(tmp_path / "f") as aside:
        (aside / "old").write_text("old")
    left = aside.with_suffix(".replaced")
    left = left.with_name(re.sub(r"-\d+-", "-4194399-", left.name))  # beyond the largest process number
    (tmp_path / "f").rename(left)
    files._swept.clear()
    write_whole(tmp_path / "a", "x")
    assert (tmp_path / "f/old").read_text() == "old"

    left.mkdir()
    files._swept.clear()
    write_whole(tmp_path / "a", "x")
    assert sorted(os.listdir(tmp_path)) == ["a", "f"]
