"""Several pretext tasks on the same encoders: ``unlabel train sonar/echo+sonar/drift --combine pareto``.

Every part keeps what it is: its own transform (a sample is read once and seen by each part in its own way), its own
heads, teachers and schedule, its own loss. Only encoders are shared, by their names, and how the parts' gradients on
them become one update is the question of this module:

- ``sum``: the gradient of the weighted sum of the losses; weights are those of the stage.
- ``pareto``: the multiple-gradient descent algorithm (Désidéri 2012; Sener and Koltun, arXiv 1810.04650). One backward
  per part gives its gradient on the encoder; the minimum-norm point of their convex hull gives the parts' weights. The
  long gradients are touched three times: to be made, for their inner products, and to be added up. There is no second
  pass: the gradient of a weighted sum is the weighted sum of the gradients.

A recipe lists them: ``{"tasks": [{"name": "sonar/echo", "delay": 3}, {"name": "sonar/drift"}], "combination": {"how":
"pareto"}}``; ``--set task.sonar/echo.delay=3`` changes one. In logs a part goes by its name after the slash:
``loss_echo``, ``echo.accuracy``, ``alpha_echo``, ``cosine_echo_drift``; so do weights
(``--set stages.0.weights.loss_echo=0.5``) and parameters (``parts.echo.head.weight``).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlabel import combine as combining
from unlabel import engine as engines
from unlabel import seeds
from unlabel.combine import Normalisation
from unlabel.data import Draw, Views
from unlabel.errors import UsageError
from unlabel.show.media import Media
from unlabel.task import Batch, Progress, Rows, Sample, Task, Transform

if TYPE_CHECKING:
    from unlabel.engine import Engine
    from unlabel.recipe import Stage

__all__ = ["Combine", "Joint"]

Combine = Literal["sum", "pareto"]


class Joint(Task):
    """Several tasks that share encoders.

    Features, evaluation transforms and layers are those of the first part; evaluations are those of all.

    Args:
        encoders: what the parts share, by name; each of them was built around these very modules.
        parts: short name -> task.
        combine: ``sum``, or ``pareto`` for the minimum-norm point of the gradients; see the module.
        normalise: pareto: what each part's gradient is divided by before the weights are sought.
        update: pareto: ``authors`` multiplies the weights with the parts' own gradients, as published code does, so
            that the update need not descend on every part; ``normalised`` with the normalised ones: the minimum-norm
            point itself, which does. Heads get their part's weight times their own gradient in either case.

    Attributes:
        gathers: whether all parts do.

    Raises:
        UsageError: a part has its own training step or optimizers, so that its update cannot be joined to others.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        parts: Mapping[str, Task],
        *,
        combine: Combine = "sum",
        normalise: Normalisation = "l2",
        update: Literal["authors", "normalised"] = "authors",
    ):
        super().__init__()
        shared = {parameter for encoder in encoders.values() for parameter in encoder.parameters()}
        owned: set[nn.Parameter] = set()
        for label, part in parts.items():
            owned |= _check_combinable(label, part, shared, owned)
        self._shared = tuple(encoders)
        for name, encoder in encoders.items():
            if name in ("parts", "combine", "normalise", "update", "first", "training"):
                raise UsageError(f"an encoder of several tasks cannot be called {name!r}")
            self.add_module(name, encoder)  # by the names that a single task gives them, in its state dict too
        self.parts = nn.ModuleDict(parts)
        self.combine, self.normalise, self.update = combine, normalise, update
        tasks = list(parts.values())
        self.first = next(iter(parts))
        self.outputs = tasks[0].outputs  # type: ignore[misc]
        # What a single task says as a class is said here for this set of parts.
        self.evaluations = tuple(dict.fromkeys(name for part in tasks for name in part.evaluations))  # type: ignore[misc]
        self.gathers = all(part.gathers for part in tasks)  # type: ignore[misc]
        self.obsolete = tuple(  # type: ignore[misc]
            f"parts.{label}.{pattern}" for label, part in parts.items() for pattern in part.obsolete
        )
        self.expected = {  # type: ignore[misc]
            f"{label}.{name}": span for label, part in parts.items() for name, span in part.expected.items()
        }

    def encoders(self) -> dict[str, nn.Module]:
        """The shared encoders by name."""
        return {name: self.get_submodule(name) for name in self._shared}

    @property
    def progress(self) -> Progress:
        """Where the run stands, for all parts."""
        return self.part(self.first).progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        for label in self.parts:
            self.part(label).progress = progress

    def part(self, label: str) -> Task:
        """The part of that short name."""
        return cast(Task, self.parts[label])

    @property
    def layers(self) -> int:
        return cast(int, self.part(self.first).layers)

    def layer_of(self, name: str) -> int:
        own = name.removeprefix(f"parts.{self.first}.")
        if own == name and name.partition(".")[0] not in self._shared:
            return self.layers + 1  # another part's head
        return self.part(self.first).layer_of(own)  # type: ignore[no-any-return, operator]  # Layered, or no layer_decay

    def transform(self) -> Transform | None:
        transforms = {label: self.part(label).transform() for label in self.parts}
        return _EachItsOwn(transforms) if any(transforms.values()) else None

    def eval_transform(self) -> Transform | None:
        return self.part(self.first).eval_transform()

    def finetune_transform(self) -> Transform | None:
        return self.part(self.first).finetune_transform()

    def encode(self, batch: Batch, of: str = "") -> Tensor | Rows:
        """The representation as the first part defines it."""
        return self.part(self.first).representation(batch, of)

    def view(self, label: str, batch: Batch) -> Batch:
        """What one part sees of a batch: its own view and what is nobody's, with randomness of its own.

        The first part's samples keep their keys, so it draws what it would draw alone; the others' are mixed anew,
        or two parts that mask would mask the same.
        """
        prefixes = tuple(f"{other}:" for other in self.parts)
        shared = {field: value for field, value in batch.items() if not field.startswith(prefixes)}
        own = {
            field.removeprefix(f"{label}:"): value for field, value in batch.items() if field.startswith(f"{label}:")
        }
        number = list(self.parts).index(label)
        keys = {"key": batch["key"] ^ seeds.mix(0x10147, number)} if number and "key" in batch else {}
        return {**shared, **own, **keys}

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Every part's terms under names of their own: ``loss_LABEL`` (or ``loss_LABEL_...``), ``LABEL.metric``."""
        terms: dict[str, Tensor] = {}
        for label in self.parts:
            terms |= _named(label, self.part(label).loss(self.view(label, batch)))
        return terms

    def training_step(
        self, batches: list[Batch], optimizers: dict[str, Optimizer], engine: Engine, stage: Stage
    ) -> dict[str, Tensor]:
        """One update: see the module. ``"loss"`` among the metrics is the weighted sum of the losses in either case."""
        if self.combine == "sum":
            metrics = self._sum(batches, engine, stage)
        else:
            metrics = self._pareto(batches, optimizers["main"], engine, stage)
        norm = engine.update(self, optimizers["main"], stage)
        return {"loss": stage.total(metrics).detach(), **metrics, "gradient_norm": norm}

    def _sum(self, batches: list[Batch], engine: Engine, stage: Stage) -> dict[str, Tensor]:
        """Leave the gradient of the weighted sum on the parameters."""
        metrics: dict[str, Tensor] = {}
        for batch in batches:
            with engine.autocast():
                terms = engine.forward(self, batch)
            engine.backward(stage.total(terms) / len(batches))
            _add(metrics, terms, len(batches))
        return metrics

    def _pareto(self, batches: list[Batch], optimizer: Optimizer, engine: Engine, stage: Stage) -> dict[str, Tensor]:
        """Leave gradients weighted by the minimum-norm point on the parameters; heads get their part's weight.

        Over several processes the parts' gradients are averaged before their inner products, so that all processes
        solve the same problem and find the same weights. Averages of weights that each process had found from its own
        samples would be the minimum-norm point of no problem at all.
        """
        if engine.shard:
            raise UsageError("--combine pareto needs each part's whole gradient on every process: leave --shard out")
        trained = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        encoders = nn.ModuleDict(self.encoders())
        shared = [parameter for parameter in encoders.parameters() if parameter in trained]
        metrics: dict[str, Tensor] = {}
        losses, rows = [], []
        for label in self.parts:
            parts_losses = []
            for batch in batches:
                with engine.autocast():
                    terms = _named(label, engine.forward(self.part(label), self.view(label, batch)))
                weights = {name: weight for name, weight in stage.weights.items() if name in terms}
                loss = combining.total(terms, weights) / len(batches)
                engine.backward(loss)
                parts_losses.append(loss.detach().float())
                _add(metrics, terms, len(batches))
            losses.append(torch.stack(parts_losses).sum())
            rows.append(_taken(encoders, shared))

        gradients, values = torch.stack(rows), torch.stack(losses)
        engines.average([gradients, values], engine.world)
        gram = (gradients @ gradients.T).double().cpu() / engine.scaler.get_scale() ** 2
        if engine.precision == "fp16" and not bool(gram.isfinite().all()):  # ordinary: the scaler skips this update
            gram = torch.zeros_like(gram)
        alpha = combining.balance(gram, values, self.normalise)
        factors = alpha
        if self.update == "normalised":
            scale = combining.divisors(gram, values, self.normalise)
            factors = torch.where(scale > 0, alpha / scale, 0.0)
        _give(shared, factors.to(gradients) @ gradients)
        for label, weight in zip(self.parts, alpha.tolist(), strict=True):
            _scale(self.part(label), weight, besides=set(shared))

        metrics |= {f"alpha_{label}": alpha[number] for number, label in enumerate(self.parts)}
        cosines = combining.cosines(gram)
        for (i, left), (j, right) in itertools.combinations(enumerate(self.parts), 2):
            metrics[f"cosine_{left}_{right}"] = cosines[i, j]
        return metrics

    def configure_stage(self, stage: Stage) -> Stage:
        """As the first part says, whose recipe the stages are from."""
        return self.part(self.first).configure_stage(stage)

    def after_update(self, progress: Progress) -> None:
        for label in self.parts:
            self.part(label).after_update(progress)

    def enter_stage(self, stage: Stage) -> None:
        for label in self.parts:
            self.part(label).enter_stage(stage)

    def enter_epoch(self, progress: Progress, resumed: bool) -> None:
        for label in self.parts:
            self.part(label).enter_epoch(progress, resumed)

    def provenance(self) -> dict[str, Any]:
        """What every part settles: ``LABEL.keyword``; see `unlabel.build.with_provenance` for a recipe's form."""
        return {
            f"{label}.{name}": value for label in self.parts for name, value in self.part(label).provenance().items()
        }

    def prepare(self) -> None:
        for label in self.parts:
            self.part(label).prepare()

    def assets(self) -> Mapping[str, Path]:
        """Every part's, as ``LABEL/name``."""
        return {f"{label}/{name}": path for label in self.parts for name, path in self.part(label).assets().items()}

    def use_assets(self, assets: Mapping[str, Path]) -> None:
        for label in self.parts:
            prefix = f"{label}/"
            own = {name.removeprefix(prefix): path for name, path in assets.items() if name.startswith(prefix)}
            self.part(label).use_assets(own)

    def show(self, batch: Batch) -> dict[str, Media | np.ndarray]:
        return {
            f"{label} {name}": picture
            for label in self.parts
            for name, picture in self.part(label).show(self.view(label, batch)).items()
        }


class _EachItsOwn:
    """Shows one sample to each part through the part's own transform; the draws follow one another."""

    def __init__(self, transforms: Mapping[str, Transform | None]):
        self.transforms = dict(transforms)

    def __call__(self, sample: Sample, draw: Draw) -> Views:
        return Views(
            {
                label: dict(sample) if transform is None else transform(dict(sample), draw)
                for label, transform in self.transforms.items()
            }
        )


def _check_combinable(
    label: str, part: Task, shared: set[nn.Parameter], others: set[nn.Parameter]
) -> set[nn.Parameter]:
    """The part's own parameters, after checking that its update can be joined to others'."""
    for method, what in (("training_step", "updates its networks"), ("optimizers", "chooses its optimizers")):
        if getattr(type(part), method) is not getattr(Task, method):
            raise UsageError(
                f"{label} {what} in its own way ({type(part).__name__}.{method}), so its update cannot be joined with "
                "another task's: train it alone"
            )
    own = set(part.parameters()) - shared
    if own & others:
        raise UsageError(f"{label} shares parameters with another part besides the encoders'")
    return own


def _named(label: str, terms: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A part's terms under names of its own: losses stay losses."""
    return {
        f"loss_{label}{name.removeprefix('loss')}"
        if name == "loss" or name.startswith("loss_")
        else f"{label}.{name}": value
        for name, value in terms.items()
    }


def _add(sums: dict[str, Tensor], terms: Mapping[str, Tensor], count: int) -> None:
    for name, value in terms.items():
        sums[name] = sums.get(name, 0.0) + value.detach() / count


def _taken(encoders: nn.Module, shared: list[nn.Parameter]) -> Tensor:
    """The gradient of the shared parameters as one vector, float32, (P,), taken off them; zero where none arrived."""
    gradients = [
        (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).reshape(-1) for parameter in shared
    ]
    encoders.zero_grad(set_to_none=True)
    return torch.cat(gradients).float() if gradients else torch.zeros(0)


def _give(shared: list[nn.Parameter], gradient: Tensor) -> None:
    """Leave a vector on the parameters as their gradient, each in its parameter's memory layout."""
    pieces = torch.split(gradient, [parameter.numel() for parameter in shared])
    for parameter, piece in zip(shared, pieces, strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(piece.view(parameter.shape))


def _scale(part: Task, weight: float, besides: set[nn.Parameter]) -> None:
    """Multiply the gradients of a part's heads; at weight 0 there is none, or momentum would still move them."""
    for parameter in part.parameters():
        if parameter.grad is not None and parameter not in besides:
            parameter.grad = parameter.grad.mul_(weight) if weight else None
