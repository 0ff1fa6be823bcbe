"""Several pretext tasks on one encoder: ``unlabel train sonar/echo+sonar/drift --combine pareto``.

Every part keeps what it is: its own transform (a sample is read once and seen by each part in its own way), its own
heads, teachers and schedule, its own loss. Only the encoder is shared, and how the parts' gradients on it become one
update is the question of this module:

- ``sum``: the gradient of the weighted sum of the losses; weights are those of the stage.
- ``pareto``: the multiple-gradient descent algorithm (Désidéri 2012; Sener and Koltun, arXiv 1810.04650). One backward
  per part gives its gradient on the encoder; the minimum-norm point of their convex hull gives the parts' weights. The
  long gradients are touched three times: to be made, for their inner products, and to be added up. There is no second
  pass: the gradient of a weighted sum is the weighted sum of the gradients.

In a recipe the task's name is ``A+B``, and the keywords of each part stand under its name:
``{"name": "sonar/echo+sonar/drift", "sonar/echo": {"delay": 3}, "combine": "pareto"}``, so that
``--set task.sonar/echo.delay=3`` changes one. In logs a part goes by its name after the slash: ``loss_echo``,
``echo.accuracy``, ``alpha_echo``, ``cosine_echo_drift``; so do weights (``--set stages.0.weights.loss_echo=0.5``) and
parameters (``parts.echo.head.weight``).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from unlabel import combine as combining
from unlabel import engine as engines
from unlabel import recipe, seeds
from unlabel.combine import Normalisation
from unlabel.data import Views
from unlabel.errors import UsageError, nearest
from unlabel.recipe import Group, Recipe, Ref
from unlabel.task import Batch, Progress, Sample, Task, Transform

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog
    from unlabel.engine import Engine
    from unlabel.recipe import Stage

__all__ = ["Combine", "Joint", "apart", "build", "check", "compose", "with_data", "labels", "names", "with_provenance"]

Combine = Literal["sum", "pareto"]


class Joint(Task):
    """Several tasks that share an encoder.

    Features, evaluation transforms and layers are those of the first part; evaluations are those of all.

    Args:
        encoder: what the parts share; each of them was built around this very module.
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
        encoder: nn.Module,
        parts: Mapping[str, Task],
        *,
        combine: Combine = "sum",
        normalise: Normalisation = "l2",
        update: Literal["authors", "normalised"] = "authors",
    ):
        super().__init__()
        owned: set[nn.Parameter] = set()
        for label, part in parts.items():
            owned |= _check_combinable(label, part, encoder, owned)
        self.encoder = encoder
        self.parts = nn.ModuleDict(parts)
        self.combine, self.normalise, self.update = combine, normalise, update
        tasks = list(parts.values())
        self.first = next(iter(parts))
        # What a single task says as a class is said here for this set of parts.
        self.evaluations = tuple(dict.fromkeys(name for part in tasks for name in part.evaluations))  # type: ignore[misc]
        self.gathers = all(part.gathers for part in tasks)  # type: ignore[misc]
        self.expected = {  # type: ignore[misc]
            f"{label}.{name}": span for label, part in parts.items() for name, span in part.expected.items()
        }

    def part(self, label: str) -> Task:
        """The part of that short name."""
        return cast(Task, self.parts[label])

    @property
    def layers(self) -> int:
        return cast(int, self.part(self.first).layers)

    def layer_of(self, name: str) -> int:
        own = name.removeprefix(f"parts.{self.first}.")
        if own == name and not name.startswith("encoder."):
            return self.layers + 1  # another part's head
        return self.part(self.first).layer_of(own)  # type: ignore[no-any-return, operator]  # Layered, or no layer_decay

    def transform(self) -> Transform | None:
        transforms = {label: self.part(label).transform() for label in self.parts}
        return _EachItsOwn(transforms) if any(transforms.values()) else None

    def eval_transform(self) -> Transform | None:
        return self.part(self.first).eval_transform()

    def finetune_transform(self) -> Transform | None:
        return self.part(self.first).finetune_transform()

    def encode(self, batch: Batch) -> Tensor:
        """The representation as the first part defines it."""
        return self.part(self.first).encode(batch)

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
        found: dict[str, Tensor] = {}
        for label in self.parts:
            found |= _named(label, self.part(label).loss(self.view(label, batch)))
        return found

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
        shared = [parameter for parameter in self.encoder.parameters() if parameter in trained]
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
            rows.append(_taken(self.encoder, shared))

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

    def enter_epoch(self, epoch: int) -> None:
        for label in self.parts:
            self.part(label).enter_epoch(epoch)

    def provenance(self) -> dict[str, Any]:
        """What every part settles: ``LABEL.keyword``; see `with_provenance` for a recipe's form."""
        return {
            f"{label}.{name}": value for label in self.parts for name, value in self.part(label).provenance().items()
        }

    def pictures(self, batch: Batch) -> dict[str, np.ndarray]:
        return {
            f"{label} {name}": picture
            for label in self.parts
            for name, picture in self.part(label).pictures(self.view(label, batch)).items()
        }


class _EachItsOwn:
    """Shows one sample to each part through the part's own transform; the draws follow one another."""

    def __init__(self, transforms: Mapping[str, Transform | None]):
        self.transforms = dict(transforms)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Views:
        return Views(
            {
                label: dict(sample) if transform is None else transform(dict(sample), rng)
                for label, transform in self.transforms.items()
            }
        )


def _check_combinable(label: str, part: Task, encoder: nn.Module, others: set[nn.Parameter]) -> set[nn.Parameter]:
    """The part's own parameters, after checking that its update can be joined to others'."""
    for method, what in (("training_step", "updates its networks"), ("optimizers", "chooses its optimizers")):
        if getattr(type(part), method) is not getattr(Task, method):
            raise UsageError(
                f"{label} {what} in its own way ({type(part).__name__}.{method}), so its update cannot be joined with "
                "another task's: train it alone"
            )
    own = set(part.parameters()) - set(encoder.parameters())
    if own & others:
        raise UsageError(f"{label} shares parameters with another part besides the encoder's")
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


def _taken(encoder: nn.Module, shared: list[nn.Parameter]) -> Tensor:
    """The gradient of the shared parameters as one vector, float32, (P,), taken off them; zero where none arrived."""
    found = [
        (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).reshape(-1) for parameter in shared
    ]
    encoder.zero_grad(set_to_none=True)
    return torch.cat(found).float() if found else torch.zeros(0)


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


# --- in recipes ----------------------------------------------------------------------------------


def names(task: str) -> list[str]:
    """The catalog names in ``A+B``; of a single task, its own.

    Raises:
        UsageError: a name is missing or there twice.
    """
    found = [name.strip() for name in task.split("+")]
    if not all(found) or len(set(found)) < len(found):
        raise UsageError(f"task {task!r}: expected different names joined by '+', e.g. sonar/echo+sonar/drift")
    return found


def labels(found: list[str]) -> dict[str, str]:
    """Short name of each task: what follows the slash, or the whole name, slash replaced, where that is not unique."""
    short = {name: name.rpartition("/")[2] for name in found}
    counts = Counter(short.values())
    return {
        name: (label if counts[label] == 1 else name.replace("/", "_")).replace(".", "_")
        for name, label in short.items()
    }


def check(ref: Ref, catalog: Catalog) -> dict[str, Any]:
    """The keywords of a task, single or joint, checked and converted; see `recipe.keywords`.

    Raises:
        UsageError: an unknown name or keyword, naming the part it was meant for, or a value of the wrong type.
    """
    found = names(ref.name)
    if len(found) == 1:
        return recipe.keywords(ref, catalog.load("tasks", ref.name), "task", skip=1)
    parts = {
        part.name: recipe.keywords(part, catalog.load("tasks", part.name), f"task.{part.name}", skip=1)
        for part in _parts(ref)
    }
    own = {name: value for name, value in ref.options.items() if name not in parts}
    known = recipe.parameters(Joint, skip=2)
    for name in own:
        if name not in known:
            hint = nearest(name, [*parts, *known]) or f"; expected {', '.join([*parts, *known])}"
            raise UsageError(f"task.{name}: {ref.name} has no keyword {name!r}{hint}")
    return {**parts, **recipe.keywords(Ref(ref.name, **own), Joint, "task", skip=2)}


def _parts(ref: Ref) -> list[Ref]:
    """The Refs of the parts of a joint task."""
    found = []
    for name in names(ref.name):
        options = ref.options.get(name, {})
        if not isinstance(options, Mapping):
            raise UsageError(f"task.{name}: expected the keywords of this part, not {options!r}")
        found.append(Ref(name, **options))
    return found


def with_data(ref: Ref, implied: Mapping[str, Any], catalog: Catalog) -> Ref:
    """A task, single or joint, with the keywords that its data determine filled in; see `recipe.with_data`."""
    if len(names(ref.name)) == 1:
        known = recipe.parameters(catalog.load("tasks", ref.name), skip=1)
        return Ref(ref.name, **recipe.with_defaults(ref.options, known, implied))
    parts = {part.name: with_data(part, implied, catalog).options for part in _parts(ref)}
    return Ref(ref.name, **{**ref.options, **parts})


def with_provenance(ref: Ref, task: Task) -> Ref:
    """A task's Ref, single or joint, with the keywords that became known when it was built; see `Task.provenance`."""
    if not isinstance(task, Joint):
        return ref.with_options(**task.provenance())
    if len(names(ref.name)) == 1:  # a task that makes its parts itself; only what it settles as its own is a keyword
        return ref.with_options(**{name: value for name, value in task.provenance().items() if "." not in name})
    parts = {
        name: {**ref.options.get(name, {}), **task.part(label).provenance()}
        for name, label in labels(names(ref.name)).items()
    }
    return ref.with_options(**parts)


def build(ref: Ref, encoder: nn.Module, catalog: Catalog) -> Task:
    """Build a task, single or joint, around an encoder; its options have been checked.

    Some tasks give the encoder its first weights. Among several, the first one's hold.

    Raises:
        UsageError: a part refuses the encoder or a keyword; names the part.
    """
    if len(names(ref.name)) == 1:
        make = catalog.load("tasks", ref.name)
        return cast(Task, make(encoder, **recipe.keywords(ref, make, "task", skip=1)))
    options, parts = check(ref, catalog), {}
    first: dict[str, Tensor] = {}
    for name, label in labels(names(ref.name)).items():
        try:
            parts[label] = catalog.load("tasks", name)(encoder, **options[name])
        except UsageError as error:
            raise UsageError(f"{name}, a part of {ref.name}: {error}") from error
        first = first or {key: value.clone() for key, value in encoder.state_dict().items()}
        with torch.no_grad():
            for key, value in encoder.state_dict().items():
                if key in first and first[key].shape == value.shape:
                    value.copy_(first[key])
    return Joint(encoder, parts, **{key: value for key, value in options.items() if key not in names(ref.name)})


def compose(recipes: Mapping[str, Recipe], kind: str, *, encoder: str | None = None, data: str | None = None) -> Recipe:
    """One recipe out of the parts' own: their keywords, the encoder and dataset they agree on, the first one's stages.

    Args:
        recipes: name of the task -> its recipe; one alone is returned as it is.
        kind: what these recipes are called, for messages.
        encoder, data: what the user chose instead, by name; the keywords of the part that uses it are taken.

    Raises:
        UsageError: the recipes disagree and nothing was chosen, or a part other than the first needs several stages.
    """
    first, *others = recipes.values()
    if not others:
        return first
    joined = "+".join(recipes)
    for name, one in list(recipes.items())[1:]:
        if len(one.stages) > 1:
            raise UsageError(
                f"{joined}: {name} trains in {len(one.stages)} stages ({', '.join(s.name for s in one.stages)}): "
                "name it first, or write the stages into a recipe file"
            )
    stages = [_joined_stage(stage, recipes) for stage in first.stages]
    changes = {
        "task": Ref(joined, **{name: one.task.options for name, one in recipes.items()}),
        "encoder": _agreed({name: one.encoder for name, one in recipes.items()}, joined, kind, "--encoder", encoder),
        "dataset": _agreed({name: one.dataset for name, one in recipes.items()}, joined, kind, "--data", data),
    }
    return first.model_copy(update={**changes, "stages": stages, "evaluations": None})


def apart(joined: Recipe) -> dict[str, Recipe]:
    """A recipe of several tasks as one of each alone, by name: `compose` backwards, as far as that can be.

    Encoder, dataset and stages are those of the run; losses and parameters have the names they have in the part alone.
    A recipe of one task comes back as it is.
    """
    found = names(joined.task.name)
    if len(found) == 1:
        return {joined.task.name: joined}
    short = labels(found)
    return {
        part.name: joined.model_copy(
            update={"task": part, "stages": [_stage_of(short[part.name], stage) for stage in joined.stages]}
        )
        for part in _parts(joined.task)
    }


def _stage_of(label: str, stage: Stage) -> Stage:
    """What a joint stage says about one part's losses and parameters, by that part's own names."""
    mine, prefix = f"loss_{label}", f"parts.{label}."
    weights = {
        f"loss{name.removeprefix(mine)}": weight
        for name, weight in stage.weights.items()
        if name == mine or name.startswith(f"{mine}_")
    }
    groups = [
        group.model_copy(update={"pattern": group.pattern.removeprefix(prefix)})
        for group in stage.groups
        if not group.pattern.startswith("parts.") or group.pattern.startswith(prefix)
    ]
    return stage.model_copy(update={"weights": weights, "groups": groups})


def _joined_stage(stage: Stage, recipes: Mapping[str, Recipe]) -> Stage:
    """A stage of the first part with what every part says about its own losses and parameters."""
    groups: list[Group] = []
    weights: dict[str, float] = {}
    options = dict(stage.options)
    for number, (name, label) in enumerate(labels(list(recipes)).items()):
        own = recipes[name].stages[0] if number else stage
        for group in own.groups:
            common = group.pattern.startswith(("encoder.", "*"))  # the encoder is trained as the first part says
            if not common:
                groups.append(group.model_copy(update={"pattern": f"parts.{label}.{group.pattern}"}))
            elif number == 0:
                groups.append(group)
        weights |= {f"loss_{label}{loss.removeprefix('loss')}": weight for loss, weight in own.weights.items()}
        options = {**own.options, **options}
    return stage.model_copy(update={"groups": groups, "weights": weights, "options": options})


def _agreed(refs: Mapping[str, Ref], joined: str, kind: str, option: str, chosen: str | None) -> Ref:
    """What all parts use, or of what they use the one that was chosen."""
    first = next(iter(refs.values()))
    if chosen is not None:
        return next((ref for ref in refs.values() if ref.name == chosen), first)
    if any(ref != first for ref in refs.values()):
        used = ", ".join(f"{name}: {ref.name}{_shown(ref)}" for name, ref in refs.items())
        raise UsageError(
            f"{joined}: the {kind} recipes of its parts differ ({used}): choose one, e.g. {option} {first.name}"
        )
    return first


def _shown(ref: Ref) -> str:
    return f" ({', '.join(f'{key}={value}' for key, value in ref.options.items())})" if ref.options else ""
