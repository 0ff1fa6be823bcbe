"""Updates and forecasts a second: the plugin against the straightforward formulation, in turn, in one run.

Both train on the same windows, from the same weights' sizes, in fp32, with dropout, Adam and clipping: the plain one
(`trajectory_plain.py`) with plain torch, ours with the trainer's own step. Times are processor times of this process
on one thread, which other programs on the machine change little; on a GPU, wall-clock times.

    python benchmarks/trajectory_speed.py [--size tiny|paper] [--rounds 5] [--compile]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from itertools import islice

import torch
from torch import Tensor

import machine
import trajectory_plain as plain
from unlabel import Catalog, build, compose, data
from unlabel.engine import Engine
from unlabel.recipe import Stage
from unlabel.task import Batch, Task
from unlabel_trajectory import forecasting
from unlabel_trajectory.tasks import ppt

SIZES = {
    "tiny": ({"dim": 48, "depth": 2, "heads": 4, "hidden": 192}, 128, 128),
    "paper": ({"dim": 128, "depth": 3, "heads": 4, "hidden": 512}, 512, 512),
}
FORECASTS = (1, 512)


def clock(device: torch.device) -> float:
    """Seconds: of the processor, or of the wall once the GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def milliseconds(work: Callable[[], object], count: int, device: torch.device) -> float:
    """Time of one call, over `count` of them."""
    begun = clock(device)
    for _ in range(count):
        work()
    return 1000 * (clock(device) - begun) / count


class Plain:
    """The straightforward formulation: three networks, one after the other."""

    def __init__(self, sizes: dict[str, int], batches: list[Batch], device: torch.device):
        full = {**sizes, "dropout": 0.1}
        self.first = plain.PlainNextPosition(**full).to(device)
        self.second = plain.PlainDestination(**full).to(device)
        self.third = plain.PlainPPT(**full).to(device)
        self.batches, self.number = batches, 0

    def updates(self, stage: str) -> Callable[[], None]:
        """What one update of a stage does."""
        network = {"I": self.first, "II": self.second, "III": self.third}[stage]
        teachers = (self.first.eval(), self.second.eval()) if stage == "III" else ()
        network.train()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)

        def update() -> None:
            batch = self.batches[self.number % len(self.batches)]
            self.number += 1
            track = forecasting.augmented(batch["track"], batch["key"], 8)
            optimizer.zero_grad()
            loss = network.loss(track, *teachers)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            loss.item()

        return update


class Ours:
    """The plugin's task in the trainer's step."""

    def __init__(self, task: Task, samples: data.Dataset, stages: dict[str, Stage], engine: Engine):
        self.task, self.samples, self.stages, self.engine = task, samples, stages, engine

    def updates(self, stage: str) -> Callable[[], None]:
        """What one update of a stage does, reading included; teachers speak once, before."""
        chosen = self.stages[stage]
        self.task.train()
        self.task.enter_stage(chosen)
        optimizers = self.task.optimizers(chosen)
        stream = data.batches(self.samples, chosen, self.engine, seed=1)

        def update() -> None:
            batch, _ = next(stream)
            self.task.training_step([self.engine.to_device(batch)], optimizers, self.engine, chosen)

        return update


WHY = """Three times was asked for, of stage III and of forecasts; forecasts of one track alone reach it on a CPU. The
straightforward formulation does what the release does and no more: both teachers run in every update, with gradients,
through which the backward pass goes as well; every position of every block; 20 passes, one candidate each. Ours
computes each of those once or not at all. What is left are matrix products, in which both sides run at the
processor's speed. Nothing was measured on a GPU, where the straightforward formulation would mostly wait for kernels
to start."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes, head, batch_size = SIZES[options.size]

    catalog = Catalog.installed()
    engine = Engine("auto", "fp32", compile=options.compile)
    settings = [f"encoder.{name}={value}" for name, value in sizes.items()]
    recipe = compose.compose(
        "trajectory/ppt", catalog, batch_size=batch_size, settings=[*settings, f"task.head_dim={head}"]
    )
    task = build.build(recipe, catalog, engine)
    samples = build.build_dataset(recipe.dataset, catalog)
    # long enough that the teachers' features are computed once
    stages = {s.name: s.model_copy(update={"steps": 10**6}).resolved(len(samples)) for s in recipe.stages}
    stream = data.batches(samples, stages["I"], engine, seed=1)
    batches = [engine.to_device(batch) for batch, _ in islice(stream, 16)]
    sides = {
        "plain": Plain({**sizes, "head_dim": head}, batches, engine.device),
        "ours": Ours(task, samples, stages, engine),
    }

    rows = []
    for stage in ("I", "II", "III"):
        works = {}
        for name, side in sides.items():
            works[name] = side.updates(stage)
            works[name]()  # hands weights over, lets the teachers speak, compiles
        taken = measured(works, options.rounds, options.updates, engine.device)
        rows.append(row(f"stage {stage}, ms an update of {batch_size}", taken))
    assert isinstance(task, ppt.PPT)
    assert task._cache is not None
    for count in FORECASTS:
        past = forecasting.relative(samples.table()["track"][:count].to(engine.device), 8)[:, :8]
        works = {"plain": forecaster(sides["plain"].third, past), "ours": forecaster(task, past)}
        repeats = 20 if count == 1 else 1
        taken = measured(works, options.rounds, repeats, engine.device)
        rows.append(row(f"20 forecasts of {count} track{'s' * (count > 1)}, ms", taken))
    begun = clock(engine.device)
    task._teach(samples.context()["tracks"].to(engine.device), stages["III"])
    once = clock(engine.device) - begun
    notes = (
        f"Encoder {sizes}, heads of {head}, fp32{', compiled' if options.compile else ''}; medians of {options.rounds} "
        f"rounds in turn, in brackets smallest and largest. {'Processor' if engine.device.type == 'cpu' else 'Wall'} "
        f"time. What teachers say about {len(samples):,} tracks in 5 versions is computed once in "
        f"{once:.1f} s, not counted above; plain computes it anew in every update.\n\n{ceilings(sizes, head)}\n\n{WHY}"
    )
    name = "trajectory_speed" + ("" if options.size == "tiny" else f"_{options.size}") + "_compiled" * options.compile
    command = f"python benchmarks/trajectory_speed.py --size {options.size}" + " --compile" * options.compile
    machine.write(name, "PPT: updates and forecasts", command, rows, notes)


def ceilings(sizes: dict[str, int], head: int) -> str:
    """What matrix products alone would give, in words."""
    parts = [
        f"{name}: {one:,.0f} against {other:,.0f} thousand, {one / other:.2f} times"
        for name, (one, other) in products(sizes, head).items()
    ]
    return (
        "Multiplications in matrix products of a track's forward pass (a backward pass has twice as many): "
        f"{'; '.join(parts)}. On a core whose time goes into products, the figures cannot be far from these."
    )


def products(sizes: dict[str, int], head: int) -> dict[str, tuple[float, float]]:
    """Multiplications in matrix products of a track's forward pass, in thousands: straightforward, ours.

    Of 8 observed and 12 future positions. A backward pass has twice as many, for both; so the ratio is what would be
    gained if nothing but matrix products took time.
    """
    dim, depth, hidden = sizes["dim"], sizes["depth"], sizes["hidden"]

    def one(length: int, tokens: int) -> int:
        """A block on a sequence, of whose tokens so many come out."""
        return 2 * length * dim**2 + tokens * (2 * dim**2 + 2 * dim * hidden + 2 * length * dim)

    def passed(length: int, wanted: int) -> int:
        return (depth - 1) * one(length, length) + one(length, wanted)

    def mlp(out: int) -> int:
        return dim * head + 2 * head**2 + head * out

    destination, last = mlp(40), mlp(2)
    after = passed(20, 12) + last
    shared = one(20, 20) - 4 * dim**2 * 20 + 20 * dim**2  # of the first block's maps, only the last token's and `proj`
    ends = 20 * (shared + 4 * dim**2 + (depth - 2) * one(20, 20) + one(20, 12) + last)
    alignment = 13 * dim**2
    plain_update = passed(19, 19) + 2 * passed(9, 9) + passed(20, 20) + destination + last + alignment
    found = {
        "an update of stage III": (plain_update, passed(9, 1) + destination + after + alignment),
        "20 forecasts": (20 * (passed(20, 20) + last), ends),
    }
    return {name: (one / 1000, other / 1000) for name, (one, other) in found.items()}


def forecaster(network: torch.nn.Module, past: Tensor) -> Callable[[], Tensor]:
    """What forecasting a batch does."""
    network.eval()

    def work() -> Tensor:
        with torch.inference_mode():
            return network.forecast(past)

    return work


def measured(
    works: dict[str, Callable[[], object]], rounds: int, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Milliseconds of each side's call, the sides in turn."""
    for work in works.values():
        milliseconds(work, 2, device)
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            taken[name].append(milliseconds(work, repeats, device))
    return taken


def row(what: str, taken: dict[str, list[float]]) -> dict[str, object]:
    """A line of the table."""
    ratio = [a / b for a, b in zip(taken["plain"], taken["ours"], strict=True)]
    plain_, ours = (machine.spread(taken[name], 1) for name in ("plain", "ours"))
    return {"what": what, "straightforward": plain_, "ours": ours, "times faster": machine.spread(ratio, 2)}


if __name__ == "__main__":
    main()
