"""Does reading a folder of JPEGs keep the model busy? Training speed over the model-alone ceiling.

2,000 JPEGs of about 256 x 320 pixels, cut from scikit-image's photographs and written to a temporary
folder; MAE with a ViT-Tiny at 224 pixels. Three loops take turns, round by round: training from the
folder, the same task on batches in memory (the ceiling), and reading alone.

    python benchmarks/loading.py [--rounds N] [--batch-size N]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import skimage.data
from PIL import Image

import machine
from unlabel import data, loop, seeds
from unlabel.engine import Engine
from unlabel.recipe import Execution, Recipe, Ref, Stage
from unlabel.task import Task
from unlabel_vision import images
from unlabel_vision.datasets.folder import Folder
from unlabel_vision.encoders.vit import vit
from unlabel_vision.tasks.mae import MAE

from trainer_overhead import Clock  # isort: skip  # a neighbour of this script, not a package


def write_folder(folder: Path, count: int) -> None:
    """Random cut-outs of real photographs."""
    photos = [
        skimage.data.astronaut(),
        skimage.data.coffee(),
        skimage.data.chelsea(),
        skimage.data.rocket(),
        skimage.data.retina(),
    ]
    for number in range(count):
        draw = seeds.generator(5, number)
        photo = photos[number % len(photos)]
        top, left = (
            int(draw.integers(0, side - extent + 1)) for side, extent in zip(photo.shape, (256, 320), strict=False)
        )
        Image.fromarray(photo[top : top + 256, left : left + 320]).save(folder / f"{number:05d}.jpg", quality=85)


def make() -> MAE:
    return MAE(vit(dim=192, heads=3), decoder_dim=192, decoder_depth=4, decoder_heads=6)


def from_folder(folder: Path, precision: str, size: int, steps: int, workers: int | None) -> float:
    """Images a second of training, from the tenth update on."""
    stage = Stage(steps=steps, batch_size=size)
    recipe = Recipe(task=Ref("benchmark"), encoder=Ref("none"), dataset=Ref("none"), stages=[stage])
    recipe = recipe.model_copy(update={"save_every": 10**9, "log_every": 5, "execution": Execution(workers=workers)})
    engine, clock, task = Engine("cpu", precision), Clock(), make()
    engine.prepare(task)
    with tempfile.TemporaryDirectory() as run:
        loop.train(loop.Training(recipe, task, Folder(path=folder), engine, Path(run), [clock]))
    return size / clock.seconds_per_step()


def model_alone(folder: Path, precision: str, size: int, steps: int) -> float:
    """Images a second of the same updates on batches that are already there."""
    engine, task, stage = Engine("cpu", precision), make(), Stage(steps=steps, batch_size=size).resolved(2000)
    engine.prepare(task)
    stream = data.batches(Folder(path=folder), stage, engine, seed=0, transform=task.transform())
    batches = [next(stream)[0] for _ in range(4)]
    optimizers = task.optimizers(stage)
    task.train()
    for step in range(steps):
        if step == 5:
            begun = time.perf_counter()
        with engine.autocast():
            loss = task.loss(batches[step % 4])["loss"]
        loss.backward()
        optimizers["main"].step()
        optimizers["main"].zero_grad(set_to_none=True)
    return size * (steps - 5) / (time.perf_counter() - begun)


def reading_alone(folder: Path, task: Task, count: int = 400) -> tuple[float, float]:
    """Images a second, in this process, of read + decode + crop + collate, and of decoding alone."""
    reader = data.Reader(Folder(path=folder), task.transform(), 0)
    begun = time.perf_counter()
    for start in range(0, count, 50):
        reader.read([(0, index) for index in range(start, start + 50)])
    reading = count / (time.perf_counter() - begun)
    contents = [path.read_bytes() for path in sorted(folder.iterdir())[:count]]
    begun = time.perf_counter()
    for content in contents:
        images.decode(content)
    return reading, count / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--workers", type=int, default=None, help="default: what the trainer chooses")
    options = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_folder(folder, 2000)
        for precision in ("fp32", "bf16"):
            size, steps = options.batch_size, options.steps
            pairs = [
                (
                    from_folder(folder, precision, size, steps, options.workers),
                    model_alone(folder, precision, size, steps),
                )
                for _ in range(options.rounds)
            ]
            rows.append(
                {
                    "precision": precision,
                    "from the folder, images/s": machine.spread([a for a, _ in pairs], 1),
                    "model alone, images/s": machine.spread([b for _, b in pairs], 1),
                    "ratio": machine.spread([a / b for a, b in pairs]),
                }
            )
        speeds = [reading_alone(folder, make()) for _ in range(options.rounds)]
    notes = (
        f"MAE, ViT-Tiny/16 at 224 px, batch {options.batch_size}, {options.rounds} rounds in turn. Reading alone, one "
        f"process: {machine.spread([a for a, _ in speeds], 0)} images/s with crop and collate; decoding alone: "
        f"{machine.spread([b for _, b in speeds], 0)} images/s."
    )
    machine.write("loading", "Training from a folder of JPEGs", "python benchmarks/loading.py", rows, notes)


if __name__ == "__main__":
    main()
