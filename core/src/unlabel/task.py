"""Task: what a pretext task is to the trainer, and the ordinary training step.

A task owns its networks, its loss and whatever happens after an update. Everything else (order of the
data, devices, precision, saving) belongs to the loop, which knows no task. Write a task by subclassing
`Task` and giving it `loss` and `encode`; override `training_step`, `configure_stage`, `optimizers`,
`after_update`, `enter_stage`, `enter_epoch`, `transform` or `show` where the method differs. Those are meant to be
overridden; nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from unlabel import optim, signature
from unlabel.catalog import deprecation
from unlabel.errors import UsageError, nearest
from unlabel.show.media import Media

if TYPE_CHECKING:
    from unlabel.data.draw import Draw
    from unlabel.engine import Engine
    from unlabel.recipe import Stage

__all__ = ["Batch", "Progress", "Rows", "Sample", "Task", "Transform", "one_row_each"]

Sample = dict[str, Any]
"""One item of a dataset: field name -> array, tensor or number (uint8 where possible)."""

Batch = dict[str, Any]
"""What `Dataset.collate` makes: field name -> tensor with the batch first, on the device. The loader adds
``"key"`` (int64, (N,): randomness of each sample, see `unlabel.seeds`) and ``"index"`` (int64, (N,))."""

Transform = Callable[[Sample, "Draw"], Sample]
"""Turns a raw sample into what the task's batch needs, in the worker; picklable; draws only from the `Draw` it is
given."""


@dataclass(frozen=True)
class Progress:
    """Where the run stands.

    Attributes:
        stage: index of the stage, from 0.
        step: updates done in this stage: without the one that is being made, in `after_update` with it.
        steps: length of the stage's schedule in updates (its horizon), for schedules.
        epoch: passes over the data begun, from 0.
        total_step: updates done in the whole run.
    """

    stage: int
    step: int
    steps: int
    epoch: int
    total_step: int

    @property
    def fraction(self) -> float:
        """How much of the stage's schedule is done, in [0, 1]."""
        return min(1.0, self.step / max(1, self.steps))


class Rows(NamedTuple):
    """What `Task.encode` returns if a sample may have several representations: those of its texts, clips or views.

    Attributes:
        features: float, (M, D).
        sample: int64, (M,): which sample of the batch each is of, its place in the batch.
        labels: int64, (M,), the class of each, -1 for none; None: that of its sample.
    """

    features: Tensor
    sample: Tensor
    labels: Tensor | None = None


def one_row_each(rows: Tensor | Rows, what: str) -> Tensor:
    """The features, for a caller (`what`) that needs one row a sample.

    Raises:
        UsageError: samples have several rows.
    """
    if isinstance(rows, Rows):
        raise UsageError(f"{what} needs one representation a sample, and this task gives several")
    return rows


class Task(nn.Module):
    """A pretext task: networks, loss, and what happens after an update.

    The constructor's parameters before ``*`` are the encoders, each kept as the attribute of that name: ``def
    __init__(self, encoder, *, ...)``, or ``(self, image, text, *, ...)``. Its keywords are the task's configuration:
    typed, with the paper's values as defaults and a line each under ``Args:`` in the docstring.
    """

    evaluations: ClassVar[tuple[str, ...]] = ("knn", "linear_probe")
    """Names of the downstream evaluations that `unlabel evaluate` runs by default."""

    outputs: ClassVar[tuple[str, ...]] = ()
    """What `encode` can give, if it takes ``of``: ``("image", "text")``; the first is meant if none is named."""

    gathers: ClassVar[bool] = True
    """Whether two processes give the same update as one on the same global batch; say False if they do not."""

    expected: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Healthy range of a logged metric late in training, for the verdict: ``{"accuracy": (0.3, 1.0)}``."""

    obsolete: ClassVar[tuple[str, ...]] = ()
    """Patterns (as of a shell) of names that earlier versions of the task kept in its state: what a checkpoint has
    under them is left out when it is loaded. Everything else must fit, name by name."""

    progress: Progress = Progress(stage=0, step=0, steps=1, epoch=0, total_step=0)
    """Where the run stands: read it in `training_step` or `loss`; nothing of it belongs into the state.

    The loop sets it when a stage is entered, before each update, which it does not count yet, and again once the update
    is done; a loaded checkpoint sets it to where it was saved. A task outside of any run stands at the beginning. What
    is compiled (``--compile``) should not read its numbers: they change with each update."""

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Return named scalars. ``"loss"`` drives the update; several losses are named ``"loss_..."`` and
        combined by the recipe's weights; everything else is logged (detached)."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(batch)")

    def encode(self, batch: Batch) -> Tensor | Rows:
        """Return the frozen representation used downstream: float, (N, D), or `Rows`.

        A task with several `outputs` takes ``of``, one of them, besides.
        """
        raise NotImplementedError(f"{type(self).__name__} must define encode(batch)")

    def representation(self, batch: Batch, of: str = "") -> Tensor | Rows:
        """`encode` as its callers use it: of the output `of`; by default of the first.

        Raises:
            UsageError: no such output.
        """
        if not self.outputs and not of:
            return self.encode(batch)
        if of and of not in self.outputs:
            names = ", ".join(self.outputs) or "one output without a name"
            raise UsageError(f"{type(self).__name__} has no output {of!r}: it has {names}{nearest(of, self.outputs)}")
        return self.encode(batch, of=of or self.outputs[0])  # type: ignore[call-arg]  # such a task takes it

    def encoders(self) -> dict[str, nn.Module]:
        """The encoders by name: what is initialised, exported and judged.

        Raises:
            UsageError: the constructor takes an encoder that is not kept under its name.
        """
        modules = {}
        for name in signature.encoder_parts(type(self)):
            if not hasattr(self, name):
                raise UsageError(
                    f"{type(self).__name__} keeps its encoder {name!r} under another name: write self.{name} = {name}"
                )
            if (encoder := getattr(self, name)) is not None:
                modules[name] = cast(nn.Module, encoder)
        return modules

    def transform(self) -> Transform | None:
        """How one raw sample becomes a training sample (random crops and the like), or None to leave it."""
        return None

    def eval_transform(self) -> Transform | None:
        """How one raw sample becomes an evaluation sample (no randomness), or None to leave it."""
        return None

    def finetune_transform(self) -> Transform | None:
        """How one raw sample becomes a training sample of supervised fine-tuning; by default as for evaluation."""
        return self.eval_transform()

    def configure_stage(self, stage: Stage) -> Stage:
        """The stage as this method trains it, e.g. with a weight decay that rises; by default as the recipe says.

        Called once a stage, with its lengths resolved, before anything is built for it. Returns a copy, or the same.
        """
        return stage

    def optimizers(self, stage: Stage) -> dict[str, Optimizer]:
        """The optimizers of a stage by name; by default one over every trainable parameter, as the stage says."""
        return {"main": optim.build(self, stage)}

    def training_step(
        self, batches: list[Batch], optimizers: dict[str, Optimizer], engine: Engine, stage: Stage
    ) -> dict[str, Tensor]:
        """One update from `stage.accumulate` micro-batches: loss, backward, average, update.

        Returns:
            Named scalars (detached, on the device), averaged over the micro-batches.
        """
        totals: dict[str, Tensor] = {}
        for batch in batches:
            with engine.autocast():
                terms = engine.forward(self, batch)
            engine.backward(stage.total(terms) / len(batches))
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + value.detach() / len(batches)
        totals["gradient_norm"] = engine.update(self, optimizers["main"], stage)
        return totals

    def after_update(self, progress: Progress) -> None:
        """Called after every update: EMA copies, queues, centres."""

    def enter_stage(self, stage: Stage) -> None:
        """Called before a stage, and again when resuming inside it: set flags absolutely, not relatively."""

    def enter_epoch(self, progress: Progress, resumed: bool) -> None:
        """Called before the first update of an epoch, and before the first one after a resume inside an epoch.

        What is computed from the weights here belongs into the state (parameters or buffers), and is computed unless
        `resumed`: then it was loaded with the state, and the weights have moved on since it was computed.

        Args:
            progress: updates done before this one.
            resumed: whether the epoch began before, in the run that is resumed.
        """

    def prepare(self) -> None:
        """Offline precomputation, called by every run before it trains: idempotent, cached by content.

        The main process calls it first, then the others; see `unlabel.storage.cache`.
        """

    def assets(self) -> Mapping[str, Path]:
        """Files besides the weights that the task depends on (a vocabulary, a graph, statistics): name -> file.

        A run keeps copies with their hashes, gives them back when the task is built again, and exports them.
        """
        return {}

    def use_assets(self, assets: Mapping[str, Path]) -> None:
        """Take the files that `assets` named when the run began; called before `prepare`."""

    def provenance(self) -> dict[str, Any]:
        """Keywords that became known only when the task was built, such as the hash of a teacher's weights.

        They are written into the run's recipe and beside its results, so that the run says what it depends on, and
        come back when it is built again: the place to notice that something is no longer what it was.
        """
        return {}

    def show(self, batch: Batch) -> Mapping[str, Media | np.ndarray]:
        """What the task sees and does, for the report: name -> Picture, Text, Sound, Clip or Table.

        A bare array, uint8 (H, W, 3), is a `Picture`.
        """
        return {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        """A class that overrides what was called otherwise in version 0.1 works as before, with a warning."""
        super().__init_subclass__(**keywords)
        deprecation.adopt(cls, {"pictures": "show", "settled": "provenance"}, "unlabel 0.3")
