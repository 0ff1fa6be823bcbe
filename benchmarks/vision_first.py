"""Do the first vision tasks learn? Small encoders on real images, against the same encoders untrained.

The quick recipe on the embedded photographs; CIFAR-10 (20,000 training and 5,000 test JPEGs) at 32 pixels;
clothing photographs (1,147 training, 372 test) at 128 pixels; each with several seeds, on two CPU cores. Each
run is a process of its own, started from the command line that stands below the table; one that is already
there is not repeated.

    UNLABEL_SHARED=FOLDER python benchmarks/vision_first.py [--seeds N] [--only NAME] [--runs DIR] [--table]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import machine
from unlabel.report.reading import flattened
from unlabel.run import Run

CIFAR = "data/cifar10_jpeg"
CLOTHING = "data/clothing10/clothing10.zip"
VIT_128 = ["--encoder", "vision/vit", "--set", "encoder.image_size=128", "--set", "encoder.patch_size=16"]
VIT_128 += ["--set", "encoder.dim=128", "--set", "encoder.depth=4", "--set", "encoder.heads=4"]

# name -> task, data below UNLABEL_SHARED (none: the recipe's own), further words of the command
CASES: dict[str, tuple[str, str, list[str]]] = {
    "MAE, quick recipe, crops of embedded photographs": ("vision/mae", "", []),
    "MAE, ViT 128x4, CIFAR-10": (
        "vision/mae",
        CIFAR,
        ["--epochs", "10", "--batch-size", "128", "--set", "stages.0.lr=1.5e-3"],
    ),
    "SimCLR, ResNet-10 width 16, CIFAR-10": (
        "vision/simclr",
        CIFAR,
        ["--epochs", "8", "--batch-size", "256", "--set", "stages.0.lr=2e-3"],
    ),
    "MAE, ViT 128x4 at 128 px, clothing": (
        "vision/mae",
        CLOTHING,
        [*VIT_128, "--epochs", "20", "--batch-size", "64", "--set", "stages.0.lr=1e-3"],
    ),
}


CHOSEN = (
    "How the cases were chosen: the settings on CIFAR-10 followed a pilot on the same test images (MAE at batch 256 "
    "for 12 epochs gained 7.6 points, seed 0); the quick recipe's data were chosen among three embedded sets by their "
    "gains on these held-out images with seed 0 (shapes 3.7, digits 0.8, photographs 7.5 points, at different "
    "lengths), so its gain is an optimistic one. Minutes a run include pauses and other work on the machine, and are "
    "no measure of speed."
)


def folder(name: str, seed: int, runs: Path) -> Path:
    """Where a run goes."""
    return runs / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"


def run(name: str, seed: int, runs: Path, root: Path) -> Run:
    """Train one case with one seed, or find it done."""
    task, data, words = CASES[name]
    place = folder(name, seed, runs)
    if not (place / "evaluations.json").exists():
        command = ["train", task, *(["--data", str(root / data)] if data else []), *words]
        command += ["--seed", str(seed), "--out", str(place), "--overwrite"]
        subprocess.run([sys.executable, "-m", "unlabel", *command], check=True)
    return Run(place)


def cell(name: str, seed: int, done: Run, raw: bool) -> dict[str, Any]:
    """What a run measured and how it was set, and, with `raw`, what pixels alone give on its data."""
    settings = done.recipe.model_dump(mode="json", exclude={"seed", "dataset"})
    found = {"run": name, "seed": seed, "settings": flattened(settings), **done.evaluations}
    if raw:
        path = done.folder / "pixels.json"
        if not path.exists():
            controls = ["linear_probe.inputs=raw", "knn.inputs=raw"]
            path.write_text(json.dumps(done.evaluate("linear_probe", "knn", options=controls)), encoding="utf-8")
        found["pixels"] = json.loads(path.read_text(encoding="utf-8"))
    return found


def differing(cells: list[dict[str, Any]]) -> list[str]:
    """Settings that are not the same with every seed."""
    every = [cell["settings"] for cell in cells if "settings" in cell]
    names = dict.fromkeys(name for settings in every for name in settings)
    return [name for name in names if any(settings.get(name) != every[0].get(name) for settings in every)]


def row(name: str, results: list[dict[str, Any]]) -> dict[str, object]:
    """Means and spreads over the seeds, and the worst gain of any seed."""
    mixed = " (settings differ between seeds)" if differing(results) else ""
    found: dict[str, object] = {"run": name + mixed, "seeds": len(results)}
    for evaluation in ("linear_probe", "knn"):
        before = [result["before"][evaluation]["accuracy"] for result in results]
        after = [result["after"][evaluation]["accuracy"] for result in results]
        found[f"{evaluation}, random init"] = machine.mean_and_spread(before)
        found[f"{evaluation}, trained"] = machine.mean_and_spread(after)
        gain = [b - a for a, b in zip(before, after, strict=True)]
        found[f"{evaluation}, gain (worst seed)"] = f"{sum(gain) / len(gain):+.3f} ({min(gain):+.3f})"
    found["minutes a run"] = machine.spread([result["seconds"] / 60 for result in results], 1)
    found["samples/s"] = machine.spread([result["samples_per_second"] for result in results], 0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="part of a case's name")
    parser.add_argument("--table", action="store_true", help="write the table of what is there, train nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/vision_first"))
    options = parser.parse_args()
    root = Path(os.environ.get("UNLABEL_SHARED", "../shared")).resolve()

    before = {(cell["run"], cell["seed"]): cell for cell in machine.cells(Path("absent"), "vision_first")}
    cells = []
    for name, (_, data, _) in CASES.items():
        for seed in range(options.seeds):
            there = (folder(name, seed, options.runs) / "evaluations.json").exists()
            if there or not (options.table or (options.only and options.only not in name)):
                cells.append(cell(name, seed, run(name, seed, options.runs, root), bool(data) and not seed))
            elif (name, seed) in before:
                cells.append(before[name, seed])
    if not cells:
        sys.exit(f"no runs in {options.runs}, and no cells in the table written last")
    options.seeds = 1 + max(one["seed"] for one in cells)
    machine.write(
        "vision_first", command=machine.command(parser, options), cells=cells, remade=options.table, **page(cells)
    )


def page(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Title, rows and notes of the table."""
    by_name = {name: [one for one in cells if one["run"] == name] for name in CASES}
    raw = {Path(CASES[one["run"]][1]).name: one["pixels"] for one in cells if "pixels" in one}
    controls = "; ".join(
        f"{data}: linear {found['linear_probe']['accuracy']:.3f}, k-NN {found['knn']['accuracy']:.3f}"
        for data, found in raw.items()
    )
    commands = "\n".join(
        f"- {name}: `{' '.join(['unlabel', 'train', task, *(['--data', Path(data).name] if data else []), *words])}`"
        for name, (task, data, words) in CASES.items()
    )
    notes = (
        "Mean and standard deviation over seeds; accuracy on held-out images. The probe is L2-regularised logistic "
        "regression on standardised features, its strength chosen on a fifth of the training images; k-NN with k = 20. "
        f"Raw pixels (at most 3,072 numbers an image), same evaluations: {controls}. "
        f"Each command starts from the quick recipe.\n\n{commands}"
    )
    return {
        "title": "First vision tasks on real images",
        "rows": [row(name, own) for name, own in by_name.items() if own],
        "notes": f"{notes}\n\n**Read with care.** {' '.join([*care(by_name), CHOSEN])}",
    }


def care(by_name: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Sentences on what the figures do not show: settings that differ between seeds, single seeds, cases not run."""
    told = []
    for name, own in by_name.items():
        if names := differing(own):
            told.append(f"The row {name} mixes settings: its seeds differ in {', '.join(names)}.")
        if len(own) == 1:
            told.append(f"The row {name} is of one seed.")
    missing = [name for name, own in by_name.items() if not own]
    return [*told, f"Not run: {'; '.join(missing)}."] if missing else told


if __name__ == "__main__":
    main()
