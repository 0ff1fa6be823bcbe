"""Do the first vision tasks learn? Small encoders on real images, against the same encoders untrained.

The quick recipe on the embedded photographs; CIFAR-10 (20,000 training and 5,000 test JPEGs) at 32 pixels;
clothing photographs (1,147 training, 372 test) at 128 pixels; each with several seeds, on two CPU cores. Each
run is a process of its own, started from the command line that stands below the table; one that is already
there is not repeated.

    UNLABEL_SHARED=FOLDER python benchmarks/vision_first.py [--seeds N] [--only NAME] [--runs DIR]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import machine
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


def run(name: str, seed: int, runs: Path, root: Path) -> Run:
    """Train one case with one seed, or find it done."""
    task, data, words = CASES[name]
    folder = runs / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"
    if not (folder / "evaluations.json").exists():
        command = ["train", task, *(["--data", str(root / data)] if data else []), *words]
        command += ["--seed", str(seed), "--out", str(folder), "--overwrite"]
        subprocess.run([sys.executable, "-m", "unlabel", *command], check=True)
    return Run(folder)


def row(name: str, done: list[Run]) -> dict[str, object]:
    """Means and spreads over the seeds, and the worst gain of any seed."""
    results = [one.evaluations for one in done]
    settings = [one.recipe.model_dump_json(exclude={"seed"}) for one in done]
    mixed = " (settings differ between seeds)" if len(set(settings)) > 1 else ""
    found: dict[str, object] = {"run": name + mixed, "seeds": len(done)}
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
    parser.add_argument("--runs", type=Path, default=Path("runs/vision_first"))
    options = parser.parse_args()
    root = Path(os.environ.get("UNLABEL_SHARED", "../shared")).resolve()

    rows, raw = [], {}
    for name, (_, data, _) in CASES.items():
        if options.only and options.only not in name:
            continue
        done = [run(name, seed, options.runs, root) for seed in range(options.seeds)]
        rows.append(row(name, done))
        if data and data not in raw:
            raw[data] = done[0].evaluate("linear_probe", "knn", options=["linear_probe.inputs=raw", "knn.inputs=raw"])
    controls = "; ".join(
        f"{Path(data).name}: linear {found['linear_probe']['accuracy']:.3f}, k-NN {found['knn']['accuracy']:.3f}"
        for data, found in raw.items()
    )
    commands = "\n".join(
        f"- {name}: `unlabel train {task} {f'--data {Path(data).name} ' if data else ''}{' '.join(words)}`"
        for name, (task, data, words) in CASES.items()
    )
    notes = (
        "Mean and standard deviation over seeds; accuracy on held-out images. The probe is L2-regularised logistic "
        "regression on standardised features, its strength chosen on a fifth of the training images; k-NN with k = 20. "
        f"Raw pixels (at most 3,072 numbers an image), same evaluations: {controls}. "
        f"Each command starts from the quick recipe.\n\n{commands}"
    )
    machine.write("vision_first", "First vision tasks on real images", "python benchmarks/vision_first.py", rows, notes)


if __name__ == "__main__":
    main()
