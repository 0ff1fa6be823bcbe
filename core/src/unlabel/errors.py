"""The errors a user sees, and how a wrong name is answered with the nearest right one.

`UsageError` means "you asked for something that cannot be" (exit code 2); `RunError` means "it was
fine to ask, but it failed on the way" (exit code 1). The command line prints their message alone;
`--debug` adds the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["BadSample", "RunError", "UnlabelError", "UsageError", "nearest", "one_line", "printed"]


class UnlabelError(Exception):
    """Base of every error `unlabel` raises on purpose; `exit_code` is what the shell gets."""

    exit_code = 1


class UsageError(UnlabelError, ValueError):
    """A wrong name, option, path or combination: nothing was started. Exit code 2."""

    exit_code = 2


class RunError(UnlabelError, RuntimeError):
    """Something failed while running: the message says what was saved. Exit code 1."""


class BadSample(UnlabelError):
    """One sample cannot be used (truncated file, empty recording, NaN values); training goes on without it.

    Args:
        reason: why, in words a user understands, e.g. ``"truncated file"``.
    """


def nearest(given: str, valid: Iterable[str], count: int = 3) -> str:
    """Return ``"; did you mean A or B?"`` for the names closest to `given`, or ``""`` if none is close."""
    names = sorted(set(valid))
    close = difflib.get_close_matches(given, names, n=count, cutoff=0.5)
    tail = given.rsplit("/", 1)[-1].lower()
    close += [name for name in names if tail and tail in name.lower() and name not in close]
    return f"; did you mean {' or '.join(close[:count])}?" if close else ""


_LONGEST = 500
"""Characters of a foreign exception's message that are shown."""


def one_line(error: BaseException) -> str:
    """An exception in one line of bounded length; one that cannot even be printed is named by its class."""
    text = " ".join(printed(str, error).split())
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."
    return f"{type(error).__name__}: {text}".encode(errors="backslashreplace").decode()


def printed(show: Callable[[Any], str], value: object) -> str:
    """`show(value)`; of what cannot be shown, its class."""
    try:
        return show(value)
    except Exception:
        return f"an unprintable {type(value).__name__}"
