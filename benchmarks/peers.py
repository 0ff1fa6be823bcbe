"""The same work in unlabel and in other libraries: what an image costs, and how soon the first update is done.

SimCLR with a small ResNet-18 at 32 pixels, SimCLR with ResNet-18 and MAE with ViT-Tiny at 224 pixels, from a folder
of 2,000 JPEGs; the same network, batch, augmentations, threads and precision in each library, in an environment of
its own that shares this one's torch and torchvision. Libraries take turns, round by round. What each does is in
benchmarks/peers/with_*.py. Environments are made where they are missing, which needs pip's network.

    python benchmarks/peers.py [--rounds N] [--environments DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch

import machine
from loading import write_folder

HERE = Path(__file__).parent
CONSTRAINTS = HERE.parent / "constraints.txt"

WORKS = {  # batch, updates with networks, updates without: the first of each is not timed
    "simclr32": (32, 4, 13),
    "simclr224": (16, 3, 9),
    "mae224": (16, 4, 9),
}
TITLES = {
    "simclr32": "SimCLR, ResNet-18 (small stem), 32 px",
    "simclr224": "SimCLR, ResNet-18, 224 px",
    "mae224": "MAE, ViT-Tiny, 224 px",
}
PEERS = {  # name in the package registry -> work it offers
    "lightly": tuple(WORKS),
    "lightly-train": ("simclr32", "simclr224"),
    "stable-pretraining": tuple(WORKS),
    "solo-learn": ("simclr32", "simclr224"),
}
QUIET = {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "WANDB_MODE": "disabled", "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}

Facts = dict[str, object]


def environment(name: str, folder: Path) -> tuple[Path, str]:
    """The Python of a peer's environment, made if it is missing, and the peer's version; RuntimeError if it fails."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        called([sys.executable, "-m", "venv", str(folder / name)])
        (site,) = (folder / name).glob("lib/python*/site-packages")
        base = Path(torch.__file__).parents[1]
        (site / "zz_base.pth").write_text(f"{base}\n")  # last, so that the peer's own versions come first
    found = subprocess.run([python, "-m", "pip", "show", name], capture_output=True, text=True, check=False)
    if found.returncode:
        called([str(python), "-m", "pip", "install", "--constraint", str(CONSTRAINTS), name])
        found = subprocess.run([python, "-m", "pip", "show", name], capture_output=True, text=True, check=True)
    return python, found.stdout.split("Version: ")[1].split("\n")[0]


def called(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        causes = [line for line in lines if "depends on" in line or "requires" in line] or lines[-1:]
        raise RuntimeError(" ".join(causes)[:200])


def measured(python: Path, peer: str, work: str, data: Path, *options: str, quick: bool) -> Facts:
    """One run of a driver in a process of its own: what its clock says, or ``{"error": ...}``."""
    batch, steps, null_steps = WORKS[work]
    steps = null_steps if "null" in options else steps
    if quick:
        batch, steps = 8, 3
    driver = HERE / "peers" / f"with_{peer.replace('-', '_')}.py"
    with tempfile.TemporaryDirectory() as out:
        command = [python, driver, "--work", work, "--data", data, "--out", out, "--batch", batch, "--steps", steps]
        variables = os.environ | QUIET | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "XDG_CACHE_HOME": out}
        variables |= {"LIGHTLY_TRAIN_CACHE_DIR": f"{out}/cache"}
        variables.pop("THP_MEM_ALLOC_ENABLE", None)  # unlabel has set it in this process; each sets its own, or none
        done = subprocess.run(
            [*map(str, command), *options, "--started", str(time.time())],
            capture_output=True,
            text=True,
            check=False,
            env=variables,
            cwd=out,
        )
    if done.returncode or not done.stdout.strip():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return {"error": lines[-1][:200] if lines else f"exit status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def cells(works: list[str], peers: dict[str, Path]) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """What a round consists of: library, work, name of the measurement, the driver's options."""
    for work in works:
        for peer in ("unlabel", *peers):
            if peer == "unlabel" or work in PEERS[peer]:
                yield peer, work, "null", ("--model", "null")
                yield peer, work, "fp32", ("--precision", "fp32")
        for precision in ("fp32", "bf16"):
            yield "unlabel", work, f"alone {precision}", ("--model", "alone", "--precision", precision)
        yield "unlabel", work, "defaults", ("--defaults",)


def each(facts: list[Facts], name: str) -> list[float]:
    """Milliseconds an image of every run: the median over its updates."""
    return [1e3 * statistics.median(run[name]) / run["images"] for run in facts]


def middle(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def row(work: str, name: str, found: dict[tuple[str, str, str], list[Facts]], peers: list[str], asked: str) -> Facts:
    """Processor milliseconds an image of every library, and the fastest peer's over ours."""
    theirs_name = "fp32" if name == "defaults" else name  # each peer's default precision is fp32, as it says itself
    cost = {"unlabel": each(found[work, name, "unlabel"], "step_cpu_s")}
    cost |= {peer: each(found[work, theirs_name, peer], "step_cpu_s") for peer in peers}
    fastest = min((peer for peer in peers if cost[peer]), key=lambda peer: middle(cost[peer]))
    ratios = [theirs / ours for theirs, ours in zip(cost[fastest], cost["unlabel"], strict=False)]
    return {
        "work": TITLES[work],
        "what": {"null": "without the networks", "fp32": "fp32", "defaults": "each library's defaults"}[name],
        **{peer: machine.spread(values, 2) if values else "-" for peer, values in cost.items()},
        "fastest peer / unlabel": machine.spread(ratios, 2),
        "asked": asked,
    }


def start(name: str, found: dict[tuple[str, str, str], list[Facts]], peers: list[str], works: list[str]) -> Facts:
    """Processor seconds until imports, or until the first update, over all works a library has."""
    cost = {}
    for peer in ("unlabel", *peers):
        runs = [run for work in works for run in found[work, "defaults" if peer == "unlabel" else "fp32", peer]]
        cost[peer] = [run[name] for run in runs]
    fastest = min((peer for peer in peers if cost[peer]), key=lambda peer: middle(cost[peer]))
    what = {"import_cpu_s": "imports, s", "first_step_cpu_s": "until the first update, s (processor)"}
    return {
        "work": "all" if len(works) > 1 else TITLES[works[0]],
        "what": what.get(name, "until the first update, s (wall clock)"),
        **{peer: machine.spread(values, 1) if values else "-" for peer, values in cost.items()},
        "fastest peer / unlabel": f"{middle(cost[fastest]) / middle(cost['unlabel']):.2f}",
        "asked": ">= 1" if name == "first_step_s" else "",
    }


def ceilings(work: str, found: dict[tuple[str, str, str], list[Facts]]) -> str:
    """What of our time is the model and what is the data."""
    model = {p: middle(each(found[work, f"alone {p}", "unlabel"], "step_cpu_s")) for p in ("fp32", "bf16")}
    data = middle(each(found[work, "null", "unlabel"], "step_cpu_s"))
    whole = {
        "fp32": middle(each(found[work, "fp32", "unlabel"], "step_cpu_s")),
        "bf16": middle(each(found[work, "defaults", "unlabel"], "step_cpu_s")),
    }
    parts = [f"{p} {model[p]:.1f} of {whole[p]:.1f}" for p in model]
    return f"- {TITLES[work]}: the model alone takes {', '.join(parts)} ms an image, the data alone {data:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--environments", type=Path, help="where the peers' environments are, or are made")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--quick", action="store_true", help="tiny runs that show whether everything works")
    options = parser.parse_args()

    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = options.environments or Path(name) / "environments"
        pythons, versions = {}, {}
        for peer in options.peers:
            try:
                pythons[peer], versions[peer] = environment(peer, folder)
            except RuntimeError as error:
                missing[peer] = f"does not install: {error}"
        data = Path(name) / "data"
        (data / "photos").mkdir(parents=True)
        write_folder(data / "photos", 200 if options.quick else 2000)

        found: dict[tuple[str, str, str], list[Facts]] = defaultdict(list)
        for number in range(1, options.rounds + 1):
            for peer, work, what, driver in cells(options.works, pythons):
                python = pythons.get(peer, Path(sys.executable))
                facts = measured(python, peer, work, data, *driver, quick=options.quick)
                if "error" in facts:
                    missing[f"{peer}, {work}, {what}"] = str(facts["error"])
                    print(peer, work, what, facts["error"], file=sys.stderr, flush=True)
                    continue
                found[work, what, peer].append(facts)
                cost = statistics.median(facts["step_cpu_s"]) / facts["images"]
                print(f"{peer}, {work}, {what}: {1e3 * cost:.2f} ms", file=sys.stderr, flush=True)
            write(options.works, found, versions, missing, number)


def write(
    works: list[str],
    found: dict[tuple[str, str, str], list[Facts]],
    versions: dict[str, str],
    missing: dict[str, str],
    rounds: int,
) -> None:
    """The table of the rounds so far."""
    peers, asked = list(versions), {"null": ">= 2", "fp32": ">= 1", "defaults": ">= 1.5"}
    rows = [row(work, what, found, peers, asked[what]) for work in works for what in asked]
    rows += [start(name, found, peers, [work]) for work in works for name in ("first_step_s", "first_step_cpu_s")]
    rows.append(start("import_cpu_s", found, peers, works))
    said = notes(works, found, versions, missing, rounds)
    machine.write("peers", "The same work in other libraries", "python benchmarks/peers.py", rows, said)


def notes(
    works: list[str],
    found: dict[tuple[str, str, str], list[Facts]],
    versions: dict[str, str],
    missing: dict[str, str],
    rounds: int,
) -> str:
    """How it was measured, and what was the same."""
    counts = []
    for work in works:
        runs = {peer: found[work, "fp32", peer][0] for peer in ("unlabel", *versions) if found[work, "fp32", peer]}
        numbers = ", ".join(f"{peer} {run['parameters']:,}" for peer, run in runs.items())
        counts.append(f"- {TITLES[work]}: batch {WORKS[work][0]}; trained parameters: {numbers}")
    failed = [f"- {what}: {reason}" for what, reason in missing.items()]
    lines = [
        f"Processor milliseconds an image unless another unit is given: medians of {rounds} rounds, in turn, with "
        "smallest and largest; in each run the median over updates after the first. One thread, no loader processes; "
        "saving and evaluation left out. Versions: "
        + ", ".join(f"{peer} {version}" for peer, version in versions.items())
        + ". Each is installed in an environment of its own by pip, under this repository's constraints, and takes "
        "torch and torchvision from ours, so that all run on the same build.",
        "",
        "All peers' default precision is fp32 on a CPU; ours is bf16 where the processor computes it natively. The "
        "same network (timm's), optimizer, crop area, colour jitter, grayscale and blur were asked of all; crops are "
        "bicubic in unlabel, bilinear or by area in the peers' SimCLR, bicubic in all for MAE. Where crops leave room "
        "(SimCLR at 32 px, not at 224) unlabel decodes JPEGs at half their size, as it does by default; the peers "
        "cannot. Large tensors lie on huge pages in unlabel (torch's THP_MEM_ALLOC_ENABLE, which it sets when it is "
        "imported), as in none of the peers.",
        "",
        *counts,
        "",
        "Ceilings of unlabel:",
        "",
        *[ceilings(work, found) for work in works],
    ]
    if failed:
        lines += ["", "What could not be measured:", "", *failed]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
