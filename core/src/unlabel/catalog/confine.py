"""Running a stranger's first code: within a time limit, its words heard but not shown, whatever it raises caught.

A plugin's table of contents is imported by every command, so it must not be able to stop, delay or
garble one. What cannot be helped: code that ends the process (``os._exit``, a crash), a call into
compiled code that never returns, a loop that catches even what `Overdue` is. Outside the main thread, on
systems without interval timers (Windows), and where a host has a handler for SIGALRM that Python
cannot put back, there is no time limit; the rest holds.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

from unlabel.errors import one_line, printed

__all__ = ["Listener", "Outcome", "Overdue"]

_AGAIN = 0.5  # seconds after which a plugin that caught the interruption is interrupted once more
_Result = TypeVar("_Result")


class Overdue(BaseException):
    """Raised inside code that takes too long; no Exception, so that ``except Exception`` does not catch it."""


@dataclass
class Outcome(Generic[_Result]):
    """What came of running a stranger's code.

    Attributes:
        result: what it returned; None if it failed.
        failure: why it failed, in words; empty if it did not.
        printed: what it wrote to standard output or error.
        warned: the warnings it gave, as ``Category: text``.
    """

    result: _Result | None = None
    failure: str = ""
    printed: str = ""
    warned: list[str] = field(default_factory=list)


class Listener:
    """Standard output, as the operating system sees it, goes to memory while this is entered; so do Python's streams
    and warnings while `run` runs something.

    The descriptor of standard error stays as it is: what a crash writes there must be seen. All threads of a process
    have the same streams, so that one listener waits for another.
    """

    _turn = threading.RLock()

    def __init__(self) -> None:
        self._saved = self._memory = -1
        self._at = 0

    def __enter__(self) -> Listener:
        self._turn.acquire()
        _flush()
        with contextlib.suppress(OSError):  # no standard output at all: nothing to keep clean
            self._saved = os.dup(1)
            self._memory = _memory_file()
            os.dup2(self._memory, 1)
        return self

    def __exit__(self, *_: object) -> None:
        _flush()
        if self._memory >= 0:
            os.dup2(self._saved, 1)
            os.close(self._memory)
        if self._saved >= 0:
            os.close(self._saved)
        self._turn.release()

    def run(self, work: Callable[[], _Result], seconds: float = 0) -> Outcome[_Result]:
        """Run `work`.

        Args:
            work: the stranger's code.
            seconds: time limit; 0 for none.

        Raises:
            KeyboardInterrupt: the user pressed Ctrl-C; one that `work` raises itself is a failure like any other.
        """
        outcome: Outcome[_Result] = Outcome()
        out, err = _Heard("stdout"), _Heard("stderr")
        with (
            warnings.catch_warnings(record=True) as warned,
            contextlib.redirect_stdout(_text(out)),
            contextlib.redirect_stderr(_text(err)),
            _Interrupt() as interrupt,
        ):
            warnings.simplefilter("default")
            try:
                outcome.result = _within(seconds, work)
            except KeyboardInterrupt:
                if interrupt.pressed:
                    raise
                outcome.failure = "raised KeyboardInterrupt while being imported"
            except SystemExit as error:
                outcome.failure = f"called sys.exit({printed(repr, error.code)}) while being imported"
            except Overdue as error:
                outcome.failure = f"is not done after {seconds:g} s (interrupted at {_place(error.__traceback__)})"
            except BaseException as error:  # a stranger's code may raise anything, and must not take the host with it
                outcome.failure = one_line(error)
        outcome.printed = out.take() + err.take() + self._take()
        outcome.warned = [f"{entry.category.__name__}: {entry.message}" for entry in warned]
        return outcome

    def _take(self) -> str:
        """What has reached the descriptor of standard output since the last call."""
        if self._memory < 0:
            return ""
        _flush()
        end = os.fstat(self._memory).st_size
        os.lseek(self._memory, self._at, os.SEEK_SET)
        text = os.read(self._memory, end - self._at)
        self._at = os.lseek(self._memory, end, os.SEEK_SET)
        return text.decode(errors="replace")


def _place(trace: TracebackType | None) -> str:
    """File and line of the code that was interrupted."""
    where = "an unknown place"
    while trace is not None:
        if trace.tb_frame.f_code.co_filename != __file__:
            where = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return where


def _within(seconds: float, work: Callable[[], _Result]) -> _Result:
    """Result of `work`, into which `Overdue` is raised after so many seconds, and again while it goes on."""
    if seconds <= 0 or not _in_main_thread() or not hasattr(signal, "setitimer"):
        return work()
    if signal.getsignal(signal.SIGALRM) is None:  # installed by compiled code: it could not be put back
        return work()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code is not _within.__code__:  # never between here and the clean-up below
            raise Overdue

    begun = time.monotonic()
    left, every = signal.setitimer(signal.ITIMER_REAL, 0)  # a host's own timer waits
    handler = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - begun)), every)


class _Interrupt:
    """Notes whether Ctrl-C was pressed, and then lets the handler that was there do what it does."""

    def __init__(self) -> None:
        self.pressed = False
        self.handler: Any = None

    def __enter__(self) -> _Interrupt:
        handler = signal.getsignal(signal.SIGINT)
        if _in_main_thread() and callable(handler):
            self.handler = handler
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.handler is not None:
            signal.signal(signal.SIGINT, self.handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        self.handler(number, frame)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Heard(io.RawIOBase):
    """Bytes written to a standard stream: kept until `take`, and from then on passed to the real stream.

    Somebody may hold on to the stream, a logging handler for instance, and must not talk to nobody for ever.
    """

    def __init__(self, name: str) -> None:
        self.name, self.bytes = name, b""
        self.listening = True

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.listening:
            self.bytes += bytes(data)
        else:
            getattr(sys, self.name).write(bytes(data).decode(errors="replace"))
        return len(data)

    def take(self) -> str:
        """What was written, as text."""
        self.listening = False
        return self.bytes.decode(errors="replace")


def _text(heard: _Heard) -> io.TextIOWrapper:
    return io.TextIOWrapper(heard, encoding="utf-8", errors="replace", newline="", write_through=True)


def _memory_file() -> int:
    """Descriptor of a file that has no name."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("heard")
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _flush() -> None:
    """What waits in the buffer of the original standard output belongs to before or after, not to a plugin."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or not there
        sys.__stdout__.flush()  # type: ignore[union-attr]
