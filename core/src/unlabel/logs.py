"""What a run writes while it goes: metrics.jsonl, the progress line, and other observers.

An `Observer` is told what happens and changes nothing. Metrics are averaged over the logged interval
and read from the device once per interval, so logging costs no synchronisation in between.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from torch import Tensor

from unlabel.errors import RunError, UsageError, one_line
from unlabel.storage import files
from unlabel.storage.jsonl import read_jsonl
from unlabel.task import Progress
from unlabel.terminal import terminal

if TYPE_CHECKING:
    from rich.console import Console

    from unlabel.recipe import Recipe, Stage

__all__ = ["Dispensable", "Interval", "Metrics", "Observer", "ProgressLine", "TensorBoard", "WandB"]


class Observer:
    """Told what happens in a run; override what you need. Constructed with the run's folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def check(cls) -> None:
        """Raise UsageError if a library it needs is missing; called before anything is written."""

    def start(self, recipe: Recipe) -> None:
        """The run begins or resumes."""

    def stage(self, number: int, stage: Stage, start: int) -> None:
        """Stage `number` begins at update `start`; the stage's lengths are in updates."""

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        """Every `log_every` updates, and for online checks: averaged numbers."""

    def event(self, progress: Progress, name: str, details: Mapping[str, Any]) -> None:
        """Something happened: ``begun`` (the first update of a stage is done), ``bad_sample``, ``saved``."""

    def close(self) -> None:
        """The run ends, well or not."""


class Interval:
    """Sums of metrics since the last line, kept on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.samples = 0
        self.since = time.perf_counter()

    def add(self, metrics: Mapping[str, Tensor], samples: int) -> None:
        """Add one update's metrics."""
        if self.sums.keys() == metrics.keys():
            for name, value in metrics.items():
                self.sums[name] = self.sums[name] + value
        else:
            self.sums = {name: self.sums.get(name, 0.0) + value for name, value in metrics.items()}
        self.count += 1
        self.samples += samples

    def take(self) -> dict[str, float]:
        """Averages since the last call, with ``samples_per_second``; then start anew."""
        count = max(1, self.count)
        averages = {name: float(value) / count for name, value in self.sums.items()}
        now = time.perf_counter()
        averages["samples_per_second"] = self.samples / max(1e-9, now - self.since)
        self.sums, self.count, self.samples, self.since = {}, 0, 0, now
        return averages


class Metrics(Observer):
    """``metrics.jsonl``: one line per logged interval, flushed at once.

    Resuming at an earlier update drops the lines after it, which are about to be written again. RunError if a line
    cannot be written.
    """

    def __init__(self, folder: Path, resume_at: int = 0):
        super().__init__(folder)
        path = folder / "metrics.jsonl"
        if path.exists():
            earlier = [record for record in read_jsonl(path) if record["total_step"] <= resume_at]
            files.write_whole(path, "".join(json.dumps(record) + "\n" for record in earlier))
        self.file: IO[str] = path.open("a", encoding="utf-8")

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        place = {
            "stage": progress.stage,
            "step": progress.step,
            "epoch": progress.epoch,
            "total_step": progress.total_step,
        }
        try:
            self.file.write(json.dumps({**place, **{name: _short(value) for name, value in metrics.items()}}) + "\n")
            self.file.flush()
        except OSError as error:
            raise RunError(f"{self.file.name} could not be written ({error.strerror})") from error

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of a line that was told of already
            self.file.close()


def _short(value: float) -> float:
    return float(f"{value:.7g}")


class ProgressLine(Observer):
    """The line on the terminal: updates, loss, samples/s, time left; without a terminal, a plain line now and then."""

    def __init__(self, folder: Path, console: Console, every: float = 10.0):
        super().__init__(folder)
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self.console, self.every, self.last = console, every, 0.0
        self.bar: Bar | None = None
        self.total, self.began, self.first = 0, time.perf_counter(), 0
        if console.is_terminal:
            text = TextColumn("[bold]{task.description}"), BarColumn(None), MofNCompleteColumn()
            self.bar = Bar(*text, TextColumn("{task.fields[numbers]}"), TimeRemainingColumn(), console=console)
            self.line = self.bar.add_task("", numbers="", total=None)

    def stage(self, number: int, stage: Stage, start: int) -> None:
        self.total, self.began, self.first = stage.steps or 0, time.perf_counter(), start
        if self.bar:
            self.bar.reset(self.line, total=self.total, completed=start, description=stage.name)
            self.bar.start()

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        shown = "  ".join(
            f"{name} {metrics[name]:.4g}" for name in ("loss", "accuracy", "knn", "lr") if name in metrics
        )
        speed = f"  {metrics['samples_per_second']:.0f} samples/s" if "samples_per_second" in metrics else ""
        if self.bar:
            self.bar.update(self.line, completed=progress.step, numbers=shown + speed)
        elif time.perf_counter() - self.last >= self.every or progress.step == self.total:
            self.last = time.perf_counter()
            done = progress.step - self.first
            left = (self.last - self.began) / max(1, done) * (self.total - progress.step)
            self.console.print(
                f"  update {progress.step}/{self.total}  {shown}{speed}  {_clock(left)} left", highlight=False
            )

    def event(self, progress: Progress, name: str, details: Mapping[str, Any]) -> None:
        if name == "bad_sample":
            self.console.print(f"  set aside: {details['path']}: {details['reason']}", highlight=False, markup=False)

    def close(self) -> None:
        if self.bar:
            self.bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Dispensable(Observer):
    """An observer that a run can do without: once it fails, that is said, and it is told nothing more.

    While the run has not begun, a failure is an error all the same: nothing is lost yet.

    Args:
        name: what the user calls it.
        kind: its class, or what makes it of the folder; it is made when the run starts.
        folder: the run's.
    """

    def __init__(self, name: str, kind: Callable[[Path], Observer], folder: Path):
        super().__init__(folder)
        self.name, self.kind = name, kind
        self.observer: Observer | None = None

    def start(self, recipe: Recipe) -> None:
        """Make it and start it; UsageError if that fails."""
        try:
            self.observer = self.kind(self.folder)
            self.observer.start(recipe)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"--observe {self.name} does not work: {one_line(error)}") from error

    def stage(self, number: int, stage: Stage, start: int) -> None:
        self._tell("stage", number, stage, start)

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        self._tell("log", progress, metrics)

    def event(self, progress: Progress, name: str, details: Mapping[str, Any]) -> None:
        self._tell("event", progress, name, details)

    def close(self) -> None:
        self._tell("close")

    def _tell(self, method: str, *arguments: Any) -> None:
        observer = self.observer
        if observer is None:
            return
        try:
            getattr(observer, method)(*arguments)
        except (Exception, SystemExit) as error:
            self.observer = None
            text = f"warning: observer {self.name} failed in {method}(): {one_line(error)}; the run goes on without it"
            terminal().print(text, highlight=False, markup=False)
            if method != "close":
                with contextlib.suppress(Exception, SystemExit):
                    observer.close()


class TensorBoard(Observer):
    """TensorBoard event files in the run's folder (extra ``tensorboard``)."""

    @classmethod
    def check(cls) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UsageError("--observe tensorboard needs `pip install 'unlabel[tensorboard]'`")

    def __init__(self, folder: Path):
        super().__init__(folder)
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, progress.total_step)

    def close(self) -> None:
        self.writer.close()


class WandB(Observer):
    """Weights & Biases (extra ``wandb``); the only observer that may use the network, and only when asked for."""

    @classmethod
    def check(cls) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise UsageError("--observe wandb needs `pip install 'unlabel[wandb]'`")

    def __init__(self, folder: Path):
        super().__init__(folder)
        import wandb

        self.wandb = wandb

    def start(self, recipe: Recipe) -> None:
        name = self.folder.name
        self.session = self.wandb.init(
            project="unlabel",
            name=name,
            id=name,
            resume="allow",
            dir=str(self.folder),
            config=recipe.model_dump(mode="json"),
        )

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        self.session.log(dict(metrics), step=progress.total_step)

    def close(self) -> None:
        self.session.finish()
