"""Lines for a cluster: a SLURM array with one cell a task, or one ``torchrun`` line a cell."""

from __future__ import annotations

import shlex
from pathlib import Path

from unlabel.bench.runner import Folder
from unlabel.bench.study import Cell, Study
from unlabel.errors import UsageError, nearest

__all__ = ["LAUNCHERS", "lines"]

LAUNCHERS = ("slurm", "torchrun")


def lines(launcher: str, study: Study, file: Path, folder: Folder, todo: dict[int, Cell]) -> str:
    """What to submit or to type; the study's own command afterwards makes the tables.

    Args:
        launcher: one of `LAUNCHERS`.
        study, file: the study and where it stands.
        folder: of its results.
        todo: number -> cell, those that are to run.

    Raises:
        UsageError: no such launcher.
    """
    if launcher not in LAUNCHERS:
        raise UsageError(f"--launch {launcher}: expected {' or '.join(LAUNCHERS)}{nearest(launcher, LAUNCHERS)}")
    bench = f"unlabel bench {shlex.quote(str(file.absolute()))} --out {shlex.quote(str(folder.path.absolute()))}"
    if launcher == "slurm":
        return f"""#!/bin/bash
#SBATCH --job-name={shlex.quote(study.name)}
#SBATCH --array={",".join(map(str, todo))}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={study.threads or 8}
#SBATCH --gpus=1
#SBATCH --signal=TERM@120
#SBATCH --requeue
# {len(todo)} cells, one a task; a requeued one resumes. When all have ended: {bench} --collect
srun {bench} --cell "$SLURM_ARRAY_TASK_ID"
"""
    lines = [f"# {len(todo)} cells, one after the other; then: {bench} --collect"]
    for cell in todo.values():
        _, *module = folder.command(cell)  # without the interpreter, which torchrun chooses
        lines.append(shlex.join(["torchrun", "--standalone", "--nproc-per-node", "auto", *module]))
    return "\n".join(lines) + "\n"
