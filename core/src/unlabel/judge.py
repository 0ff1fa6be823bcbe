"""Judging: which evaluations, on how many samples, of what: the encoder before, after, and its raw inputs.

Every evaluation that a task names is made, or says in one line what it lacks. Labels are one need among others.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from unlabel import compose, monitors, signature
from unlabel.catalog.plugins import Catalog
from unlabel.data import Dataset, default_workers
from unlabel.engine import Engine
from unlabel.errors import UsageError, nearest
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Recipe, Ref
from unlabel.task import Task

__all__ = ["SHOWN", "Verdict", "attempt", "budget", "engine_for", "frozen", "judge", "measure", "monitor", "requested"]

SHOWN = 400
"""Samples in the map of a run's report."""

_RAW_WIDTH = 512
"""Numbers a raw input may have for a probe: its time grows with the square of them."""

Numbers = dict[str, dict[str, float]]
"""Name of an evaluation -> what it measured."""


@dataclass
class Verdict:
    """What judging found.

    Attributes:
        before, after, raw: of the untrained encoder, of the trained one, of the raw inputs.
        lacking: name of an evaluation that could not be made -> what it lacks, in one line.
    """

    before: Numbers = field(default_factory=dict)
    after: Numbers = field(default_factory=dict)
    raw: Numbers = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)


def engine_for(recipe: Recipe, device: str) -> Engine:
    """The engine that features are computed with: in the run's precision, unless `Judging.precision` is another."""
    return Engine(device, recipe.judging.precision or recipe.execution.precision)


def frozen(recipe: Recipe, task: Task, dataset: Dataset, engine: Engine) -> Frozen:
    """The task on the samples it is judged on, as the recipe's `Judging` says."""
    judging = recipe.judging
    limits = {"train": judging.train, "test": judging.test}
    workers = recipe.execution.workers if judging.workers is None else judging.workers
    return Frozen(
        task,
        dataset,
        engine,
        batch_size=judging.batch_size or _batch_size(recipe),
        workers=default_workers(engine) if workers is None else workers,
        seed=recipe.seed,
        limit={name: limit for name, limit in limits.items() if limit is not None},
        keep_raw=judging.raw,
        shown=SHOWN,
    )


def budget(judged: Frozen) -> str:
    """What the task is judged on, in a line."""
    parts = []
    for split, what in (("train", "training"), ("test", "held-out")):
        if judged.has_split(split):  # type: ignore[arg-type]  # one of the two
            used, there = len(judged.indices(split)), len(judged.dataset(split))  # type: ignore[arg-type]
            parts.append(f"{used:,} of {there:,} {what} samples" if used < there else f"{there:,} {what} samples")
    return f"judged  on {' and '.join(parts)}"


def _batch_size(recipe: Recipe) -> int:
    """As many samples as training had in memory at once, at most 256."""
    sizes = [stage.batch_size // stage.accumulate for stage in recipe.stages if isinstance(stage.batch_size, int)]
    return max(1, min(256, *sizes)) if sizes else 256


def requested(
    recipe: Recipe, task: Task, catalog: Catalog, names: Iterable[str] = (), options: Iterable[str] = ()
) -> list[Ref]:
    """Which evaluations to make, with their keywords checked.

    Args:
        recipe: its `evaluations` unless names are given; else the task's own.
        task: what is judged.
        catalog: what is installed.
        names: of evaluations.
        options: ``EVALUATION.KEYWORD=VALUE`` assignments.

    Raises:
        UsageError: an unknown name or keyword, with the nearest.
    """
    refs = [Ref(name) for name in names] or recipe.evaluations or [Ref(name) for name in task.evaluations]
    by_name = {ref.name: ref.model_copy(deep=True) for ref in refs}
    for assignment in options:
        path, value = compose.assigned(assignment)
        name, _, keyword = path.rpartition(".")
        if name not in by_name:
            raise UsageError(
                f"--set {assignment}: expected EVALUATION.KEYWORD=VALUE with one of {', '.join(by_name)}, or "
                f"dataset.KEYWORD=VALUE{nearest(name, [*by_name, 'dataset'])}"
            )
        by_name[name].options[keyword] = value
    for ref in by_name.values():
        ref.options = signature.keywords(ref, catalog.load("evaluations", ref.name), ref.name, skip=1)
    return list(by_name.values())


def measure(judged: Frozen, refs: Iterable[Ref], catalog: Catalog) -> Numbers:
    """Make evaluations; what one lacks is an error."""
    return {ref.name: catalog.load("evaluations", ref.name)(judged, **ref.options) for ref in refs}


def attempt(judged: Frozen, refs: Iterable[Ref], catalog: Catalog) -> Verdict:
    """Make the evaluations that can be made (`Verdict.after`), and note what the others lack."""
    verdict = Verdict()
    for ref in refs:
        try:
            verdict.after |= measure(judged, [ref], catalog)
        except UsageError as error:  # keywords were checked before: it is about what the data or the task offer
            verdict.lacking[ref.name] = str(error)
    return verdict


def judge(judged: Frozen, untrained: Task, refs: Iterable[Ref], catalog: Catalog) -> Verdict:
    """Evaluate before and after training and of the raw inputs; each sample is read once for all three.

    Args:
        judged: the trained task on the samples.
        untrained: the same task with its first weights.
        refs: the evaluations, as `requested` gives them.
        catalog: what is installed.
    """
    refs = list(refs)
    before = judged.of(untrained)  # before anything is read: it is read for both
    verdict = attempt(judged, refs, catalog)
    measurable = [ref for ref in refs if ref.name in verdict.after]
    verdict.before = measure(before, measurable, catalog)
    for ref in measurable:
        evaluation = catalog.load("evaluations", ref.name)
        if judged.keeps_raw and "inputs" in signature.parameters(evaluation, skip=1):
            _measure_raw(verdict, judged, ref, evaluation)
    return verdict


def _measure_raw(verdict: Verdict, judged: Frozen, ref: Ref, evaluation: Any) -> None:
    """The same evaluation of the raw inputs, where it can read them, and cheaply."""
    try:
        width = judged.raw("train")[0].shape[1]
        if ref.name == "knn" or width <= _RAW_WIDTH:
            verdict.raw[ref.name] = evaluation(judged, **{**ref.options, "inputs": "raw"})
    except Exception:  # what is no stack of numbers fails in many ways; a run never fails for this control
        return


def monitor(recipe: Recipe, task: Task, dataset: Dataset, engine: Engine) -> dict[str, float]:
    """The online check of a task as it stands: `monitors.online`, a ``score`` where there is one, the ``seconds``."""
    begun = time.perf_counter()
    numbers = monitors.online(
        Frozen(
            task,
            dataset,
            engine,
            batch_size=recipe.judging.batch_size or _batch_size(recipe),
            seed=recipe.seed,
            limit={"train": recipe.judging.monitor},
        )
    )
    score = {"score": numbers["knn"]} if "knn" in numbers else {}
    return {**numbers, **score, "seconds": time.perf_counter() - begun}
