"""Does PPT's order hold? Its stages left out one after the other, on real pedestrians, at equal total updates.

Three arms: III alone, II and III, I to III. The published learning rate of the destination branch in stage III, 1e-7,
leaves it where stage II brought it, which is nowhere if there was none; so every arm gets its own rate, chosen by
held-out training tracks (seed 0) and then run with every seed. Nothing is chosen by the test set, unless asked with
--select test. Cells (data, arm, rate, seed) that are there already are not repeated; --cells N stops after N new ones.

    UNLABEL_SHARED=FOLDER python benchmarks/trajectory_ppt.py [--preset cpu|paper] [--cells N] [--only TEXT]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import machine
from unlabel import Catalog, Recipe, Run, compose
from unlabel.recipe import Group
from unlabel.session import Session
from unlabel_trajectory.tasks import ppt

ARMS = {"III": ("III",), "II + III": ("II warm-up", "II", "III"), "I + II + III": ("I", "II warm-up", "II", "III")}
ETH_UCY = {
    "eth": (0.36, 0.51),
    "hotel": (0.11, 0.15),
    "univ": (0.22, 0.40),
    "zara1": (0.17, 0.30),
    "zara2": (0.12, 0.21),
}
PUBLISHED = {**ETH_UCY, "sdd": (7.03, 10.65)}


@dataclass(frozen=True)
class Preset:
    """What is run.

    Attributes:
        data: scenes. arms: names. rates: of the destination branch in stage III. seeds: how many.
        sizes: settings of encoder and task. batch: tracks an update (of SDD, of ETH/UCY).
        shares: how an arm's updates are spread over its stages. steps: updates of every arm; None: the paper's
            epochs, times `epochs`.
        second: learning rate of stage II.
        drones_scale: what the drones' pixels are divided by inside the task (28: about metres). The networks start at
            positions of a few units; unscaled, as published, a short run does not even get to constant velocity.
    """

    data: tuple[str, ...]
    arms: tuple[str, ...]
    rates: tuple[float, ...]
    seeds: int
    sizes: tuple[str, ...]
    batch: tuple[int, int]
    shares: dict[str, tuple[float, ...]]
    steps: int | None
    epochs: float
    second: float
    drones_scale: float


SHARES = {"III": (1.0,), "II + III": (0.1, 0.5, 0.4), "I + II + III": (0.3, 0.05, 0.3, 0.35)}
PRESETS = {
    "cpu": Preset(
        ("zara1", "hotel", "sdd"),
        tuple(ARMS),
        (1e-7, 1e-4, 1e-3),
        3,
        ("encoder.dim=48", "encoder.depth=2", "encoder.hidden=128", "task.head_dim=128", "task.checks=3"),
        (64, 64),
        SHARES,
        600,
        0,
        1e-3,
        28.0,
    ),
    "paper": Preset(tuple(PUBLISHED), ("I + II + III",), (1e-7,), 1, (), (512, 256), SHARES, None, 0.2, 1e-4, 1.0),
}


@dataclass(frozen=True)
class Cell:
    """One run."""

    data: str
    arm: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.data}-{self.arm.replace(' + ', '-')}-{self.rate:g}-{self.seed}"


def recipe(cell: Cell, preset: Preset, catalog: Catalog, select: str, root: Path) -> Recipe:
    """What a cell runs."""
    place = root / "data" / ("sdd" if cell.data == "sdd" else "eth_ucy")
    settings = [*preset.sizes, f"dataset.select={select}", "monitor_every=1000000", "keep=1", f"seed={cell.seed}"]
    settings.append(f"task.scale={preset.drones_scale}" if cell.data == "sdd" else f"dataset.scene={cell.data}")
    whole = compose.compose("trajectory/ppt", catalog, name="paper", data=str(place), settings=settings)
    stages = {stage.name: stage for stage in whole.stages}
    chosen = []
    for name, share in zip(ARMS[cell.arm], preset.shares[cell.arm], strict=True):
        stage = stages[name].model_copy(update={"batch_size": preset.batch[cell.data != "sdd"]})
        if preset.steps is not None:
            stage = stage.model_copy(update={"steps": round(share * preset.steps), "epochs": None})
        else:
            stage = stage.model_copy(update={"epochs": (stage.epochs or 0) * preset.epochs})
        if name == "II":
            stage = stage.model_copy(update={"lr": preset.second})
        if name == "III":
            groups = [Group(pattern=p, lr_scale=cell.rate / stage.lr) for p in ("encoder.*", "destination.*")]
            stage = stage.model_copy(update={"groups": groups})
        chosen.append(stage)
    return whole.model_copy(update={"stages": chosen, "save_every": 10**6})


def work(cell: Cell, preset: Preset, select: str, runs: Path, root: Path) -> dict[str, object]:
    """Run a cell, or find it done."""
    path = runs / f"{cell.name}.json"
    if path.exists():
        found: dict[str, object] = json.loads(path.read_text())
        return found
    catalog = Catalog.installed()
    begun = time.process_time()
    chosen = recipe(cell, preset, catalog, select, root)
    folder = runs / cell.name
    Session(chosen, folder, catalog, evaluate=False, quiet=True).run() if not folder.exists() else Session(
        chosen, folder, catalog, evaluate=False, quiet=True
    ).run(resuming=True)
    done = Run(folder, catalog)
    task = done.task()
    assert isinstance(task, ppt.PPT)
    errors = done.evaluate("trajectory/forecast")["trajectory/forecast"]
    found = {
        "data": cell.data,
        "arm": cell.arm,
        "rate": cell.rate,
        "seed": cell.seed,
        "held_out_score": float(task.best_score),
        "errors": errors,
        "updates": sum(stage.resolved(10**5).steps or 0 for stage in chosen.stages) if preset.steps else None,
        "processor_seconds": round(time.process_time() - begun, 1),
    }
    path.write_text(json.dumps(found, indent=2) + "\n")
    return found


def cells(preset: Preset, done: dict[Cell, dict[str, object]]) -> list[Cell]:
    """What to run next: every rate with seed 0, then the best rate of each arm with the other seeds."""
    wanted = []
    for data in preset.data:
        for arm in preset.arms:
            tuning = [Cell(data, arm, rate, 0) for rate in preset.rates]
            wanted += tuning
            if all(cell in done for cell in tuning):
                best = min(tuning, key=lambda cell: done[cell]["held_out_score"])
                wanted += [Cell(data, arm, best.rate, seed) for seed in range(1, preset.seeds)]
    return wanted


def rows(preset: Preset, done: dict[Cell, dict[str, object]]) -> list[dict[str, object]]:
    """The table, as far as the cells go."""
    table = []
    for data in preset.data:
        unit = "px" if data == "sdd" else "m"
        for arm in preset.arms:
            tuning = [cell for cell in done if cell.data == data and cell.arm == arm and cell.seed == 0]
            if len(tuning) < len(preset.rates):
                continue
            best = min(tuning, key=lambda cell: done[cell]["held_out_score"])
            final = [
                done[cell]["errors"] for cell in done if (cell.data, cell.arm, cell.rate) == (data, arm, best.rate)
            ]
            first = final[0]
            table.append(
                {
                    "data": f"{data} ({unit})",
                    "arm": arm,
                    "destination lr": f"{best.rate:g}",
                    "seeds": len(final),
                    "minADE": machine.mean_and_spread([found[f"min_ade_{unit}"] for found in final]),
                    "minFDE": machine.mean_and_spread([found[f"min_fde_{unit}"] for found in final]),
                    "ADE of best FDE": machine.mean_and_spread([found[f"ade_of_best_fde_{unit}"] for found in final]),
                    "constant velocity": " / ".join(
                        f"{first[f'constant_velocity_{name}_{unit}']:.3f}" for name in ("ade", "fde")
                    ),
                    "published (full size)": " / ".join(str(value) for value in PUBLISHED[data]),
                    "ms a track": f"{statistics.median(found['ms_per_sample'] for found in final):.2f}",
                }
            )
    return table


def verdict(preset: Preset, done: dict[Cell, dict[str, object]]) -> list[str]:
    """Which arm won where, in words."""
    sentences = []
    for data in preset.data:
        unit = "px" if data == "sdd" else "m"
        means = {}
        for arm in preset.arms:
            tuning = [cell for cell in done if cell.data == data and cell.arm == arm and cell.seed == 0]
            if len(tuning) < len(preset.rates):
                continue
            best = min(tuning, key=lambda cell: done[cell]["held_out_score"])
            final = [
                done[cell]["errors"] for cell in done if (cell.data, cell.arm, cell.rate) == (data, arm, best.rate)
            ]
            means[arm] = {n: statistics.fmean(found[f"{n}_{unit}"] for found in final) for n in ("min_ade", "min_fde")}
        if len(means) > 1:
            orders = [" < ".join(sorted(means, key=lambda arm: means[arm][name])) for name in ("min_ade", "min_fde")]
            sentences.append(f"{data}: by minADE {orders[0]}; by minFDE {orders[1]}.")
    return sentences


def tuning_table(preset: Preset, done: dict[Cell, dict[str, object]]) -> str:
    """Held-out score of every rate."""
    lines = []
    for data in preset.data:
        for arm in preset.arms:
            found = [
                f"{cell.rate:g}: {done[cell]['held_out_score']:.3f}"
                for cell in sorted(done, key=lambda cell: cell.rate)
                if (cell.data, cell.arm, cell.seed) == (data, arm, 0)
            ]
            if found:
                lines.append(f"- {data}, {arm}: {'; '.join(found)}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--select", choices=("held-out", "test"), default="held-out")
    parser.add_argument("--cells", type=int, default=10**6, help="stop after so many new runs")
    parser.add_argument("--only", default="", help="part of a cell's name")
    parser.add_argument("--runs", type=Path, default=Path("runs/trajectory_ppt"))
    options = parser.parse_args()
    root = Path(os.environ.get("UNLABEL_SHARED", "../shared")).resolve()
    preset, runs = PRESETS[options.preset], options.runs / f"{options.preset}-{options.select}"
    runs.mkdir(parents=True, exist_ok=True)
    if options.preset == "cpu":
        torch.set_num_threads(1)

    done: dict[Cell, dict[str, object]] = {}
    new = 0
    while True:
        missing = [cell for cell in cells(preset, done) if cell not in done]
        there = [cell for cell in missing if (runs / f"{cell.name}.json").exists()]
        if there:  # they may decide which rate the other seeds run with
            done |= {cell: work(cell, preset, options.select, runs, root) for cell in there}
            continue
        missing = [cell for cell in missing if options.only in cell.name]
        if not missing or new >= options.cells:
            break
        done[missing[0]] = work(missing[0], preset, options.select, runs, root)
        new += 1
        print(missing[0].name, done[missing[0]]["processor_seconds"], "s", flush=True)
    report(options.preset, options.select, preset, done)


def report(name: str, select: str, preset: Preset, done: dict[Cell, dict[str, object]]) -> None:
    """Write the table."""
    table = rows(preset, done)
    if not table:
        return
    spent = sum(float(found["processor_seconds"]) for found in done.values())  # type: ignore[arg-type]
    length = (
        f"{preset.steps} updates of {preset.batch[1]} tracks in every run"
        if preset.steps
        else f"{preset.epochs:g} of the paper's epochs"
    )
    chosen = "held-out training agents (a tenth)" if select == "held-out" else "THE TEST SET (the authors' protocol)"
    notes = (
        f"Best of 20, minima taken independently; mean and standard deviation over seeds. {length}, spread over its "
        f"stages as {preset.shares}. Weights within a run are selected by {chosen}, and so is each arm's learning rate "
        f"of the destination branch in stage III. Stage II at {preset.second:g}; pixels are divided by "
        f"{preset.drones_scale:g} inside the task. {len(done)} runs took {spent / 60:.0f} minutes of one core.\n\n"
        f"{' '.join(verdict(preset, done))} The paper's order on SDD (full size): "
        "I + II + III 7.03 / 10.65, II + III 7.71 / 11.42, III 10.40 / 18.64, the last with a "
        "destination branch that hardly learns.\n\n"
        "Held-out score (3 minADE + minFDE, seed 0) by the destination branch's rate:\n\n"
        f"{tuning_table(preset, done)}"
    )
    suffix = ("" if name == "cpu" else f"_{name}") + ("" if select == "held-out" else "_select_test")
    command = f"python benchmarks/trajectory_ppt.py --preset {name}" + (
        "" if select == "held-out" else " --select test"
    )
    machine.write(f"trajectory_ppt{suffix}", "PPT: do its stages help?", command, table, notes)


if __name__ == "__main__":
    main()
