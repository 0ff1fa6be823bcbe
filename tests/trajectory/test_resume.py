"""Killed anywhere, resumed anywhere: what the contract does not ask about PPT's stages, and asks about every update.

That a run resumed after each single update of each stage ends the same is ``trajectory/ppt-resumes_exactly``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from unlabel import Catalog, Run, compose
from unlabel.session import Session

TASK = "trajectory/ppt"
UPDATES = 24
SETTINGS = ("save_every=1", "keep=99", "log_every=1", "monitor_every=1000", "execution.workers=0")
CACHE = ("dataset.scenes=2", "dataset.agents=5", "dataset.stride=20", "dataset.select=none", "stages.3.batch_size=4")


def train(folder: Path, *settings: str, resuming: bool = False) -> None:
    catalog = Catalog.installed()
    recipe = (
        Run(folder).recipe if resuming else compose.compose(TASK, catalog, name="tiny", settings=[*SETTINGS, *settings])
    )
    Session(recipe, folder, catalog, evaluate=False, quiet=True).run(resuming=resuming)


def end(folder: Path, updates: int = UPDATES) -> dict[str, np.ndarray]:
    """Weights, what has begun, best weights, and the optimizer's state at the end."""
    last = folder / f"checkpoints/step-{updates:08d}"
    return {**load_file(last / "task.safetensors"), **load_file(last / "optimizers.safetensors")}


def same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.slow
def test_remembered_teachers_are_not_stale_after_a_resume(tmp_path: Path) -> None:
    """A run long enough to remember what teachers say ends as it would have, resumed inside its last stage."""
    settings = (*CACHE, "stages.0.batch_size=4", "stages.1.batch_size=4", "stages.2.batch_size=4")
    train(tmp_path / "whole", *settings)
    for path in sorted((tmp_path / "whole/checkpoints").iterdir())[UPDATES - 3 :]:
        if path.name != f"step-{UPDATES:08d}":
            shutil.rmtree(path)
    expected = end(tmp_path / "whole")
    shutil.rmtree(tmp_path / f"whole/checkpoints/step-{UPDATES:08d}")
    train(tmp_path / "whole", resuming=True)
    assert same(end(tmp_path / "whole"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("without", [(0,), (0, 1, 2)])
def test_with_stages_left_out_it_resumes_the_same(tmp_path: Path, without: tuple[int, ...]) -> None:
    settings = [f"stages.{number}.steps=0" for number in without]
    updates = UPDATES - 6 * len(without)
    train(tmp_path / "whole", *settings)
    expected = end(tmp_path / "whole", updates)
    for path in sorted((tmp_path / "whole/checkpoints").iterdir())[updates - 4 :]:
        shutil.rmtree(path)
    train(tmp_path / "whole", resuming=True)
    assert same(end(tmp_path / "whole", updates), expected)


@pytest.mark.slow
def test_killed_in_each_stage_from_the_command_line(tmp_path: Path) -> None:
    """kill -9 while the process trains, four times, once a stage; then it goes on to the same end."""
    train(tmp_path / "whole")
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["train", TASK, "--recipe", "tiny", "--no-evaluate", "--out", str(tmp_path / "cut"), *settings]
    for target in (3, 9, 15, 21):
        process = subprocess.Popen(
            [sys.executable, "-m", "unlabel", *words],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while len(list((tmp_path / "cut/checkpoints").glob("step-*"))) < target and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        words = ["resume", str(tmp_path / "cut"), "--no-evaluate"]
    subprocess.run([sys.executable, "-m", "unlabel", *words], env=environment, check=True, capture_output=True)
    assert same(end(tmp_path / "cut"), end(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_without_dropout_end_where_one_does(tmp_path: Path) -> None:
    """Every draw but dropout's belongs to a sample, and every loss is a mean over samples."""
    calm = ["--set", "encoder.dropout=0", "--recipe", "tiny", "--no-evaluate", "--batch-size", "64"]
    ends = []
    for processes in (1, 2):
        command = ["-m", "unlabel", "train", TASK, *calm, "--out", str(tmp_path / str(processes))]
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port]
            command = [*launcher, *command]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        answer = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, env=environment, check=False
        )
        assert answer.returncode == 0, answer.stderr
        ends.append(load_file(tmp_path / f"{processes}/checkpoints/step-{UPDATES:08d}/task.safetensors"))
    assert ends[0]["begun"].all()
    assert ends[1]["begun"].all()
    # a key's bias moves all of a query's scores alike, which the softmax ignores: its gradient is rounding noise
    weights = [name for name in ends[0] if not name.endswith(("qkv.bias", "begun"))]
    worst = max(float(np.abs(ends[0][name] - ends[1][name]).max()) for name in weights)
    assert worst < 1e-4  # float32 sums in another order, which Adam's first steps divide by gradients near zero
