"""One process at a time writes a run: the operating system's lock on its folder, which leaves no file.

The lock ends with the process that holds it, however it ends, so that a killed run never has to be unlocked by hand.
Where folders cannot be locked (Windows, some network file systems), nothing is locked and nothing refused.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

from unlabel.errors import UsageError

__all__ = ["held", "holder"]


_mine: set[int] = set()
"""Descriptors of folders that this process holds."""


def _let_go() -> None:
    """In a forked process, such as a loader's: it would keep the lock beyond the end of the one that holds it."""
    for opened in _mine:
        with contextlib.suppress(OSError):
            os.close(opened)
    _mine.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder`, which exists, while this is entered.

    Raises:
        UsageError: another process holds it; its number is said where the system tells.
    """
    opened = _open(folder)
    try:
        if opened is not None and not _lock(opened):
            raise UsageError(
                f"{shlex.quote(str(folder))} is being written by another process{_number(opened)}: "
                "wait until it ends, or stop it"
            )
        if opened is not None:
            _mine.add(opened)
        yield
    finally:
        if opened is not None:
            _mine.discard(opened)
            os.close(opened)  # which gives the lock back


def holder(folder: Path) -> str | None:
    """Who holds `folder`: ``another process (N)``; None if nobody does, or if that cannot be known."""
    if (opened := _open(folder)) is None:
        return None
    try:
        return None if _lock(opened) else f"another process{_number(opened)}"
    finally:
        os.close(opened)


def _open(folder: Path) -> int | None:
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:  # not there, or a system where folders are not opened
        return None


def _lock(opened: int) -> bool:
    """Whether nobody else has it; it is ours then."""
    try:
        import fcntl
    except ImportError:  # no such thing on Windows
        return True
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _number(opened: int) -> str:
    """`` (1234)``, the process that holds a lock; empty where the system does not list them."""
    status = os.fstat(opened)
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            columns = line.split()  # 1: FLOCK ADVISORY WRITE 4711 fe:00:1234 0 EOF
            if len(columns) > 5 and columns[1] == "FLOCK" and columns[5] == place:
                return f" ({columns[4]})"
    return ""
