"""Does CroCo use the second view? Hidden patches of real pairs it was never trained on, and geometry read off it.

Trained on ray-cast rooms alone (the quick recipe, but longer and of more rooms), with several seeds; the same network
always shown another scene's view; and the same without a second view, a masked autoencoder at 90 %. Then, on crops of
photographs in pairs (stereo, planar, flow and many-view sets) and on rooms of the test part: the error of hidden
patches with the true second view, with that of another scene, with a grey image, and without cross-attention. Then the
evaluations on two views, trained and untrained, on rooms of the test part. A cell that is in ``cells.jsonl`` is not run
again, so the script may be stopped at any time.

    UNLABEL_SHARED=FOLDER python benchmarks/vision_croco.py [--seeds N] [--steps N] [--rooms N] [--only TEXT] [--table]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import machine
from unlabel import Catalog, Run, build, compose, data, launch, seeds
from unlabel.data import Draw
from unlabel.engine import Engine
from unlabel.evaluate.features import Frozen
from unlabel.nn import patches
from unlabel.session import Session
from unlabel.storage.jsonl import read_jsonl
from unlabel.task import Sample
from unlabel_vision import views
from unlabel_vision.datasets.pairs import Pairs
from unlabel_vision.datasets.rooms import Rooms
from unlabel_vision.tasks.croco import CroCo, pair_views

ARMS: dict[str, dict[str, Any]] = {
    "CroCo": {},
    "trained with another scene's view": {"task__second_view": "other"},
    "without a second view": {"task__second_view": "none"},
}
PAIRS = (
    "motorcycle_left motorcycle_right",
    "aloeL aloeR",
    "graf1 graf3",
    "leuvenA leuvenB",
    "rubberwhale1 rubberwhale2",
)
CROPS = {"pair": 32, "monstree": 4}  # of each pair of photographs
ROOMS = 256
SECOND = {"true": "the true one", "other": "another scene's", "grey": "a grey image", "none": "no cross-attention"}
# What the table shows of each arm: all kinds, or what it was trained with.
KINDS = {"CroCo": tuple(SECOND), "trained with another scene's view": ("other",), "without a second view": ("none",)}
PARTS = (*ARMS, "downstream, untrained", "downstream, trained")
EVALUATIONS = ("vision/flow", "vision/depth", "vision/pose")
PROTOCOL = {"pairs": 400, "epochs": 30}


def photographs(root: Path, runs: Path) -> dict[str, Pairs]:
    """The pairs of photographs, none of which is in the training data: rooms show other pictures."""
    sets: dict[str, Pairs] = {}
    for pair in PAIRS:
        names = pair.split()
        listing = runs / f"{names[0].removesuffix('_left').rstrip('1AL')}.txt"
        listing.write_text(",".join(f"{root}/{name}.jpg" for name in names) + "\n", encoding="utf-8")
        sets[listing.stem] = Pairs(listing)
    return {**sets, "monstree": Pairs(root / "monstree", neighbours=1)}


def crops(task: CroCo, root: Path, runs: Path) -> tuple[Tensor, Tensor, list[str]]:
    """First and second views, uint8 (N, S, S, 3), and the set of each; neighbours are of different sets."""
    cut = pair_views.PairCrop(task.image_size, window=(0.4, 0.8))
    samples: list[tuple[str, Sample]] = []
    for name, pairs in photographs(root, runs).items():
        repeats = CROPS["monstree" if name == "monstree" else "pair"]
        for index in range(len(pairs)):
            read = pairs[index]
            samples += [(name, cut(read, Draw(seeds.generator(7, index, crop)))) for crop in range(repeats)]
    rooms = Rooms(size=round(task.image_size * 256 / 224), count=4 * ROOMS, noise=0.5, baseline=(0.05, 0.5)).split(
        "test"
    )
    assert rooms is not None
    plain = pair_views.PairCrop(task.image_size)
    samples += [("rooms", plain(rooms[index], Draw(seeds.generator(7, index)))) for index in range(ROOMS)]
    order = seeds.permutation(len(samples), 7)
    samples = [samples[number] for number in order]
    batch = data.collate([sample for _, sample in samples])
    return batch["view1"], batch["view2"], [name for name, _ in samples]


@torch.no_grad()
def errors(task: CroCo, first: Tensor, second: Tensor, names: list[str]) -> dict[str, dict[str, float]]:
    """Mean error of hidden patches of each set, with each kind of second view; masks are the same for all."""
    count = len(names)
    mask = task.mask(seeds.uniform(torch.arange(count) * 7919, (task.length,)))
    # the next sample of another set
    other = [next(k % count for k in range(n + 1, n + count) if names[k % count] != names[n]) for n in range(count)]
    one, two = views.to_float(first), views.to_float(second)
    target = patches.normalize_patches(patches.patchify(one, task.encoder.patch_size)).values
    found: dict[str, dict[str, float]] = {}
    for kind, given in {"true": two, "other": two[other], "grey": torch.zeros_like(two), "none": None}.items():
        if task.second_view == "other" and given is not None:
            given = given.roll(-1, 0)  # such a task takes the view of the sample before
        prediction = task.predict(task.encode_views(one, given, mask))
        each = ((prediction - target).square().mean(-1) * mask.mask).sum(1) / mask.mask.sum(1)
        sets = {
            name: each[[k for k in range(count) if names[k] == name]].mean().item() for name in dict.fromkeys(names)
        }
        photos = each[[k for k in range(count) if names[k] != "rooms"]].mean().item()
        found[kind] = {**sets, "all photographs": photos}
    return found


def thinned(values: list[float], points: int = 40) -> list[float]:
    """Some of many values, evenly."""
    return values[:: max(1, len(values) // points)]


def trained(arm: str, seed: int, steps: int, rooms: int, runs: Path, root: Path) -> dict[str, Any]:
    """Train one arm with one seed; errors with each kind of second view."""
    folder = runs / f"{arm.replace(' ', '-').replace(chr(39), '')}-{seed}"
    catalog = Catalog.installed()
    sets = [f"{name.replace('__', '.')}={json.dumps(value)}" for name, value in ARMS[arm].items()]
    sets += [f"seed={seed}", f"dataset.count={rooms}"]
    sets += ["monitor_every=1000000", "save_every=1000000", "execution.precision=fp32"]
    chosen = compose.compose("vision/croco", catalog, steps=steps, settings=sets)
    if not (folder / "evaluations.json").exists():  # the last that a run writes
        Session(chosen, launch.new_folder(folder, chosen, overwrite=True), catalog, evaluate=False, quiet=True).run()
    task = Run(folder, catalog).task()
    assert isinstance(task, CroCo)
    views_of = crops(task, root, runs)
    lines = Run(folder, catalog).metrics
    curve = {
        name: thinned([round(line[name], 4) for line in lines if name in line])
        for name in ("loss", "error_other", "error_none")
    }
    batch = {"view1": views_of[0][:8], "view2": views_of[1][:8], "key": torch.arange(8)}
    for name, picture in task.show(batch).items():
        Image.fromarray(picture).save(folder / f"{name}.png")
    seconds = Run(folder, catalog).evaluations["seconds"]
    return {"steps": steps, "rooms": rooms, "errors": errors(task, *views_of), "seconds": seconds, "curve": curve}


def downstream(when: str, seed: int, runs: Path) -> dict[str, Any]:
    """Flow, depth and pose read off a trained or an untrained network."""
    catalog, engine = Catalog.installed(), Engine("cpu", "fp32")
    done = Run(runs / f"CroCo-{seed}", catalog)
    task = done.task(engine) if when == "trained" else build.build(done.recipe, catalog, engine)
    rooms = build.build_dataset(done.recipe.dataset, catalog)
    frozen = Frozen(task, rooms, engine, seed=seed, limit={"test": 200})
    return {"scores": {name: catalog.load("evaluations", name)(frozen, **PROTOCOL) for name in EVALUATIONS}}


def page(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Title, rows and notes of the table: means over the seeds."""
    rows: list[dict[str, object]] = []
    for arm in ARMS:
        own = [cell for cell in cells if cell["cell"] == arm]
        if not own:
            continue
        for kind, words in SECOND.items():
            if kind not in KINDS[arm]:
                continue
            sets = own[0]["errors"][kind]
            values = {name: [cell["errors"][kind][name] for cell in own] for name in sets}
            rows.append(
                {"network": arm, "second view": words, "seeds": len(own)}
                | {
                    name: machine.mean_and_spread(values[name])
                    for name in ("all photographs", *(n for n in sets if n != "all photographs"))
                }
            )
    scores = {w: [c["scores"] for c in cells if c["cell"] == f"downstream, {w}"] for w in ("untrained", "trained")}
    many = {when: len(found) for when, found in scores.items()}
    lines = [f"| evaluation | measure | untrained, seeds: {many['untrained']} | trained, seeds: {many['trained']} |"]
    lines.append("|---|---|---|---|")
    if scores["trained"]:
        for name in EVALUATIONS:
            for measure in scores["trained"][0][name]:
                both = [[score[name][measure] for score in scores[when]] for when in ("untrained", "trained")]
                shown = [
                    f"{statistics.fmean(each):.3f} ({min(each):.3f} - {max(each):.3f})" if each else "not run"
                    for each in both
                ]
                lines.append(f"| {name} | {measure} | {shown[0]} | {shown[1]} |")
    length = next(cell for cell in cells if "errors" in cell)
    notes = (
        "Mean squared error of hidden patches, each normalised by its own mean and variance (predicted zeros: 0.995); "
        f"mean and standard deviation over seeds. Trained on {length['rooms']:,} ray-cast rooms alone, "
        f"{length['steps']:,} updates; nothing of the photographs was seen. "
        "Another scene's view is that of a crop of another set.\n\n"
        "Read off two whole views of rooms of the test part, with a light head learnt on 400 training pairs, the "
        "network frozen; mean over seeds, smallest and largest. Measures that end in _zero, _mean, _median and "
        "_mean_pose are of guesses that see no image.\n\n" + "\n".join(lines)
    )
    told = [notes, verdict(cells), care(cells)]
    return {
        "title": "CroCo: what the second view is worth",
        "rows": rows,
        "notes": "\n\n".join(part for part in told if part),
    }


def care(cells: list[dict[str, Any]]) -> str:
    """What is missing for a result: cells that were not run, and figures of one seed."""
    counts = {name: sum(cell["cell"] == name for cell in cells) for name in PARTS}
    missing, single = ([name for name, count in counts.items() if count == number] for number in (0, 1))
    told = [f"Not run: {'; '.join(missing)}."] if missing else []
    told += [f"With one seed only, so without a spread: {'; '.join(single)}."] if single else []
    return f"**Read with care.** {' '.join(told)}" if told else ""


def verdict(cells: list[dict[str, Any]]) -> str:
    """The order of the errors over all photographs, and on how many sets each neighbourly inequality holds."""
    arms = {arm: [cell["errors"] for cell in cells if cell["cell"] == arm] for arm in ARMS}
    kinds = {words: ("CroCo", kind) for kind, words in SECOND.items()} | {
        "trained without": ("without a second view", "none"),
        "trained and shown another scene's": ("trained with another scene's view", "other"),
    }
    if not arms["CroCo"]:
        return ""
    sets = [name for name in arms["CroCo"][0]["true"] if name not in ("rooms", "all photographs")]
    means = {
        name: {
            words: statistics.fmean(errors[kind][name] for errors in arms[arm])
            for words, (arm, kind) in kinds.items()
            if arms[arm]
        }
        for name in (*sets, "all photographs")
    }
    order = sorted(means["all photographs"].items(), key=lambda pair: pair[1])
    counts = [
        f"{left} below {right}: {sum(means[name][left] < means[name][right] for name in sets)} of {len(sets)} sets"
        for left, right in (
            (SECOND["true"], SECOND["other"]),
            (SECOND["true"], SECOND["grey"]),
            (SECOND["true"], SECOND["none"]),
            (SECOND["true"], "trained without"),
            (SECOND["true"], "trained and shown another scene's"),
            ("trained and shown another scene's", "trained without"),
            (SECOND["other"], SECOND["grey"]),
            (SECOND["other"], SECOND["none"]),
            (SECOND["other"], "trained without"),
        )
        if {left, right} <= means["all photographs"].keys()
    ]
    return "Over all photographs: " + " < ".join(f"{w} {v:.3f}" for w, v in order) + ". " + "; ".join(counts) + "."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6000, help="updates; another number wants --runs of its own")
    parser.add_argument("--rooms", type=int, default=6000, help="to train on; the quick recipe has 900")
    parser.add_argument("--cells", type=int, default=1000, help="run so many new cells, then stop")
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--table", action="store_true", help="write the table of what is there")
    parser.add_argument("--runs", type=Path, default=Path("runs/vision_croco"))
    options = parser.parse_args()
    root = Path(os.environ.get("UNLABEL_SHARED", "../shared")).resolve() / "data/multiview"
    options.runs.mkdir(parents=True, exist_ok=True)
    path = options.runs / "cells.jsonl"
    cells = machine.cells(path, "vision_croco") if options.table else read_jsonl(path) if path.exists() else []
    wanted = [(name, seed) for seed in range(options.seeds) for name in PARTS]
    left = 0 if options.table else options.cells
    for name, seed in wanted:
        known = any((cell["cell"], cell["seed"]) == (name, seed) for cell in cells)
        if known or not left or options.only not in f"{name}-{seed}":
            continue
        left -= 1
        found = (
            downstream(name.split()[-1], seed, options.runs)
            if "downstream" in name
            else trained(name, seed, options.steps, options.rooms, options.runs, root)
        )
        cell = {"cell": name, "seed": seed, **found}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell) + "\n")
        cells.append(cell)
    made = page(cells)
    if made["rows"]:
        options.seeds = 1 + max(cell["seed"] for cell in cells)
        machine.write(
            "vision_croco", command=machine.command(parser, options, "cells"), cells=cells, remade=options.table, **made
        )


if __name__ == "__main__":
    main()
