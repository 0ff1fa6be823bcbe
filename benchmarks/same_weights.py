"""Whether two checkouts train to the same weights, to the bit: every task's `tiny` recipe, on one thread of a CPU.

    python benchmarks/same_weights.py BEFORE AFTER [--tasks NAME ...] [--seeds 0 1] [--set-after stages.*.FIELD=VALUE]
    python benchmarks/same_weights.py BEFORE --record benchmarks/results/cells/same_weights.json
    python benchmarks/same_weights.py benchmarks/results/cells/same_weights.json AFTER

BEFORE and AFTER are folders with ``core/src`` and ``plugins/*/src``; each trains in a process of its own that imports
nothing of the other. BEFORE may also be what ``--record`` wrote: hashes by task, seed and part of the network, which
say where the weights differ, not by how much. They hold on the machine and the torch they were made with.

Weights are kept below ``--runs`` by what the sources of their checkout hold, so that a second call goes on where the
first was interrupted. Exit code 1 if anything differs, fails in one of them only, or is no longer there; a new task is
no difference.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
WEIGHTS = "task.safetensors"
FIXED = ("--recipe", "tiny", "--device", "cpu", "--precision", "fp32", "--workers", "0", "--no-evaluate")


@dataclass(frozen=True)
class Job:
    """One run: a task with a seed.

    Attributes:
        task: its name in the catalog.
        seed: of the run.
        settings: ``path=value``; a ``*`` in the path stands for every stage.
        file: where the weights go; a run that fails leaves none.
    """

    task: str
    seed: int
    settings: tuple[str, ...]
    file: str


def sources(checkout: Path) -> list[Path]:
    """The folders that are imported from; an exit with what is missing if it is no checkout."""
    folders = [checkout / "core" / "src", *sorted(checkout.glob("plugins/*/src"))]
    if not (folders[0] / "unlabel").is_dir():
        sys.exit(f"{checkout} is no checkout: there is no {folders[0] / 'unlabel'}")
    return folders


def fingerprint(checkout: Path) -> str:
    """What the sources hold, in twelve digits."""
    digest = hashlib.sha256()
    for folder in sources(checkout):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(checkout)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def revision(checkout: Path) -> str:
    """The commit of a checkout, with a plus if its sources differ from it."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def machine() -> str:
    """What decides the last bit besides the sources: processor and torch."""
    import torch

    from machine import processor

    return f"{processor()}, torch {torch.__version__}"


# Training, in a process that imports one checkout


def train_all(checkout: Path, jobs: Iterable[Job]) -> Iterator[tuple[Job, str]]:
    """Train the jobs one after the other; each with what went wrong, which is empty if nothing did."""
    waiting = {(job.task, job.seed): job for job in jobs}
    with _started(checkout, "train", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin:
            json.dump([asdict(job) for job in waiting.values()], process.stdin)
        for line in process.stdout:
            answer = json.loads(line)
            yield waiting.pop((answer["task"], answer["seed"])), answer["error"]
    for job in waiting.values():
        yield job, f"the process that trained it ended with {process.returncode}"


def tasks_of(checkout: Path) -> list[str]:
    """Names of all tasks of a checkout's own catalog."""
    with _started(checkout, "list") as process:
        answer, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{checkout} does not list its tasks")
    names: list[str] = json.loads(answer)
    return names


def _started(checkout: Path, role: str, **streams: Any) -> subprocess.Popen[str]:
    paths = os.pathsep.join(str(path.absolute()) for path in sources(checkout))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE), "--role", role, str(checkout.absolute())]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **streams)


def play(role: str, checkout: Path) -> None:
    """What the process of one checkout does: list its tasks, or train jobs from standard input."""
    import unlabel

    if not Path(unlabel.__file__).is_relative_to(checkout):
        sys.exit(f"unlabel was imported from {unlabel.__file__}, not from {checkout}")
    catalog = unlabel.Catalog.installed()
    if role == "list":
        print(json.dumps([offer.name for offer in catalog.offers("tasks")]))
        return

    import torch

    torch.set_num_threads(1)
    sys.modules["jinja2"] = None  # type: ignore[assignment]  # as where it is not installed: no report is written
    for entry in json.load(sys.stdin):
        job = Job(**{**entry, "settings": tuple(entry["settings"])})
        error = _trained(job, len(catalog.find("tasks", job.task).module().tiny().stages))
        print(json.dumps({"task": job.task, "seed": job.seed, "error": error}), flush=True)


def _trained(job: Job, stages: int) -> str:
    """Train by the command line, which stays the same from version to version; what went wrong."""
    from unlabel import cli

    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        words = ["train", job.task, *FIXED, "--seed", str(job.seed), "--out", f"{folder}/run", "--set", "keep=1"]
        sys.argv = ["unlabel", *words, *(f"--set={one}" for one in spelt_out(job.settings, stages))]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                cli.main()
            except SystemExit as stopped:
                code = stopped.code
        if code:
            errors = [line for line in said.getvalue().splitlines() if line.startswith("error: ")]
            return errors[-1].partition(";")[0].replace(folder, "...") if errors else f"ended with {code}"
        *_, last = sorted(Path(folder).glob("run/checkpoints/step-*"))
        target = Path(job.file)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_suffix(".writing")
        aside.write_bytes((last / WEIGHTS).read_bytes())
        aside.replace(target)
    return ""


def spelt_out(settings: Iterable[str], stages: int) -> list[str]:
    """``stages.*.lr=1`` as one assignment a stage."""
    return [
        one.replace("stages.*.", f"stages.{number}.", 1)
        for one in settings
        for number in (range(stages) if one.startswith("stages.*.") else range(1))
    ]


# Comparing


def tensors(path: Path) -> dict[str, Any]:
    """Name -> tensor of a file of weights."""
    from safetensors.torch import load_file

    return dict(load_file(path))


def raw(value: Any) -> Any:
    """A tensor as bytes, so that NaN is what it is and -0 is not 0."""
    import torch

    return value.contiguous().reshape(-1).view(torch.uint8)


def parts(path: Path) -> dict[str, str]:
    """Hashes of a file of weights: first word of the tensors' names -> hash of names, types, shapes and bytes."""
    digests: dict[str, Any] = {}
    for name, value in sorted(tensors(path).items()):
        digest = digests.setdefault(name.partition(".")[0], hashlib.sha256())
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(raw(value).numpy().tobytes())
    return {part: digest.hexdigest()[:16] for part, digest in digests.items()}


def largest(value: Any) -> float:
    """The largest absolute value of the numbers in a tensor; what is none is left out."""
    return float(value.abs().nan_to_num().max())


def unlike(before: Path | Mapping[str, str], after: Path) -> str:
    """Where weights differ first, and by how much as far as that is known; empty if they are the same to the bit."""
    if not isinstance(before, Path):
        now = parts(after)
        wrong = [part for part in sorted(before.keys() | now.keys()) if before.get(part) != now.get(part)]
        return f"{', '.join(wrong)} ({len(wrong)} of {len(before)} parts)" if wrong else ""
    left, right = tensors(before), tensors(after)
    if left.keys() != right.keys():
        return f"{sorted(left.keys() ^ right.keys())[0]} is in one of them only"
    for name, value in left.items():
        other = right[name]
        if value.shape != other.shape or value.dtype != other.dtype:
            return f"{name}: {value.dtype} {tuple(value.shape)}, then {other.dtype} {tuple(other.shape)}"
        if not raw(value).equal(raw(other)):
            return f"{name} by {largest(value.double() - other.double()):.3g} (largest {largest(value.double()):.3g})"
    return ""


# The script


def weights(checkout: Path, role: str, options: argparse.Namespace, settings: tuple[str, ...]) -> dict[Any, Any]:
    """Train what is not there yet: (task, seed) -> file, or what went wrong."""
    room = options.runs / f"{role}-{fingerprint(checkout)}"
    if settings:
        room = room / hashlib.sha256("\n".join(settings).encode()).hexdigest()[:8]
    listed = room / "tasks.json"
    if not listed.exists():
        room.mkdir(parents=True, exist_ok=True)
        listed.write_text(json.dumps(tasks_of(checkout)), encoding="utf-8")
    names = [name for name in json.loads(listed.read_text(encoding="utf-8")) if wanted(name, options)]
    jobs = [
        Job(name, seed, settings, str((room / f"{name.replace('/', '-')}-{seed}.safetensors").absolute()))
        for name in names
        for seed in options.seeds
    ]
    made: dict[Any, Any] = {(job.task, job.seed): Path(job.file) for job in jobs}
    missing = [job for job in jobs if not Path(job.file).exists()]
    for number, (job, error) in enumerate(train_all(checkout, missing) if missing else (), 1):
        print(f"{role} {number}/{len(missing)} {job.task} {job.seed} {error}", file=sys.stderr, flush=True)
        if error:
            made[job.task, job.seed] = error
    return made


def recorded(path: Path, options: argparse.Namespace) -> dict[Any, Any]:
    """What `record` wrote: (task, seed) -> hashes of the parts."""
    content = json.loads(path.read_text(encoding="utf-8"))
    print(f"before: {content['revision']} on {content['machine']}")
    if content["machine"] != machine():
        print(f"this is another machine ({machine()}), so equal code may give other last bits")
    found = {(cell["task"], cell["seed"]): cell.get("parts", cell.get("error")) for cell in content["cells"]}
    return {key: hashes for key, hashes in found.items() if key[1] in options.seeds and wanted(key[0], options)}


def wanted(task: str, options: argparse.Namespace) -> bool:
    """Whether a task is among those asked for."""
    return not options.tasks or task in options.tasks


def record(path: Path, checkout: Path, before: Mapping[Any, Any]) -> None:
    """Keep the hashes of a checkout."""
    cells = [
        {"task": task, "seed": seed, **({"error": result} if isinstance(result, str) else {"parts": parts(result)})}
        for (task, seed), result in before.items()
    ]
    head = {"revision": revision(checkout), "machine": machine()}
    lines = ",\n".join("  " + json.dumps(cell) for cell in cells)
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "cells": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def compared(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> Iterator[tuple[str, int, str, bool]]:
    """Task, seed, verdict, and whether that is a difference."""
    for task, seed in sorted(before.keys() | after.keys()):
        left, right = before.get((task, seed)), after.get((task, seed))
        if left is None:
            yield task, seed, "new", False
        elif right is None:
            yield task, seed, "no longer there", True
        elif isinstance(left, str) and left == right:
            yield task, seed, f"fails alike: {left}", False
        elif isinstance(left, str) or isinstance(right, str):
            yield task, seed, f"not trained: {right if isinstance(right, str) else left}", True
        else:
            wrong = unlike(left, right)
            yield task, seed, wrong or "equal", bool(wrong)


def main() -> None:
    """Compare, record, or both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout, or a file that --record wrote")
    parser.add_argument("after", type=Path, nargs="?", help="another checkout")
    parser.add_argument("--tasks", nargs="+", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--set-after", action="append", default=[], metavar="K=V", help="a setting of AFTER's recipes")
    parser.add_argument("--record", type=Path, metavar="FILE", help="keep BEFORE's hashes")
    parser.add_argument("--runs", type=Path, default=Path("runs/same_weights"), help="where weights are kept")
    parser.add_argument("--role", choices=["list", "train"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        play(options.role, options.before)
        return
    if options.after is None and not options.record:
        parser.error("give AFTER, or --record FILE")

    file = options.before.is_file()
    before = recorded(options.before, options) if file else weights(options.before, "before", options, ())
    if options.record:
        record(options.record, options.before, before)
    if options.after is None:
        return
    rows = list(compared(before, weights(options.after, "after", options, tuple(options.set_after))))
    width = max((len(task) for task, *_ in rows), default=0)
    for task, seed, verdict, _ in rows:
        print(f"{task:{width}}  {seed}  {verdict}")
    differing = sum(wrong for *_, wrong in rows)
    print(f"{len(rows) - differing} of {len(rows)} runs end with the same weights")
    sys.exit(1 if differing or not rows else 0)


if __name__ == "__main__":
    main()
