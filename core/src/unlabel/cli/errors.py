"""How an error, a misused option or an old name ends up on the screen, and with which exit code."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any, NoReturn

import typer

from unlabel.catalog.deprecation import Deprecated
from unlabel.errors import UnlabelError

__all__ = ["Misuse", "exit_code", "fail", "leave", "message", "misused", "old_names_in_one_line"]

Misuse: type[BaseException] = typer.BadParameter.__base__ or Exception
"""What typer raises for a wrong option or value; its name has moved between versions."""


def leave(code: int) -> NoReturn:
    """End the process; one of several at once.

    torch leaves threads of sharded runs to be ended while Python takes the process apart, and now and then, on a busy
    machine, that aborts a process in which all is done and closed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    raise SystemExit(code)


@contextlib.contextmanager
def old_names_in_one_line() -> Iterator[None]:
    """The use of an old name is mentioned in one line, once; other warnings look as ever."""
    shown: set[str] = set()
    with warnings.catch_warnings():
        ordinary = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **where: Any) -> None:
            if not issubclass(category, Deprecated):
                ordinary(message, category, *place, **where)
            elif str(message) not in shown:
                shown.add(str(message))
                print(f"warning: {message}", file=sys.stderr)

        warnings.showwarning = show
        warnings.simplefilter("always", Deprecated)
        yield


def misused(error: Any) -> NoReturn:
    """A wrong option or value in one line; no command at all gets the help."""
    text, context = error.format_message(), error.ctx
    if text and "\n" not in text:
        path = context.command_path if context else "unlabel"
        text = f"error: {text.replace('Value error, ', '')} (see `{path} --help`)"
    print(text, file=sys.stderr, end="\n" if text else "")
    raise SystemExit(error.exit_code)


def fail(error: BaseException, debug: bool) -> NoReturn:
    """Print an error, with its traceback if `debug`, and end the process with its exit code."""
    if debug:
        import traceback

        traceback.print_exception(error)
    print(f"error: {message(error)}", file=sys.stderr)
    leave(exit_code(error))


def message(error: BaseException) -> str:
    """One line about an error; what is none of ours may be a bug, and says so."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, UnlabelError):
        return str(error)
    hint = "" if isinstance(error, OSError) else " (this may be a bug; --debug shows where)"
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}{hint}"


def exit_code(error: BaseException) -> int:
    """What the shell gets: the error's own code, 130 after an interrupt, 1 otherwise."""
    return error.exit_code if isinstance(error, UnlabelError) else 130 if isinstance(error, KeyboardInterrupt) else 1
