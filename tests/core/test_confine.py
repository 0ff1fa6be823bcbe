"""A stranger's code is timed, heard and caught, and everything is as before afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from unlabel.catalog.confine import Listener, Outcome


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as entered:
        yield entered


def sleep() -> None:
    time.sleep(3600)


def busy() -> None:
    while True:
        pass


def lock() -> None:
    held = threading.Lock()
    held.acquire()
    held.acquire()


def stubborn() -> None:
    for _ in range(2):
        try:
            time.sleep(3600)
        except BaseException:
            continue
    time.sleep(3600)


@pytest.mark.parametrize("work", [sleep, busy, lock, stubborn], ids=lambda work: work.__name__)
def test_what_hangs_is_interrupted_where_it_hangs(listener: Listener, work: Callable[[], None]) -> None:
    outcome = listener.run(work, 0.1)

    assert outcome.failure.startswith(f"is not done after 0.1 s (interrupted at {__file__}, line ")


def test_nothing_is_left_of_the_limit(listener: Listener) -> None:
    def host(number: int, frame: object) -> None: ...

    before = signal.signal(signal.SIGALRM, host)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1000, 7)
        assert listener.run(lambda: 1, 500) == Outcome(1)
        assert listener.run(sleep, 0.01).failure
        left, every = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 0 < left < 1000
        assert every == 7
        assert signal.getsignal(signal.SIGALRM) is host
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    threads = threading.active_count()
    assert listener.run(lambda: 2, 500) == Outcome(2)
    assert threading.active_count() == threads
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_hosts_timer_that_ran_out_meanwhile_goes_off_afterwards(listener: Listener) -> None:
    heard = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert listener.run(lambda: time.sleep(0.05), 500).failure == ""
        assert heard.wait(60)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_outside_the_main_thread_it_runs_without_a_limit(listener: Listener) -> None:
    outcomes: list[Outcome[int]] = []
    thread = threading.Thread(target=lambda: outcomes.append(listener.run(lambda: 3, 0.001)))
    thread.start()
    thread.join()
    assert outcomes == [Outcome(3)]


class Unprintable(BaseException):
    def __str__(self) -> str:
        raise RuntimeError


def recursion() -> None:
    recursion()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("several\n  lines"), "ValueError: several lines"),
        (SystemExit(3), "called sys.exit(3) while being imported"),
        (KeyboardInterrupt(), "raised KeyboardInterrupt while being imported"),
        (GeneratorExit("x"), "GeneratorExit: x"),
        (ValueError("a" * 1000), f"ValueError: {'a' * 500} ..."),
        (OSError("no file \udcff"), "OSError: no file \\udcff"),
        (Unprintable(), "Unprintable: an unprintable Unprintable"),
    ],
)
def test_whatever_is_raised_is_caught(listener: Listener, error: BaseException, words: str) -> None:
    def work() -> None:
        raise error

    assert listener.run(work, 500).failure == words
    assert listener.run(recursion).failure.startswith("RecursionError: maximum recursion depth exceeded")


def test_the_users_own_interrupt_is_the_users(listener: Listener) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell starts with `&`
    try:
        with pytest.raises(KeyboardInterrupt):
            listener.run(lambda: signal.raise_signal(signal.SIGINT), 500)
    finally:
        signal.signal(signal.SIGINT, before)


def test_everything_printed_is_heard_and_nothing_shown(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        print("to stdout")
        print("to stderr", file=sys.stderr)
        sys.stdout.buffer.write(b"bytes\n")
        sys.stdout.reconfigure(encoding="latin-1")  # type: ignore[union-attr]
        os.write(1, b"to the descriptor\n")
        subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
        print("to the original", file=sys.__stdout__)

    with Listener() as listener:
        heard = listener.run(work).printed
        assert listener.run(lambda: None).printed == ""

    for text in ("to stdout", "to stderr", "bytes", "to the descriptor", "by a child", "to the original"):
        assert heard.count(text) == 1, text
    assert capfd.readouterr() == ("", "")
    print("afterwards")
    os.write(1, b"as ever\n")
    assert set(capfd.readouterr().out.splitlines()) == {"afterwards", "as ever"}


def test_a_stream_somebody_kept_speaks_again_afterwards(listener: Listener, capsys: pytest.CaptureFixture[str]) -> None:
    kept = listener.run(lambda: sys.stderr).result
    assert kept is not None

    print("later", file=kept)

    assert capsys.readouterr().err == "later\n"


def test_a_warning_is_noted_and_neither_shown_nor_raised(listener: Listener) -> None:
    outcome = listener.run(lambda: warnings.warn("old", DeprecationWarning, stacklevel=1))

    assert outcome == Outcome(warned=["DeprecationWarning: old"])
    with pytest.raises(DeprecationWarning):  # the filters of this suite are back
        warnings.warn("old", DeprecationWarning, stacklevel=1)


def test_standard_output_comes_back_to_who_has_closed_it(capfd: pytest.CaptureFixture[str]) -> None:
    with Listener() as listener:
        assert listener.run(lambda: os.close(1)).failure == ""
        assert listener.run(lambda: None).failure == ""
    os.write(1, b"as ever")
    assert capfd.readouterr().out == "as ever"


def test_threads_take_turns_and_leave_the_streams_as_they_were() -> None:
    before = os.fstat(1).st_ino, sys.stdout, sys.stderr, warnings.showwarning
    heard: dict[int, str] = {}

    def listen(number: int) -> None:
        def work() -> None:
            for _ in range(20):
                os.write(1, b"%d" % number)
                time.sleep(1e-4)

        with Listener() as outer, Listener() as listener:  # and one within another
            heard[number] = listener.run(work).printed
            assert outer.run(lambda: None).printed == ""

    threads = [threading.Thread(target=listen, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert heard == {number: str(number) * 20 for number in range(8)}
    assert (os.fstat(1).st_ino, sys.stdout, sys.stderr, warnings.showwarning) == before


def test_it_works_without_a_standard_output() -> None:
    code = (
        "import os, sys; os.close(1)\nfrom unlabel.catalog.confine import Listener\n"
        "with Listener() as listener: assert listener.run(lambda: print('x') or 5).result == 5\n"
        "sys.stdout = None"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stderr) == (0, "")
