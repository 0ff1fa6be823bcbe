"""What the training loop costs over a bare loop of the same task.

Two tasks: a masked autoencoder with a ViT-Tiny at 224 pixels (the share of the time that is ours), and
an empty task of one parameter (microseconds a step). The two loops take turns, round by round, on
batches that are already in memory for the bare loop.

    python benchmarks/trainer_overhead.py [--rounds N]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import machine
from unlabel import loop, seeds
from unlabel.data import Dataset, collate
from unlabel.engine import Engine
from unlabel.logs import Observer
from unlabel.recipe import Execution, Recipe, Ref, Stage
from unlabel.task import Batch, Progress, Sample, Task
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks.mae import MAE


class InMemory(Dataset):
    """The same few arrays again and again: reading costs next to nothing."""

    def __init__(self, field: str, values: np.ndarray):
        self.field, self.values = field, values

    def __len__(self) -> int:
        return 4096

    def __getitem__(self, index: int) -> Sample:
        return {self.field: self.values[index % len(self.values)]}


class Empty(Task):
    """One parameter, no data to speak of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.weight * batch["x"].sum()}


class Masked(MAE):
    """The task without its crop, which belongs to the data."""

    def transform(self) -> None:
        return None


class Clock(Observer):
    """When each logged update was done."""

    def __init__(self) -> None:
        self.times: list[tuple[int, float]] = []

    def log(self, progress: Progress, metrics: object) -> None:
        self.times.append((progress.step, time.perf_counter()))

    def seconds_per_step(self) -> float:
        (first, begun), (last, done) = self.times[0], self.times[-1]
        return (done - begun) / (last - first)


def ours(task: Task, dataset: Dataset, stage: Stage) -> float:
    recipe = Recipe(task=Ref("benchmark"), encoder=Ref("none"), dataset=Ref("none"), stages=[stage])
    recipe = recipe.model_copy(update={"save_every": 10**9, "execution": Execution(workers=0)})
    engine, clock = Engine("cpu", "fp32"), Clock()
    engine.prepare(task)
    with tempfile.TemporaryDirectory() as folder:
        loop.train(loop.Training(recipe, task, dataset, engine, Path(folder), [clock]))
    return clock.seconds_per_step()


def bare(task: Task, dataset: Dataset, stage: Stage) -> float:
    """The loop anybody would write by hand."""
    stage = stage.resolved(len(dataset))
    steps, size = stage.steps or 0, stage.batch_size
    Engine("cpu", "fp32").prepare(task)
    task.train()
    (optimizer,) = task.optimizers(stage).values()
    batches = []
    for number in range(4):
        batch = collate([dataset[number * size + i] for i in range(size)])
        batch["key"] = torch.tensor([seeds.key(0, 0, number * size + i) for i in range(size)])
        batches.append(batch)
    for step in range(steps):
        if step == 10:
            begun = time.perf_counter()
        loss = task.loss(batches[step % 4])["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return (time.perf_counter() - begun) / (steps - 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds

    images = np.random.default_rng(0).integers(0, 256, (64, 224, 224, 3), dtype=np.uint8)
    cases = {
        "MAE, ViT-Tiny/16, 224 px, batch 16": (
            lambda: Masked(vit(dim=192, heads=3), decoder_dim=192, decoder_depth=4, decoder_heads=6),
            InMemory("image", images),
            Stage(steps=30, batch_size=16),
        ),
        "empty task, batch 1": (Empty, InMemory("x", np.zeros((64, 1), np.float32)), Stage(steps=2010, batch_size=1)),
    }
    rows = []
    for name, (make, dataset, stage) in cases.items():
        pairs = [(ours(make(), dataset, stage), bare(make(), dataset, stage)) for _ in range(rounds)]
        rows.append(
            {
                "task": name,
                "unlabel, ms a step": machine.spread([1e3 * a for a, _ in pairs]),
                "bare loop, ms a step": machine.spread([1e3 * b for _, b in pairs]),
                "ratio": machine.spread([a / b for a, b in pairs]),
                "difference, us a step": f"{statistics.median(1e6 * (a - b) for a, b in pairs):.0f}",
            }
        )
    notes = f"Medians of {rounds} rounds, the two loops in turn; in brackets smallest and largest. fp32."
    machine.write("trainer_overhead", "Cost of the training loop", "python benchmarks/trainer_overhead.py", rows, notes)


if __name__ == "__main__":
    main()
