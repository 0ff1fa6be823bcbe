"""Other processes to try things in: two that know of each other (gloo), or two that just are not this one.

They are started once, with interpreters of their own, and then take one job after the other: starting costs seconds,
most of it importing torch.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any

from unlabel.errors import RunError

__all__ = ["Pair", "pair"]


class Pair:
    """Two processes that work on jobs side by side; `pair` gives the one that everybody shares."""

    def __init__(self) -> None:
        self._lines: list[Connection] = []
        self._processes: list[Any] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any, group: bool = True) -> list[Any]:
        """Call a function in both, as under ``torchrun --nproc-per-node 2``, and return both results.

        Args:
            function: can be imported by its name, so it is no inner function.
            arguments: can be pickled.
            group: whether the two are a gloo process group meanwhile, rank 0 and rank 1 of 2.

        Raises:
            RunError: an argument cannot be pickled, or the function raised in one of them; holds its traceback.
        """
        if not self._processes:
            self._start()
        with tempfile.TemporaryDirectory() as folder:
            meeting = f"file://{folder}/meeting" if group else ""
            try:
                job = ForkingPickler.dumps((meeting, function, arguments))  # as a whole, or nothing is sent
            except Exception as error:  # whatever its own way of being pickled raises
                raise RunError(
                    f"it cannot be handed to another process ({type(error).__name__}: {error}): keep functions, open "
                    "files and the like out of its attributes, and open what is needed when it is first used"
                ) from error
            for line in self._lines:
                line.send(sys.path)
                line.send_bytes(job)
            return self._results()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit threads of torch's that are not there
        for rank in range(2):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank), daemon=True)  # ends with this process
            process.start()
            self._lines.append(ours)
            self._processes.append(process)

    def _results(self) -> list[Any]:
        answers: dict[int, tuple[bool, Any]] = {}
        while len(answers) < 2:
            failed = not all(good for good, _ in answers.values())
            lines = {line: rank for rank, line in enumerate(self._lines) if rank not in answers}
            ready = wait(list(lines), timeout=3 if failed else None)
            if not ready:  # the other one waits for the one that failed
                break
            for line in ready:
                answers[lines[line]] = _answer(line)  # type: ignore[index, arg-type]
        failures = [f"process {rank} of 2 failed:\n{answers[rank][1]}" for rank in answers if not answers[rank][0]]
        if failures:
            self.close()
            raise RunError("\n".join(sorted(failures)))
        return [answers[rank][1] for rank in (0, 1)]

    def close(self) -> None:
        """End both; the next job starts new ones."""
        for process in self._processes:
            process.terminate()
            process.join()
        for line in self._lines:
            line.close()
        self._lines, self._processes = [], []


@functools.cache
def pair() -> Pair:
    """The two processes of this one."""
    return Pair()


def _answer(line: Connection) -> tuple[bool, Any]:
    """Whether a job went well, and its result or traceback."""
    try:
        good, value = line.recv()
    except EOFError:
        return False, "it ended without a word"
    return good, value


def _serve(line: Connection, rank: int) -> None:
    """The life of one of the processes: take a job, answer with its result or its traceback."""
    import torch

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    while True:
        try:
            sys.path[:] = line.recv()
        except EOFError:  # nobody is there any more
            return
        try:
            importlib.invalidate_caches()
            meeting, function, arguments = line.recv()
            answer = True, _work(meeting, rank, function, arguments)
        except Exception:
            answer = False, traceback.format_exc()
        line.send(answer)


def _work(meeting: str, rank: int, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    import torch.distributed as dist

    if meeting:
        patience = datetime.timedelta(seconds=120)
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2, timeout=patience)
    try:
        return function(*arguments)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
