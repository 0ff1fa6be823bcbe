"""The masked and positional family side by side: same images, same encoder, same number of updates.

``--preset cpu``: each method on CIFAR-10 (20,000 training and 5,000 test JPEGs) at 32 pixels, with several seeds: curve
of the loss; linear probe, k-NN and fine-tuning from the first and from the trained weights; time an image, parameters,
multiplications. A training is a line of ``runs/vision_masked/cells.jsonl``, and once more when it was fine-tuned; what
is there is not repeated, so the script may be stopped at any time.
``--only`` trains some methods; the table is of all that were ever trained at these settings.
``--speed``: forward and backward pass of each method against MAE's, in turn, with what the multiplications let expect.

    UNLABEL_SHARED=FOLDER python benchmarks/vision_masked.py --preset cpu [--seeds N] [--steps N] [--only NAME ...]
    python benchmarks/vision_masked.py --speed [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import machine
from unlabel import Catalog, Recipe, Run, data, seeds
from unlabel import build as unlabel_build
from unlabel.cli import app
from unlabel.data import Dataset
from unlabel.engine import Engine
from unlabel.evaluate.features import Frozen
from unlabel.evaluate.finetune import finetune
from unlabel.evaluate.knn import knn
from unlabel.evaluate.linear_probe import linear_probe
from unlabel.nn import masking
from unlabel.recipe import Ref
from unlabel.task import Sample, Task
from unlabel_vision.tasks.colormae import ColorMAE
from unlabel_vision.tasks.mae import MAE
from unlabel_vision.tasks.mp3 import MP3

CIFAR = "data/cifar10_jpeg"
JUDGED = {"train": 4000, "test": 2000}  # samples that the probes and fine-tuning see
FINETUNING = {"epochs": 20, "batch_size": 128, "learning_rate": 1e-3, "warmup_epochs": 2}
ENCODER = {"image_size": 32, "patch_size": 4, "dim": 64, "depth": 3, "heads": 2, "pool": "avg"}
GROUP = 4  # images that MixedAE mixes into one by default
DECODER = {"decoder_dim": 64, "decoder_depth": 1, "decoder_heads": 2}


@dataclass(frozen=True)
class Method:
    """One row: a task, its keywords at this size, and those of its encoder that differ from the others'.

    Attributes:
        task: name.
        options: keywords of the small preset.
        large: keywords at ViT-Tiny's size and 224 pixels, for ``--speed``.
        encoder: keywords of the encoder.
        network: name of the encoder.
        lr: peak learning rate of the small preset.
        trained: whether the small preset has it; otherwise its cost alone is measured.
        costed: whether ``--speed`` has it.
        published: multiplications of a step over MAE's at the authors' sizes: ViT-B/16 at 224 pixels, MAE's decoder of
            8 blocks of width 512, 29.4 billion a step for MAE.
        pairs: whether it learns from pairs of images: here overlapping crops of the embedded photographs, as there are
            no pairs in CIFAR-10; other images than the others learn from, and no geometry.
    """

    task: str
    options: dict[str, Any] = field(default_factory=dict)
    large: dict[str, Any] = field(default_factory=dict)
    encoder: dict[str, Any] = field(default_factory=dict)
    network: str = "vision/vit"
    lr: float = 1e-3
    trained: bool = True
    costed: bool = True
    published: float = 1.0
    pairs: bool = False


LARGE = {"decoder_dim": 192, "decoder_depth": 4, "decoder_heads": 6}
SHALLOW = {**LARGE, "decoder_depth": 1}  # the papers' 2 blocks for MAE's 8
METHODS = {
    "MAE": Method("vision/mae", DECODER, LARGE),
    "MAE, as many parameters as CRATE-MAE": Method(
        "vision/mae", {**DECODER, "decoder_dim": 40}, encoder={"dim": 40}, costed=False
    ),
    "ColorMAE": Method("vision/colormae", DECODER, LARGE),
    "MixedAE": Method("vision/mixedae", DECODER, LARGE),
    "MixedAE, naive mixing": Method(
        "vision/mixedae",
        {**DECODER, "attention": "full", "segments": False, "contrast_weight": 0.0},
        {**LARGE, "attention": "full", "segments": False, "contrast_weight": 0.0},
    ),
    "DropPos": Method("vision/droppos", DECODER, SHALLOW, published=31.8 / 29.4),
    "DropPos, weights of its own pass": Method(
        "vision/droppos",
        {**DECODER, "attentive": "own"},
        {**SHALLOW, "attentive": "own"},
        trained=False,
        published=14.2 / 29.4,
    ),
    "MP3": Method("vision/mp3", encoder={"class_token": False}, published=44.1 / 29.4),
    "CRATE-MAE": Method(
        "vision/crate_mae", {"norm_pix": True}, {"decoder_depth": 4}, network="vision/crate", published=37.8 / 29.4
    ),
    "CRATE-MAE, layers not measured": Method(
        "vision/crate_mae",
        {"norm_pix": True, "monitored": 0},
        {"decoder_depth": 4, "monitored": 0},
        network="vision/crate",
        trained=False,
        published=37.8 / 29.4,
    ),
    "CroCo, crops of photographs": Method(
        "vision/croco",
        DECODER,
        LARGE,
        {"class_token": False},
        published=79.8 / 29.4,
        pairs=True,
    ),
    "GMML": Method("vision/gmml", {"blocks": [1, 2, 3]}, {"blocks": [6, 8, 10, 12]}, published=2.5),
    "EVA, teacher gradients and colours": Method(
        "vision/eva", {"teacher": "hog", "min_block": 4}, {"teacher": "hog"}, published=52.8 / 29.4
    ),
}


EXPLAINED = (
    "Where the ratios leave those of the published sizes: MAE's decoder is smaller here beside the encoder, so that "
    "methods that see all patches cost more in proportion (GMML two crops, and a head of convolutions; CroCo the whole "
    "second view), and those with a small head less (MP3, EVA); CRATE-MAE's published decoder has 12 layers, here 4. "
    "Where time leaves the multiplications: MixedAE scores the keys of every block but the first once more and chooses "
    "those most like the query (naive mixing attends to all); CRATE-MAE measures its layers on 8 images of each "
    "update, here on whole batches, and its products are narrow with much element by element between them."
)


IMAGES = 20_000  # of CIFAR-10 that are trained on
NOISE = 2 * (2 * 0.25 / JUDGED["test"]) ** 0.5  # two standard errors of a difference of two accuracies


class Noise(Dataset):
    """The same few random images again and again."""

    def __init__(self, size: int, count: int = 64):
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator).numpy()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return {"image": self.images[index], "second": self.images[index - 1]}


def build(method: Method, encoder: dict[str, Any], options: dict[str, Any], seed: int = 0) -> Task:
    """The task with freshly initialised weights, on the CPU in fp32."""
    stages = [{"steps": 1}]
    chosen = Recipe(
        task=Ref(method.task, **options),
        encoder=Ref(method.network, **{**encoder, **method.encoder}),
        dataset=Ref("vision/digits"),
        stages=stages,
        seed=seed,
    )
    task = unlabel_build.build(chosen, Catalog.installed(), Engine("cpu", "fp32"))
    return task.train()


def batch_of(task: Task, dataset: Dataset, count: int) -> dict[str, Any]:
    """A batch as the loader would make it."""
    reader = data.Reader(dataset, task.transform(), seed=0)
    batch, _ = reader.read([(0, index % len(dataset)) for index in range(count)])
    return batch


def step(task: Task, batch: dict[str, Any]) -> None:
    """Forward and backward pass of every loss."""
    seeds.seed(0)
    terms = task.loss(batch)
    sum(value for name, value in terms.items() if name.startswith("loss")).backward()
    task.zero_grad(set_to_none=True)


class Counter(TorchDispatchMode):
    """Counts floating-point operations as torch's own counter does, but for code without gradients too."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in flop_registry and func is not torch.ops.prim.device.default:
            with self:
                parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
        found = func(*args, **kwargs)
        if packet in flop_registry:
            self.total += flop_registry[packet](*args, **kwargs, out_val=found)
        return found


def multiplications(task: Task, batch: dict[str, Any]) -> tuple[float, float]:
    """Billions of multiplications an image, of the forward pass and with the backward pass."""
    found = []
    for work in (lambda: task.loss(batch), lambda: step(task, batch)):
        with Counter() as counter:
            work()
        found.append(counter.total / 2e9 / len(batch["key"]))
    return found[0], found[1]


def processor_seconds(task: Task, batch: dict[str, Any], rounds: int) -> list[float]:
    """Processor time of each of some forward and backward passes: other work on the machine counts little."""
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        step(task, batch)
        found.append(time.process_time() - begun)
    return found


# --- the small preset


def words(method: Method, steps: int, batch: int) -> list[str]:
    """The command line after ``unlabel train TASK``, without data, seed and place."""
    encoder = {**ENCODER, **method.encoder}
    sets = {f"task.{name}": value for name, value in method.options.items()}
    sets |= {f"encoder.{name}": value for name, value in encoder.items()}
    sets |= {"monitor_every": steps // 2, "save_every": steps // 2}
    sets |= {"stages.0.lr": method.lr, "stages.0.warmup_steps": steps // 10, "stages.0.warmup_epochs": None}
    found = ["--recipe", "quick", "--encoder", method.network, "--steps", str(steps), "--batch-size", str(batch)]
    if method.pairs:
        sets |= {"dataset.size": 37, "dataset.count": 20_000}
    for name, value in sets.items():
        shown = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        found += ["--set", f"{name}={shown}"]
    return found


def command_lines(steps: int, batch: int) -> str:
    """The whole command of the first method, and what is otherwise in those of the others."""

    def settings(method: Method) -> list[str]:
        given = words(method, steps, batch)
        return [f"{a} {b}" for a, b in zip(given[::2], given[1::2], strict=True)]

    (first, usual), *others = ((n, m) for n, m in METHODS.items() if m.trained)
    common = settings(usual)
    lines = [f"- {first}: `unlabel train {usual.task} {' '.join(data_words(usual, Path()))} {' '.join(common)}`"]
    for name, method in others:
        own = settings(method)
        more, fewer = [w for w in own if w not in common], [w for w in common if w not in own]
        given = (
            ""
            if data_words(method, Path()) == data_words(usual, Path())
            else " " + " ".join(data_words(method, Path()))
        )
        line = f"- {name}: the same of `unlabel train {method.task}{given}`"
        line += f", with `{' '.join(more)}`" * bool(more) + f", without `{' '.join(fewer)}`" * bool(fewer)
        lines.append(line)
    return "\n".join(lines)


def data_words(method: Method, root: Path) -> list[str]:
    """The part of the command line that says what to learn from."""
    if method.pairs:
        return ["--data", "vision/overlaps"]
    return ["--data", str(root / CIFAR)]


def curve(metrics: list[dict[str, float]], points: int = 20) -> dict[str, list[float]]:
    """Every logged loss and accuracy, thinned out."""
    lines = [line for line in metrics if any(name.startswith("loss") for name in line)]
    chosen = lines[:: max(1, len(lines) // points)]
    wanted = ("loss", "accuracy", "homologous", "contrast_excess", "step")
    names = [name for name in (chosen[-1] if chosen else {}) if name.startswith(wanted)]
    return {name: [round(line[name], 4) for line in chosen if name in line] for name in names}


def place(name: str, seed: int, runs: Path) -> Path:
    """Where the run of a method and seed lies."""
    return runs / f"{''.join(c if c.isalnum() else '-' for c in name)}-{seed}"


def images_of(root: Path) -> Dataset:
    """What all are judged by."""
    return unlabel_build.build_dataset(Ref("vision/folder", path=str(root / CIFAR)), Catalog.installed())


def trained(name: str, seed: int, steps: int, batch: int, runs: Path, root: Path) -> dict[str, Any]:
    """Train one method with one seed; judge it and the same network untrained."""
    method, folder = METHODS[name], place(name, seed, runs)
    command = ["train", method.task, *data_words(method, root), *words(method, steps, batch)]
    command += ["--seed", str(seed), "--out", str(folder), "--overwrite", "--no-evaluate"]
    app(command, standalone_mode=False)

    done = Run(folder)
    engine = Engine("cpu", "fp32")
    task = unlabel_build.build(done.recipe, Catalog.installed(), engine)
    dataset, measured = images_of(root), {}
    for when, judged in (("before", task), ("after", done.task(engine))):
        frozen = Frozen(judged, dataset, engine, seed=seed, limit=JUDGED)
        measured[f"linear_probe_{when}"] = linear_probe(frozen)["accuracy"]
        measured[f"knn_{when}"] = knn(frozen)["accuracy"]
    return {**measured, "curve": curve(done.metrics), "machine": machine.machine()}


def cost(task: Task, batch: int) -> dict[str, float]:
    """Parameters, multiplications and processor time of a task in fp32."""
    task.train()
    images = batch_of(task, Noise(32), batch)
    forward, both = multiplications(task, images)
    return {
        "parameters": sum(p.numel() for p in task.parameters() if p.requires_grad),
        "encoder_parameters": sum(p.numel() for p in task.encoder.parameters()),
        "gmac_forward": round(forward, 4),
        "gmac_step": round(both, 4),
        "ms_an_image": round(1e3 * statistics.median(processor_seconds(task, images, 5)) / batch, 4),
    }


def finetuned(name: str, seed: int, batch: int, runs: Path, root: Path) -> dict[str, Any]:
    """Fine-tune a run's network and the same one untrained, those of MP3 once more without positions; and its cost."""
    done, engine, dataset = Run(place(name, seed, runs)), Engine("cpu", "auto"), images_of(root)
    found: dict[str, Any] = {"finetune_precision": engine.precision}
    for when in ("before", "after"):
        task = unlabel_build.build(done.recipe, Catalog.installed(), engine) if when == "before" else done.task(engine)
        frozen = Frozen(task, dataset, engine, seed=seed, limit=JUDGED)
        found[f"finetune_{when}"] = finetune(frozen, **FINETUNING)["accuracy"]
        if isinstance(task, MP3):
            task.finetune_positions = "none"
            found[f"finetune_unplaced_{when}"] = finetune(frozen, **FINETUNING)["accuracy"]
    lines = [line for line in done.metrics if "compression_1" in line]
    for metric in ("compression", "sparsity") if lines else ():  # of each layer
        found[metric] = [lines[-1][f"{metric}_{layer}"] for layer in range(1, ENCODER["depth"] + 1)]
    plain = Engine("cpu", "fp32")
    return found | cost(unlabel_build.build(done.recipe, Catalog.installed(), plain), batch)


def preset(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Train what is missing, and write the table."""
    path = options.runs / "cells.jsonl"
    root = Path(os.environ.get("UNLABEL_SHARED", "../shared")).resolve()
    there = machine.cells(path, "vision_masked") if options.table or path.exists() else []
    known = {tuple(cell[part] for part in ("method", "seed", "steps", "batch")): cell for cell in there}
    for seed in range(options.seeds):
        for name in [n for n in METHODS if METHODS[n].trained and (not options.only or n in options.only)]:
            asked = (name, seed, options.steps, options.batch)
            if options.table:
                continue
            if asked not in known:
                cell = dict(zip(("method", "seed", "steps", "batch"), asked, strict=True))
                known[asked] = keep(path, cell | trained(*asked, options.runs, root))
            if "finetune_after" not in known[asked]:
                known[asked] = keep(path, known[asked] | finetuned(name, seed, options.batch, options.runs, root))
    cells = [cell for key, cell in known.items() if key[2:] == (options.steps, options.batch)]
    if cells:
        options.seeds = 1 + max(cell["seed"] for cell in cells)
        command = machine.command(parser, options, "speed", "rounds")
        machine.write("vision_masked", command=command, cells=cells, remade=options.table, **page(cells))


def keep(path: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """Add a line to the file of cells; of several of the same training the last counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(cell) + "\n")
    return cell


def page(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Title, rows and notes of the table of cells with equal settings."""
    by_name = {name: [cell for cell in cells if cell["method"] == name] for name in METHODS}
    steps, batch = cells[0]["steps"], cells[0]["batch"]
    notes = (
        f"{steps} updates of {batch} images. Mean and standard deviation over seeds; accuracy on "
        f"{JUDGED['test']:,} held-out images of probes that saw {JUDGED['train']:,} training images, of the mean over "
        "the patches' features. Fine-tuning, from the first and from the trained weights: "
        f"{FINETUNING['epochs']} epochs of the same {JUDGED['train']:,} images with AdamW, peak rate "
        f"{FINETUNING['learning_rate']:g} for 256 images, layer decay, crops and mirroring. Time is that of one "
        "processor for forward and backward pass, GMAC (of the forward pass) and parameters include decoders and "
        "heads. Curves are in the JSON file."
    )
    told = [notes, expectations(cells), care(cells), command_lines(steps, batch)]
    return {
        "title": "The masked and positional family on CIFAR-10",
        "rows": [row(name, own) for name, own in by_name.items() if own],
        "notes": "\n\n".join(told),
    }


def care(cells: list[dict[str, Any]]) -> str:
    """How far the figures go: length, seeds, what is beyond the noise of the test images, what was not run."""
    gains: dict[str, list[float]] = {}
    for cell in cells:
        gains.setdefault(cell["method"], []).append(cell["linear_probe_after"] - cell["linear_probe_before"])
    beyond = {name for name, own in gains.items() if abs(statistics.fmean(own)) > NOISE}
    missing = [name for name, method in METHODS.items() if method.trained and name not in gains]
    seeds_of = sorted({len(own) for own in gains.values()})
    counted = " to ".join(str(count) for count in dict.fromkeys((seeds_of[0], seeds_of[-1])))
    epochs = cells[0]["steps"] * cells[0]["batch"] / IMAGES
    told = [
        f"{epochs:.1f} epochs; seeds: {counted}. Gains of the linear probe over the first weights beyond "
        f"{100 * NOISE:.1f} points (two standard errors of a difference on {JUDGED['test']:,} images): "
        f"{'; '.join(name for name in gains if name in beyond) or 'none'}."
    ]
    if within := [name for name in gains if name not in beyond]:
        told.append(f"Within them: {'; '.join(within)}.")
    if missing:
        told.append(f"Not run: {'; '.join(missing)}.")
    if seeds_of[0] == 1:
        told.append("One seed has no spread.")
    return f"**Read with care.** {' '.join(told)}"


def expectations(cells: list[dict[str, Any]]) -> str:
    """What papers and arithmetic let expect at this scale, and whether it holds in every seed, with figures."""

    def of(name: str, measure: Callable[[dict[str, Any]], float | None]) -> dict[int, float]:
        own = [cell for cell in cells if cell["method"] == name]
        return {cell["seed"]: value for cell in own if (value := measure(cell)) is not None}

    def last(metric: str) -> Callable[[dict[str, Any]], float]:
        return lambda cell: statistics.fmean(cell["curve"][metric][-3:])

    def gain(cell: dict[str, Any]) -> float:
        return float(cell["linear_probe_after"] - cell["linear_probe_before"])

    def tuned(what: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda cell: cell.get(f"finetune_{what}")

    def probe(cell: dict[str, Any]) -> float:
        return float(cell["linear_probe_after"])

    def mixed(cell: dict[str, Any]) -> float:
        return last("loss_reconstruction" if "loss_reconstruction" in cell["curve"] else "loss")(cell)

    lines = []

    def expect(
        words: str, found: dict[int, float], other: dict[int, float], holds: Callable[[float, float], bool]
    ) -> None:
        shared = sorted(found.keys() & other.keys())
        if shared:
            kept = sum(holds(found[seed], other[seed]) for seed in shared)
            verdict = "confirmed" if kept == len(shared) else "not confirmed"
            figures = "; ".join(f"{found[seed]:.3f} and {other[seed]:.3f}" for seed in shared)
            lines.append(f"- {words}: {verdict} ({kept} of {len(shared)} seeds: {figures}).")

    def fixed(value: float) -> dict[int, float]:
        return {cell["seed"]: value for cell in cells}

    more, less = (lambda a, b: a > b), (lambda a, b: a < b)
    for name in METHODS:
        before = of(name, lambda cell: float(cell["linear_probe_before"]))
        expect(f"{name}: linear probe above random init", of(name, probe), before, more)
    for name in METHODS:
        before, after = of(name, tuned("before")), of(name, tuned("after"))
        expect(f"{name}: fine-tuned above fine-tuned from random init", after, before, more)
    blind = {when: of("MP3", tuned(f"unplaced_{when}")) for when in ("before", "after")}
    expect("MP3, no positions in fine-tuning: above the same from random init", blind["after"], blind["before"], more)
    placed = of("MP3", tuned("before"))
    expect("MP3, no positions in fine-tuning: above random init with positions", blind["after"], placed, more)
    mae, chance = "MAE", 1 / (ENCODER["image_size"] // ENCODER["patch_size"]) ** 2
    naive = of("MixedAE, naive mixing", mixed)
    expect(
        "Naive mixing: reconstruction error below MAE's, as mixing tells of what is hidden",
        naive,
        of(mae, last("loss")),
        less,
    )
    share = fixed(1 / GROUP)
    expect("MixedAE: homologous keys above chance", of("MixedAE", last("homologous")), share, more)

    def of_layer(metric: str, layer: int) -> Callable[[dict[str, Any]], float | None]:
        return lambda cell: cell[metric][layer] if metric in cell else None

    first, final = (of("CRATE-MAE", of_layer("compression", layer)) for layer in (0, -1))
    expect(
        "CRATE-MAE: coding rate within subspaces lower after the last layer than after the first", final, first, less
    )
    zeros = of("CRATE-MAE", of_layer("sparsity", -1))
    expect("CRATE-MAE: more than half of the last layer's numbers are zero", zeros, fixed(0.5), more)
    rival = "MAE, as many parameters as CRATE-MAE"
    expect(f"CRATE-MAE: linear probe above that of {rival}", of("CRATE-MAE", probe), of(rival, probe), more)
    for name in ("DropPos", "MP3"):
        expect(f"{name}: positions right, ten times chance", of(name, last("accuracy")), fixed(10 * chance), more)
    expect(
        f"ColorMAE: linear probe as MAE's, within {NOISE:.3f} (two standard errors of two accuracies)",
        of("ColorMAE", probe),
        of(mae, probe),
        lambda a, b: abs(a - b) < NOISE,
    )
    expect(
        "MixedAE: gain of the linear probe above naive mixing's",
        of("MixedAE", gain),
        of("MixedAE, naive mixing", gain),
        more,
    )
    return "Expected at this scale, figures seed by seed:\n\n" + "\n".join(lines)


def row(name: str, cells: list[dict[str, Any]]) -> dict[str, object]:
    """Means and spreads over the seeds."""
    found: dict[str, object] = {"method": name, "seeds": len(cells)}
    for evaluation in ("linear_probe", "knn", "finetune"):
        for when, title in (("before", "random init"), ("after", "trained")):
            values = [cell[f"{evaluation}_{when}"] for cell in cells if f"{evaluation}_{when}" in cell]
            found[f"{evaluation}, {title}"] = machine.mean_and_spread(values) if values else "-"
    ends = [cell["curve"] for cell in cells]
    for title, metric in (("loss", "loss"), ("position accuracy", "accuracy"), ("homologous keys", "homologous")):
        values = [
            (curve[metric][0], curve[metric][-1]) if metric in curve else None
            for curve in ({**c, "loss": c.get("loss", c.get("loss_reconstruction", []))} for c in ends)
        ]
        shown = [value for value in values if value is not None]
        found[title] = (
            f"{statistics.fmean(v[0] for v in shown):.3f} to {statistics.fmean(v[1] for v in shown):.3f}"
            if shown
            else "-"
        )
    found["ms an image"] = machine.spread([cell["ms_an_image"] for cell in cells], 2)
    found["GMAC forward"] = f"{cells[0]['gmac_forward']:.4f}"
    found["parameters trained"] = f"{cells[0]['parameters']:,}"
    return found


# --- speed


def drawing(task: MAE | ColorMAE, batch: dict[str, Any], rounds: int = 20) -> float:
    """Median processor time of drawing the masks of a batch, in seconds."""
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        noise = task.noise(batch["key"]) if isinstance(task, ColorMAE) else seeds.uniform(batch["key"], (task.length,))
        masking.from_noise(noise, task.mask_ratio, descending=isinstance(task, ColorMAE))
        found.append(time.process_time() - begun)
    return statistics.median(found)


def speed(options: argparse.Namespace) -> None:
    """Forward and backward pass of each method and of MAE in turn."""
    torch.manual_seed(0)
    size = {"image_size": 224, "patch_size": 16, "dim": 192, "depth": 12, "heads": 3}
    small = {**ENCODER, "depth": 12, "dim": 192, "heads": 3}  # the same network on 64 patches of 4 pixels
    rows, masks = [], ""
    for title, encoder, count in (("224 px, 196 patches", size, 4), ("32 px, 64 patches", small, 16)):
        dataset = Noise(encoder["image_size"])
        made, costs = {}, {}
        for name, method in METHODS.items():
            if not method.costed or (options.only and name not in (*options.only, "MAE")):
                continue
            task = build(method, {**encoder, "pool": "avg"}, method.large)
            made[name] = task, batch_of(task, dataset, count)
            costs[name] = multiplications(*made[name])
            step(*made[name])  # warm up
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(options.rounds):
            for name, (task, batch) in made.items():
                seconds[name] += processor_seconds(task, batch, 1)
        whole = statistics.median(seconds["MAE"])
        if "ColorMAE" in made:
            drawn = [drawing(*made[name]) for name in ("MAE", "ColorMAE")]
            masks += (
                f" Drawing masks, {title}: MAE's {1e6 * drawn[0]:.0f} us, ColorMAE's {1e6 * drawn[1]:.0f} us a batch, "
                f"{100 * drawn[0] / whole:.2f} % and {100 * drawn[1] / whole:.2f} % of MAE's forward and backward pass."
            )
        for name in made:
            ratios = [own / mae for own, mae in zip(seconds[name], seconds["MAE"], strict=True)]
            rows.append(
                {
                    "input": title,
                    "method": name,
                    "images/s": f"{count / statistics.median(seconds[name]):.1f}",
                    "time / MAE's": machine.spread(ratios, 2),
                    "GMAC / MAE's": f"{costs[name][1] / costs['MAE'][1]:.2f}",
                    "published sizes / MAE's": f"{METHODS[name].published:.2f}",
                    "GMAC forward": f"{costs[name][0]:.3f}",
                }
            )
    notes = (
        "ViT of 12 blocks of width 192 (CRATE-MAE: CRATE of that size), decoders of 4 blocks of width 192, DropPos' of "
        f"1. Medians of {options.rounds} rounds, all methods in turn; in brackets smallest and largest. Processor time,"
        " fp32, forward and backward pass without the update. GMAC are counted by torch, of matrix products and "
        "attention, of forward and backward pass unless it says otherwise; published sizes are ViT-B/16 and MAE's "
        "decoder of 8 blocks of width 512."
        f"{masks}\n\n{EXPLAINED}"
    )
    title = "Cost of a step of the masked and positional family"
    machine.write("vision_masked_speed", title, "python benchmarks/vision_masked.py --speed", rows, notes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=["cpu"])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--table", action="store_true", help="write the table of what is there, train nothing")
    parser.add_argument("--only", nargs="+", choices=list(METHODS), help="these methods alone")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/vision_masked"))
    options = parser.parse_args()
    if not options.preset and not options.speed:
        parser.error("give --preset cpu, --speed, or both")
    if options.speed:
        speed(options)
    if options.preset:
        preset(options, parser)


if __name__ == "__main__":
    main()
