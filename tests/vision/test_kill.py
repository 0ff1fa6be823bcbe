"""kill -9 at any moment costs nothing but the updates since the last checkpoint: the end is the same to the bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from unlabel import compose
from unlabel.session import Session

KILLS = 20
UPDATES = 100


def train(folder: Path, workers: int, resuming: bool) -> None:
    """What `unlabel train` and `unlabel resume` call, in a process that may be killed."""
    import torch

    from unlabel import Catalog

    torch.set_num_threads(1)
    catalog = Catalog.installed()
    changes = [f"execution.workers={workers}", "execution.precision=fp32", "save_every=3", "log_every=1"]
    recipe = compose.with_overrides(
        compose.compose("vision/mae", catalog, name="tiny").with_length(steps=UPDATES), changes, catalog
    )
    Session(recipe, folder, catalog, evaluate=False, quiet=True).run(resuming=resuming)


def updates(folder: Path) -> int:
    """How many updates the log holds."""
    path = folder / "metrics.jsonl"
    return path.read_text().count('"loss"') if path.exists() else 0


def kill(pid: int) -> None:
    """kill -9, and wait until it is gone; not with join(), which also waits for orphaned loader processes."""
    os.kill(pid, signal.SIGKILL)
    while alive(pid):
        time.sleep(0.001)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def final(folder: Path) -> dict[str, np.ndarray]:
    """Weights and optimizer state at the end."""
    last = folder / f"checkpoints/step-{UPDATES:08d}"
    return {**load_file(last / "task.safetensors"), **load_file(last / "optimizers.safetensors")}


@pytest.fixture(scope="module")
def context() -> ForkServerContext:
    """Processes forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unlabel.run", "unlabel_vision.tasks.mae", "sklearn.datasets"])
    return context


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_twenty_times_and_resumed_ends_bit_identical(
    tmp_path: Path, context: ForkServerContext, workers: int
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    process = context.Process(target=train, args=(whole, 0, False))
    process.start()
    process.join()
    assert process.exitcode == 0

    draw = np.random.default_rng(workers)
    for number, target in enumerate(np.sort(draw.choice(np.arange(1, UPDATES), KILLS, replace=False))):
        process = context.Process(target=train, args=(cut, workers, number > 0))
        process.start()
        while updates(cut) < target and process.is_alive():
            time.sleep(0.001)
        assert process.is_alive()
        kill(process.pid or 0)
    process = context.Process(target=train, args=(cut, workers, True))
    process.start()
    process.join()
    assert process.exitcode == 0

    expected, found = final(whole), final(cut)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
