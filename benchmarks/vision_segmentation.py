"""Segmentation probes of the masked family: do features of patches say what is where?

A small vision transformer (64 pixels, patches of 8) is trained by each method on the training images of CamVid and
COCO (467 in all, no labels; CroCo on CamVid's frames alone), then judged frozen by ``vision/dense_probe`` on CamVid (11
classes) and on COCO panoptic (27 supercategories), beside the network with its first weights and beside the pixels of
each patch. A training is a line of ``runs/vision_segmentation/cells.jsonl`` and is not repeated.

    UNLABEL_SHARED=FOLDER python benchmarks/vision_segmentation.py [--seeds N] [--steps N] [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from PIL import Image

import machine
from unlabel import Catalog, Frozen, Recipe, Ref, Stage, build, launch
from unlabel.engine import Engine
from unlabel.storage.files import writing_folder
from unlabel_vision.datasets.segmentation import Segmentation
from unlabel_vision.evaluations.dense_probe import dense_probe

ENCODER = {"image_size": 64, "patch_size": 8, "dim": 96, "depth": 4, "heads": 3}
DECODER = {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 2}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "MAE": ("vision/mae", DECODER),
    "ColorMAE": ("vision/colormae", DECODER),
    "MixedAE": ("vision/mixedae", DECODER),
    "DropPos": ("vision/droppos", DECODER),
    "CroCo, frames of CamVid": ("vision/croco", DECODER),
}
PAIRS = {"vision/croco"}  # learn from pairs: a frame of a drive and the next one, a second later
RAW, UNTRAINED = "pixels of each patch", "random init"  # the controls; the latter's first weights are MAE's
CONTROLS = [RAW, UNTRAINED]
PLACES, GRID = 8_000, (0.01, 0.1, 1.0)
LIMIT = {"train": 200, "test": 100}  # images of each set that the probe sees
SHORTEST = 96  # of the images trained on, in pixels


def truths(root: Path) -> dict[str, Segmentation]:
    """What is probed."""
    coco = Segmentation(root / "data/coco128", categories="supercategory")
    return {"CamVid": Segmentation(root / "data/camvid"), "COCO": coco}


def images(folder: Path, root: Path) -> Path:
    """The training images of both sets, reduced, in a folder each; written once."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with writing_folder(folder) as aside:
            for name, dataset in truths(root).items():
                (aside / name).mkdir()
                train = dataset.split("train")
                assert train is not None
                for index in range(len(train)):
                    image = Image.fromarray(train[index]["image"])
                    scale = SHORTEST / min(image.size)
                    small = image.resize((round(image.width * scale), round(image.height * scale)))
                    small.save(aside / name / f"{index:03d}.jpg", quality=90)
    return folder


def recipe(method: str, seed: int, steps: int, data: Path) -> Recipe:
    """Equal encoder, data, batch and updates for each method."""
    task, options = METHODS[method]
    stage = Stage(steps=steps, batch_size=64, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.05, warmup_steps=steps // 10)
    return Recipe(
        task=Ref(task, **options),
        encoder=Ref("vision/vit", **ENCODER, **({"class_token": False, "pool": "avg"} if task in PAIRS else {})),
        dataset=Ref("vision/pairs", path=str(data / "CamVid"), neighbours=1)
        if task in PAIRS
        else Ref("vision/folder", path=str(data), holdout=0.0),
        stages=[stage],
        seed=seed,
        monitor_every=steps,
        save_every=steps,
    )


def judged(task: Any, seed: int, root: Path, inputs: str = "features") -> dict[str, dict[str, float]]:
    """Every number of the probe on each set."""
    engine = Engine("cpu", "fp32")
    return {
        name: dense_probe(
            Frozen(task, dataset, engine, seed=seed, limit=LIMIT), places=PLACES, grid=GRID, inputs=inputs
        )
        for name, dataset in truths(root).items()
    }


def cell(method: str, seed: int, steps: int, runs: Path, root: Path) -> dict[str, Any]:
    """Train one method with one seed, or none, and judge it."""
    engine = Engine("cpu", "fp32")
    chosen = recipe(method if method in METHODS else "MAE", seed, steps, images(runs / "images", root))
    if method in CONTROLS:
        untrained = build.build(chosen, Catalog.installed(), engine)
        return {"scores": judged(untrained, seed, root, "raw" if method == RAW else "features")}
    done = launch.train(chosen, out=runs / f"{method}-{seed}", evaluate=False, quiet=True, overwrite=True)
    return {"scores": judged(done.task(engine), seed, root), "machine": machine.machine()}


def row(method: str, cells: list[dict[str, Any]], untrained: dict[int, dict[str, Any]]) -> dict[str, object]:
    """Means and spreads over the seeds, and gains over the untrained network of the same seed."""
    found: dict[str, object] = {"method": method, "seeds": len(cells)}
    for name in ("CamVid", "COCO"):
        scores = {cell["seed"]: cell["scores"][name] for cell in cells}
        found[f"{name} mIoU"] = machine.mean_and_spread([score["mean_iou"] for score in scores.values()])
        gains = [
            score["mean_iou"] - untrained[seed]["scores"][name]["mean_iou"]
            for seed, score in scores.items()
            if seed in untrained and method not in CONTROLS
        ]
        found[f"{name}, gain (worst seed)"] = f"{sum(gains) / len(gains):+.3f} ({min(gains):+.3f})" if gains else "-"
        found[f"{name}, pixels right"] = machine.mean_and_spread([score["accuracy"] for score in scores.values()])
    return found


def page(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Title, rows and notes of the table of cells of equal length."""
    of = {method: [entry for entry in cells if entry["method"] == method] for method in [*CONTROLS, *METHODS]}
    untrained = {entry["seed"]: entry for entry in of[UNTRAINED]}
    missing = [method for method, own in of.items() if not own]
    notes = (
        f"ViT of 4 blocks of width 96 at 64 pixels, patches of 8; {cells[0]['steps']} updates of 64 random crops of "
        f"467 images. Probe: logistic regression on {PLACES:,} patches, strength chosen on a fifth of the training "
        f"images, scores resampled to every pixel; at most {LIMIT['train']} training, {LIMIT['test']} test images of "
        "each set; mIoU over the classes that occur. Mean and standard deviation over seeds."
    )
    single = [method for method, own in of.items() if len(own) == 1 and method != RAW]  # which has no second one
    told = [f"Not run: {'; '.join(missing)}."] if missing else []
    told += [f"With one seed only, so without a spread: {'; '.join(single)}."] if single else []
    return {
        "title": "Segmentation probes of the masked family",
        "rows": [row(method, own, untrained) for method, own in of.items() if own],
        "notes": f"{notes}\n\n**Read with care.** {' '.join(told)}" if told else notes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=[*CONTROLS, *METHODS], help="these alone")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--table", action="store_true", help="write the table of what is there, train nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/vision_segmentation"))
    options = parser.parse_args()
    root = Path(os.environ.get("UNLABEL_SHARED", "../shared")).resolve()
    path = options.runs / "cells.jsonl"
    there = machine.cells(path, "vision_segmentation") if options.table or path.exists() else []
    known = {(entry["method"], entry["seed"], entry["steps"]): entry for entry in there}
    for seed in range(options.seeds):
        for method in [*CONTROLS, *METHODS]:
            asked = (method, seed, options.steps)
            if asked in known or options.table or (options.only and method not in options.only):
                continue
            if method == RAW and seed:  # nothing is random but the patches that are learnt from
                continue
            entry = {"method": method, "seed": seed, "steps": options.steps}
            entry |= cell(method, seed, options.steps, options.runs, root)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(entry) + "\n")
            known[asked] = entry
    cells = [entry for key, entry in known.items() if key[2] == options.steps]
    if cells:
        options.seeds = 1 + max(entry["seed"] for entry in cells)
        machine.write(
            "vision_segmentation",
            command=machine.command(parser, options),
            cells=cells,
            remade=options.table,
            **page(cells),
        )


if __name__ == "__main__":
    main()
