"""What every library is asked to do for benchmarks/peers.py, and the clock it is timed with.

Runs in each library's own environment, so nothing but torch and timm is imported, and those late. All libraries get
the same network (timm's, made here), the same projector or decoder, optimizer and batch, one thread, and no loader
processes. A run ends by itself: the clock hears of every optimizer's step through torch's own hook, whatever library
made it, and after the last one it prints what it saw and ends the process.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Work:
    """One piece of work.

    Attributes:
        size: side of the views in pixels.
        scale: smallest area of a crop, as a share of the image.
        strength, blur: of SimCLR's colour jitter, probability of its blur.
        hidden, out: widths of SimCLR's projector.
        temperature: of its loss.
    """

    name: str
    size: int
    scale: float
    strength: float = 0.0
    blur: float = 0.0
    hidden: int = 0
    out: int = 0
    temperature: float = 0.0

    @property
    def contrastive(self) -> bool:
        return bool(self.hidden)

    @property
    def jitter(self) -> tuple[float, float, float, float]:
        """Brightness, contrast, saturation, hue."""
        return (0.8 * self.strength, 0.8 * self.strength, 0.8 * self.strength, 0.2 * self.strength)


WORKS = {
    work.name: work
    for work in (
        Work("simclr32", 32, 0.08, strength=0.5, blur=0.0, hidden=512, out=128, temperature=0.5),
        Work("simclr224", 224, 0.08, strength=1.0, blur=0.5, hidden=2048, out=128, temperature=0.1),
        Work("mae224", 224, 0.2),
    )
}
JITTER_P, GRAY_P, SIGMA = 0.8, 0.2, (0.1, 2.0)
FEATURES = 512  # of a ResNet-18
SGD = {"lr": 0.06, "momentum": 0.9, "weight_decay": 5e-4}
ADAMW = {"lr": 1.5e-4, "betas": (0.9, 0.95), "weight_decay": 0.05}
DECODER = {"dim": 192, "depth": 4, "heads": 6}
MASK_RATIO = 0.75
FAR = 1000
"""Updates that libraries are told to do: so many that saving and checking at the end never fall into what is timed."""


def backbone(work: Work) -> Any:
    """ResNet-18, with a small stem for 32 pixels; or ViT-Tiny/16."""
    import timm
    from torch import nn

    if not work.contrastive:
        return timm.create_model("vit_tiny_patch16_224", num_classes=0)
    if work.size > 64:
        return timm.create_model("resnet18", num_classes=0)
    network = timm.create_model("resnet18", num_classes=0)
    network.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


def options(description: str) -> argparse.Namespace:
    """The command line of every driver; from here on, stdout is the clock's alone."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder of images in it")
    parser.add_argument("--out", type=Path, required=True, help="folder for what the library writes")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", choices=("real", "null", "alone"), default="real", help="alone: batches in memory")
    parser.add_argument("--defaults", action="store_true", help="the library's own precision and memory format")
    parser.add_argument("--started", type=float, default=time.time(), help="time.time() when the process was started")
    chosen = parser.parse_args()
    chosen.work = WORKS[chosen.work]
    chosen.stdout = os.dup(1)
    os.dup2(2, 1)  # libraries print tables
    return chosen


class Clock:
    """Times every optimizer step of the process, and ends it after the last.

    Args:
        chosen: the driver's options.
        imported: processor seconds that the library's imports took.
        says: facts about the run, for the table.
    """

    def __init__(self, chosen: argparse.Namespace, imported: float, **says: object):
        import torch
        from torch.optim.optimizer import register_optimizer_step_post_hook

        torch.set_num_threads(chosen.threads)
        self.chosen, self.imported, self.says = chosen, imported, says
        self.ticks: list[tuple[float, float]] = []
        self.first = 0.0
        register_optimizer_step_post_hook(self.tick)

    def tick(self, optimizer: Any, *_: object) -> None:
        self.ticks.append((processor(), time.perf_counter()))
        if len(self.ticks) == 1:
            self.first = time.time() - self.chosen.started
        if len(self.ticks) == self.chosen.steps:
            self.end(optimizer)

    def end(self, optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        kinds = {str(p.dtype).removeprefix("torch.") for p in parameters}
        seen = {
            "import_cpu_s": self.imported,
            "first_step_cpu_s": self.ticks[0][0],
            "first_step_s": self.first,
            "step_cpu_s": [after[0] - before[0] for before, after in zip(self.ticks, self.ticks[1:], strict=False)],
            "step_s": [after[1] - before[1] for before, after in zip(self.ticks, self.ticks[1:], strict=False)],
            "images": self.chosen.batch,
            "parameters": sum(p.numel() for p in parameters),
            "weights": "/".join(sorted(kinds)),
            **self.says,
        }
        os.write(self.chosen.stdout, (json.dumps(seen) + "\n").encode())
        sys.stderr.flush()
        os._exit(0)  # what a library does after its last update is not part of the work


def processor() -> float:
    """Processor seconds of this process, all threads, and of its children that have ended."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system
