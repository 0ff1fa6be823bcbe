"""The errors a user sees, and how a wrong name is answered with the nearest right one.

`UsageError` means "you asked for something that cannot be" (exit code 2); `RunError` means "it was
fine to ask, but it failed on the way" (exit code 1). The command line prints their message alone;
`--debug` adds the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["BadSample", "RunError", "UnlabelError", "UsageError", "nearest"]


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
