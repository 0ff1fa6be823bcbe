"""Two processes are one: the same global batch gives the same weights, replicated or sharded."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

UPDATES = 20


def train(task: str, out: Path, processes: int, *more: str) -> dict[str, np.ndarray]:
    """Train from the command line; the final weights."""
    words = [
        task,
        "--recipe",
        "tiny",
        "--steps",
        str(UPDATES),
        "--precision",
        "fp32",
        "--no-evaluate",
        "--workers",
        "0",
    ]
    return run(["train", *words, "--out", str(out), *more], out, processes)


def resume(out: Path, processes: int) -> dict[str, np.ndarray]:
    return run(["resume", str(out), "--no-evaluate"], out, processes)


def run(words: list[str], out: Path, processes: int) -> dict[str, np.ndarray]:
    """Run the command line, under torchrun if there are several processes; the final weights."""
    command = ["-m", "unlabel", *words]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(port)]
        command = [*launcher, *command]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    answer = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr
    return load_file(out / f"checkpoints/step-{UPDATES:08d}/task.safetensors")


def largest_difference(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> float:
    """Over every entry of the state, except biases of attention keys.

    A key's bias adds the same number to all of a query's scores, which the softmax ignores: its gradient is zero but
    for rounding, and Adam scales that rounding noise up to whole steps. It cannot change any output.
    """
    assert left.keys() == right.keys()
    worst = 0.0
    for name in left:
        difference = np.abs(left[name].astype(np.float64) - right[name])
        if name.endswith("attn.qkv.bias"):
            third = len(difference) // 3
            difference = np.delete(difference, slice(third, 2 * third))
        worst = max(worst, float(difference.max(initial=0)))
    return worst


CALM = ("--data", "vision/photos", "--set", "dataset.crop=32", "--batch-size", "64")
CALM += ("--set", "stages.0.optimizer=adamw", "--set", "stages.0.lr=3e-5", "--set", "stages.0.lr_batch_size=null")
CALM += ("--set", "stages.0.eps=1e-6")
"""Photographs: on digits, channels are constant over the black background, batch statistics divide rounding noise by
nearly nothing, and the same updates end 4e-5 apart. The rate is one at which weights move, see the test. A rounding
that switches a ReLU changes gradients by a step, and Adam divides one that is nearly zero by itself: with its usual eps
at 1e-4, a single weight was once 1.1e-5 apart, and a running mean behind it 4e-5; so, seeds 0 to 2 end at
most 7e-6 apart, the weights 2e-6."""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["vision/mae", "vision/simclr"])
def test_two_processes_end_where_one_does(tmp_path: Path, task: str) -> None:
    more = () if task == "vision/mae" else CALM
    one = train(task, tmp_path / "one", 1, *more)
    two = train(task, tmp_path / "two", 2, *more)
    start = train(task, tmp_path / "start", 1, *more, "--set", "stages.0.lr=0")
    weights = {name for name in one if name.endswith("weight")}
    moved = {name: float(np.abs(one[name] - start[name]).max()) for name in weights}
    assert min(moved.values()) > 1e-4  # or agreeing would be no feat: a rate too low leaves everything where it was
    assert largest_difference(one, two) < 1e-5  # float32 sums in another order, over 20 updates


@pytest.mark.slow
def test_sharded_parameters_end_where_whole_ones_do_and_resume(tmp_path: Path) -> None:
    one = train("vision/mae", tmp_path / "one", 1)
    sharded = train("vision/mae", tmp_path / "two", 2, "--shard", "--set", "save_every=7", "--set", "keep=9")
    assert largest_difference(one, sharded) < 1e-5

    for path in sorted((tmp_path / "two/checkpoints").iterdir())[1:]:  # as if stopped after the first checkpoint
        shutil.rmtree(path)
    again = resume(tmp_path / "two", 2)
    assert all(np.array_equal(again[name], sharded[name]) for name in sharded)


@pytest.mark.slow
def test_accumulated_micro_batches_end_where_whole_batches_do(tmp_path: Path) -> None:
    one = train("vision/mae", tmp_path / "one", 1)
    parts = train("vision/mae", tmp_path / "parts", 1, "--set", "stages.0.accumulate=4")
    assert largest_difference(one, parts) < 1e-5
