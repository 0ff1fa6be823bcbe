"""What a study will cost: a few updates of each of its arms are timed, and multiplied.

Each in a process of its own, as it will run, with a time limit. Start and evaluations are not counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from unlabel import build, recipe
from unlabel.errors import UnlabelError
from unlabel.storage.jsonl import read_jsonl

if TYPE_CHECKING:
    from unlabel.bench.study import Cell
    from unlabel.catalog.plugins import Catalog

__all__ = ["seconds"]

_UPDATES = 4
_LIMIT = 120.0


def seconds(cell: Cell, catalog: Catalog, threads: int, limit: float = _LIMIT) -> float | None:
    """Seconds of training of a cell, from its first updates; None if these take longer than `limit`, or fail.

    Args:
        cell: of a study.
        catalog: what is installed.
        threads: processor threads of its process.
        limit: seconds to try for.
    """
    settings = {"log_every": 1, "monitor_every": 10**9, "save_every": 10**9}
    trial = cell.recipe.model_copy(deep=True)
    for stage in trial.stages:
        if stage.steps != 0:
            stage.__dict__.update(steps=_UPDATES, epochs=None, horizon=None, horizon_epochs=None)
    trial.__dict__.update(settings)
    with tempfile.TemporaryDirectory() as folder:
        file, out = Path(folder) / "trial.json", Path(folder) / "run"
        file.write_text(trial.to_json(), encoding="utf-8")
        command = [sys.executable, "-m", "unlabel", "train", trial.task.name, "--recipe", str(file), "--out", str(out)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        try:
            subprocess.run([*command, "--no-evaluate"], env=environment, capture_output=True, timeout=limit, check=True)
            records = read_jsonl(out / "metrics.jsonl")
            run_recipe = recipe.parse(json.loads((out / "recipe.json").read_text(encoding="utf-8")), "")
            samples = build.build_dataset(run_recipe.dataset, catalog).split("train")
        except (subprocess.SubprocessError, OSError, ValueError, UnlabelError):
            return None
    total = 0.0
    for number, stage in enumerate(cell.recipe.stages):
        speeds = [r["samples_per_second"] for r in records if r["stage"] == number and "samples_per_second" in r]
        resolved = stage.resolved(len(samples or ()))
        if resolved.steps and not speeds:
            return None
        if resolved.steps:  # the first update of a stage warms up
            total += resolved.steps * resolved.size / statistics.median(speeds[1:] or speeds)
    return total
