"""A run: a recipe, a folder, and what came out. The Python API behind the command line.

``unlabel.train("sonar/echo_order", data="recordings/")`` trains, evaluates before and after, and returns
a `Run`; ``Run(folder)`` opens one that is already there.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from unlabel import __version__, checkpoint, embed, export, loop, monitors, multitask, optim, recipe, seeds
from unlabel.catalog.plugins import Catalog, Offer
from unlabel.data import Dataset, micro_batch, read_jsonl
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError, nearest, one_line
from unlabel.evaluate.features import Frozen
from unlabel.logs import Dispensable, Metrics, Observer, ProgressLine, terminal
from unlabel.recipe import Recipe, Ref
from unlabel.show.pictures import Pictures
from unlabel.storage import lock
from unlabel.task import Progress, Task

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Run", "adapt", "build", "choose_dataset", "compose", "print_results", "train"]

_MONITORED = 1024
_EVALUATED = {"train": 10000, "test": 5000}
_RAW_WIDTH = 512


@dataclass
class Run:
    """A run on disk.

    Args:
        folder: holds ``recipe.json``, ``metrics.jsonl``, ``checkpoints/`` and so on.
        catalog: what is installed; default: looked up.

    Raises:
        UsageError: the folder is no run.
    """

    folder: Path
    catalog: Catalog

    def __init__(self, folder: Path | str, catalog: Catalog | None = None):
        self.folder = Path(folder)
        self.catalog = catalog or Catalog.installed()
        if not (self.folder / "recipe.json").is_file():
            beside = self.folder.parent if self.folder.parent.is_dir() else Path()
            runs = [str(path.parent) for path in beside.glob("*/recipe.json")]
            what = "has no recipe.json" if self.folder.exists() else "does not exist"
            raise UsageError(f"{self.folder} is not a run: it {what}{nearest(str(self.folder), runs)}")

    @property
    def recipe(self) -> Recipe:
        """What was (or is being) run."""
        return recipe.load(self.folder / "recipe.json")

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        return read_jsonl(path) if path.exists() else []

    @property
    def evaluations(self) -> dict[str, Any]:
        """What was measured: ``{"before": {...}, "after": {...}, "health": [...]}``, as far as it was."""
        path = self.folder / "evaluations.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            again = f"`unlabel resume {shlex.quote(str(self.folder))}`"
            raise RunError(f"{path} is damaged ({error}); delete it, and {again} measures again") from error

    @property
    def encoder(self) -> nn.Module:
        """The trained encoder, on the CPU, in evaluation mode."""
        return self.task().encoder.eval()  # type: ignore[union-attr]  # nn.Module attributes are untyped

    def task(self, engine: Engine | None = None) -> Task:
        """The task with the weights of the newest good checkpoint.

        Raises:
            RunError: there is no checkpoint yet, or none is whole.
        """
        engine, chosen = engine or Engine("cpu", "fp32"), self.recipe
        if checkpoint.newest(self.folder / "checkpoints", chosen.task.name) is None:
            raise RunError(f"{self.folder} has no checkpoint yet; `unlabel resume {self.folder}` starts it")
        task, _ = build(_without_init(chosen), self.catalog, engine)
        loop.resume(chosen, task, engine, self.folder)
        return task.eval()

    def evaluate(
        self, *names: str, data: str | None = None, options: Iterable[str] = (), device: str = "auto"
    ) -> dict[str, dict[str, float]]:
        """Run downstream evaluations of the trained encoder.

        Args:
            names: evaluations; default: the recipe's, or the task's own.
            data: another dataset (name or path) than the one trained on.
            options: ``NAME.KEYWORD=VALUE`` settings of evaluations, ``dataset.KEYWORD=VALUE`` ones of the dataset.
            device: where features are computed.

        Returns:
            name -> measured numbers.

        Raises:
            UsageError: something asked for does not exist or does not fit, with the nearest valid choice.
        """
        chosen = self.recipe
        engine = Engine(device, "fp32")
        task = self.task(engine)
        if data:
            chosen = chosen.model_copy(update={"dataset": choose_dataset(data, chosen, self.catalog)})
        options = list(options)
        of_data = [assignment for assignment in options if recipe.assigned(assignment)[0].startswith("dataset.")]
        if of_data:
            chosen = chosen.with_overrides(of_data, self.catalog)
        dataset = build_dataset(chosen.dataset, self.catalog)
        others = [assignment for assignment in options if assignment not in of_data]
        refs = _evaluations(chosen, task, self.catalog, names, others)
        return _evaluate(Frozen(task, dataset, engine, seed=chosen.seed, limit=_EVALUATED), refs, self.catalog)


def train(
    what: Recipe | str,
    *,
    data: str | Path | None = None,
    encoder: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    catalog: Catalog | None = None,
    observe: Iterable[str] = (),
    overwrite: bool = False,
    evaluate: bool = True,
    quiet: bool = True,
    combine: multitask.Combine | None = None,
    **overrides: Any,
) -> Run:
    """Train, evaluate before and after, and write the report into the run's folder, as the command line does.

    Args:
        what: a recipe, or the name of a task (its `quick` recipe), or several joined by ``+``.
        data: dataset name or path; default: the recipe's.
        encoder: catalog name, ``NAME:MODEL`` or ``package.module:factory``; default: the recipe's.
        steps, epochs, batch_size: of every stage; default: the recipe's.
        out: folder of the run; default: a new one below ``runs/``.
        catalog: what is installed; default: looked up.
        observe: names of further observers.
        overwrite: replace a run that is already at `out`.
        evaluate: whether to run the downstream evaluations.
        quiet: no progress on the terminal.
        combine: how several tasks share the encoder, ``sum`` or ``pareto``; see `unlabel.multitask`.
        overrides: recipe fields, dots written as double underscores: ``stages__0__lr=3e-4``.

    Raises:
        UsageError: something asked for does not exist or does not fit.
        RunError: training failed; the message says what was saved.
    """
    catalog = catalog or Catalog.installed()
    settings = [f"{name.replace('__', '.')}={json.dumps(value, default=_plain)}" for name, value in overrides.items()]
    settings += [f"task.combine={combine}"] if combine else []
    if isinstance(what, str):
        what = _task_recipe(_current(what, catalog), catalog, "quick", encoder, None if data is None else str(data))
    chosen = adapt(
        what,
        catalog,
        data=None if data is None else str(data),
        encoder=encoder,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        settings=settings,
    )
    folder = new_folder(Path(out) if out else None, chosen, overwrite)
    execute(chosen, folder, catalog, observe=observe, evaluate=evaluate, quiet=quiet)
    return Run(folder, catalog)


def _plain(value: Any) -> Any:
    """Paths as text, and a Ref or Stage as what it is in a file."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def compose(task: str, catalog: Catalog, *, name: str = "quick", **changes: Any) -> Recipe:
    """The recipe of a task by name (``paper``, ``quick``, ``tiny``) or from a file, with changes applied.

    Args:
        task: name of the task, or several joined by ``+``; see `unlabel.multitask`.
        catalog: what is installed.
        name: recipe function of the task's module, or path of a JSON or YAML file.
        changes: keywords of `adapt`.

    Raises:
        UsageError: anything unknown, with the nearest valid choice.
    """
    task = _current(task, catalog)
    found = _task_recipe(task, catalog, name, changes.get("encoder"), changes.get("data"))
    if _current(found.task.name, catalog) != task:
        raise UsageError(f"recipe {name} is for task {found.task.name!r}, not for {task!r}")
    return adapt(found, catalog, **changes)


def adapt(
    chosen: Recipe,
    catalog: Catalog,
    *,
    data: str | None = None,
    encoder: str | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    settings: Iterable[str] = (),
) -> Recipe:
    """A recipe with changes applied, and everything in it checked.

    Args:
        chosen: the recipe; left as it is.
        catalog: what is installed.
        data: dataset name or path instead of the recipe's.
        encoder: catalog name, ``NAME:MODEL`` or ``package.module:factory`` instead of the recipe's.
        steps, epochs, batch_size: of every stage.
        settings: ``path=value`` assignments.

    Raises:
        UsageError: anything unknown, with the nearest valid choice.
    """
    if encoder is not None and encoder != chosen.encoder.name:  # its own encoder by name keeps the recipe's keywords
        chosen = chosen.model_copy(update={"encoder": _encoder_ref(encoder, catalog)})
    if data is not None:
        chosen = chosen.model_copy(update={"dataset": choose_dataset(data, chosen, catalog)})
    return chosen.with_length(steps=steps, epochs=epochs, batch_size=batch_size).with_overrides(settings, catalog)


def _current(task: str, catalog: Catalog) -> str:
    """A task's name, or several's, as they are now."""
    return "+".join(catalog.current("tasks", part) for part in multitask.names(task))


def _task_recipe(task: str, catalog: Catalog, name: str, encoder: str | None, data: str | None) -> Recipe:
    """The recipe of that name of a task, or what the recipes of several make together."""
    parts = multitask.names(task)
    found = {part: _named_recipe(catalog.find("tasks", part).module(), part, name) for part in parts}
    if found[parts[0]].task.name == "+".join(parts):  # a file, which is about all of them
        return found[parts[0]]
    return multitask.compose(found, name, encoder=encoder, data=data)


def _named_recipe(module: Any, task: str, name: str) -> Recipe:
    functions = recipe.named(module)
    if name in functions:
        return functions[name]()
    if Path(name).suffix in (".json", ".yaml", ".yml") or Path(name).exists():
        return recipe.load(Path(name))
    raise UsageError(
        f"{task} has no recipe {name!r}: expected {', '.join(functions)} or a .json/.yaml file"
        f"{nearest(name, functions)}"
    )


def _encoder_ref(encoder: str, catalog: Catalog) -> Ref:
    """``NAME``, ``NAME:MODEL`` (the encoder's one required keyword) or ``package.module:factory``."""
    name, colon, model = encoder.partition(":")
    name = catalog.current("encoders", name)
    if colon and (name in catalog.names("encoders") or "/" in name):
        wanted = recipe.required(catalog.load("encoders", name))
        if len(wanted) != 1:
            raise UsageError(
                f"--encoder {encoder}: {name} takes no model after a colon; "
                "its keywords are set with --set encoder.KEYWORD=VALUE"
            )
        return Ref(name, **{wanted[0]: model})
    if colon:
        catalog.trusted.add(encoder)
        return Ref(encoder)
    return Ref(catalog.find("encoders", name).name)


def choose_dataset(data: str, chosen: Recipe, catalog: Catalog) -> Ref:
    """The dataset a user means: a catalog name, or a path that a dataset of the task's plugin claims.

    Raises:
        UsageError: neither a name nor a path, or no dataset knows what to do with the path.
    """
    names, data = catalog.names("datasets"), catalog.current("datasets", data)
    if data in names:
        same = chosen.dataset.name == data
        return chosen.dataset if same else Ref(data)
    path = Path(data).expanduser()
    if "{" in data or path.exists():
        # the task's own plugin's datasets first; then those of the plugin whose data its recipe borrows
        owners = dict.fromkeys(ref.name.partition("/")[0] for ref in (chosen.task, chosen.dataset))
        offers = catalog.offers("datasets")
        candidates = [offer for owner in owners for offer in offers if offer.name.startswith(f"{owner}/")]
        name = claimant(path, candidates).name
        kept = chosen.dataset.options if chosen.dataset.name == name else {}
        return Ref(name, **{**kept, "path": str(path.absolute())})  # a run may be resumed from another folder
    beside = [str(entry) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UsageError(
        f"--data {data}: there is no such path, and no dataset of that name{nearest(data, [*names, *beside])}"
    )


def claimant(path: Path, candidates: Iterable[Offer]) -> Offer:
    """The first of these datasets that claims a path; one that claims anything alike only if no other does.

    Raises:
        UsageError: none does; says what is there, and which datasets could not be asked.
    """
    asked, unloadable, general = [], [], None
    for offer in candidates:
        try:
            kind = offer.load()
        except UsageError as error:  # one that lacks a library must not hide the others
            unloadable.append(str(error))
            continue
        if (general is None or not kind.fallback) and kind.claims(path):
            if not kind.fallback:
                return offer
            general = offer
        if "path" in recipe.parameters(kind):
            asked.append(offer.name)
    if general is not None:
        return general
    raise UsageError(
        "; ".join([f"{path} is none of {', '.join(asked) or 'any dataset'}: {_content(path)}", *unloadable])
    )


def _content(path: Path) -> str:
    """What lies at a path no dataset wants, in a few words."""
    if not path.exists():
        return "no file matches"
    if path.is_file():
        return f"it is a {path.suffix or 'nameless'} file of {max(1, path.stat().st_size // 1000):,} kB"
    files = (entry for entry in path.rglob("*") if entry.is_file())
    endings = Counter(file.suffix.lower() or "nameless" for file in islice(files, 10_000))
    listing = ", ".join(f"{ending} ({count})" for ending, count in endings.most_common(5))
    return f"the folder holds {listing}" if endings else "the folder is empty"


def build_dataset(ref: Ref, catalog: Catalog) -> Dataset:
    """Build a dataset from its Ref."""
    target = recipe.factory(ref, "datasets", catalog)
    dataset: Dataset = target(**recipe.keywords(ref, target, "dataset"))
    return dataset


def build(chosen: Recipe, catalog: Catalog, engine: Engine) -> tuple[Task, dict[str, Any]]:
    """Build encoder and task with the recipe's seed, load first weights if asked, and hand them to the engine.

    Returns:
        The task on the device, and the report of `init` (empty if there is none).
    """
    seeds.seed(chosen.seed, 0x1417)
    make_encoder = recipe.factory(chosen.encoder, "encoders", catalog)
    encoder = make_encoder(**recipe.keywords(chosen.encoder, make_encoder, "encoder"))
    task = multitask.build(chosen.task, encoder, catalog)
    report = export.initialise(task, chosen.init, catalog) if chosen.init else {}
    engine.prepare(task)
    return task, report


def _without_init(chosen: Recipe) -> Recipe:
    """The recipe for a task whose weights come from a checkpoint: where the first ones came from may be gone by now."""
    return chosen.model_copy(update={"init": None})


def new_folder(out: Path | None, chosen: Recipe, overwrite: bool) -> Path:
    """Where the run goes: a folder that does not exist yet, or an old run to replace.

    Raises:
        UsageError: the folder is taken and `overwrite` is not given, or it is not a run at all.
    """
    if out is None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        out = Path("runs") / f"{chosen.task.name.replace('/', '-')}-{stamp}"
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder that does not exist yet")
    if out.is_dir() and any(out.iterdir()) and os.environ.get("RANK", "0") == "0":  # the others come later
        if not overwrite:
            raise UsageError(
                f"--out {out} already exists and is never overwritten: give another name, add --overwrite, "
                f"or continue it with `unlabel resume {out}`"
            )
        if not (out / "recipe.json").is_file():
            raise UsageError(f"--overwrite: {out} holds no run (no recipe.json), so it is left alone")
    return out


def execute(
    chosen: Recipe,
    folder: Path,
    catalog: Catalog,
    *,
    observe: Iterable[str] = (),
    evaluate: bool = True,
    quiet: bool = False,
    resuming: bool = False,
    report: bool = True,
) -> None:
    """Run a recipe in a folder, or go on with it: build, train, evaluate, say how it went, write its report.

    What can be wrong with the recipe is found before the folder is touched; what only the first update
    shows (a weight for a loss that the task does not have) leaves none behind.
    """
    if chosen.init and (source := Path(chosen.init).expanduser()).exists():
        chosen = chosen.model_copy(update={"init": str(source.absolute())})  # as for data: from anywhere
    say = _silent if quiet or int(os.environ.get("RANK", "0")) else _console_print
    engine = Engine.of(chosen.execution)
    folder = Path(engine.agree(str(folder)))  # a name made from the time may differ between processes
    prepared, alone = False, ExitStack()
    try:
        if engine.main and (folder / "recipe.json").is_file():
            alone.enter_context(lock.held(folder))
        dataset = build_dataset(chosen.dataset, catalog)
        chosen = recipe.with_data(chosen, dataset.implies(), catalog)
        samples = dataset.split("train")
        if samples is None or not len(samples):
            raise UsageError(f"{chosen.dataset.name} has no training samples")
        chosen.check_stages(catalog)
        for stage in chosen.stages:
            micro_batch(stage, len(samples), engine.world)
        started = resuming and checkpoint.newest(folder / "checkpoints", chosen.task.name) is not None
        task, initialised = build(_without_init(chosen) if started else chosen, catalog, engine)
        chosen = chosen.model_copy(update={"task": multitask.with_provenance(chosen.task, task)})
        _check_optimizers(chosen, task, len(samples))
        observers = {name: _observer(name, catalog) for name in observe}
        if engine.main and not resuming:
            _prepare_folder(folder, chosen, catalog)
            prepared = True
            alone.close()
            alone.enter_context(lock.held(folder))
        engine.barrier()
        _announce(say, chosen, task, samples, engine, initialised)
        _execute(chosen, folder, catalog, engine, task, dataset, samples, observers, evaluate, report, quiet, say)
    except UsageError:
        if prepared and not checkpoint.available(folder / "checkpoints"):
            shutil.rmtree(folder)  # it would only be in the way of the next try
        raise
    finally:
        alone.close()
        engine.close()


def _observer(name: str, catalog: Catalog) -> type[Observer]:
    """The observer of that name, which has what it needs."""
    offer = catalog.find("observers", name)
    kind = offer.load()
    if not (isinstance(kind, type) and issubclass(kind, Observer)):
        raise UsageError(f"observer {name!r} of plugin {offer.plugin!r} is no subclass of unlabel.Observer: {kind!r}")
    kind.check()
    return kind


def _check_optimizers(chosen: Recipe, task: Task, samples: int) -> None:
    """Make every stage's optimizers once, so that a wrong name or pattern of a later stage is found now."""
    for stage in chosen.stages:
        task.enter_stage(stage)
        try:
            optim.check_names(stage, task.optimizers(stage.resolved(samples)))
        except UsageError:
            raise
        except ValueError as error:  # torch's optimizers check their numbers
            raise UsageError(f"stage {stage.name!r}: {error}") from error


def _execute(
    chosen: Recipe,
    folder: Path,
    catalog: Catalog,
    engine: Engine,
    task: Task,
    dataset: Dataset,
    samples: Dataset,
    further: dict[str, type[Observer]],
    evaluate: bool,
    report: bool,
    quiet: bool,
    say: Any,
) -> None:
    found = checkpoint.newest(folder / "checkpoints", chosen.task.name)
    for problem in found[2] if found else []:
        say(f"damaged checkpoint skipped: {problem}")
    complete = found is not None and found[1].total_step >= sum(
        s.resolved(len(samples)).steps or 0 for s in chosen.stages
    )
    if found:
        say(f"{'complete' if complete else 'continuing'} after update {found[1].total_step} ({found[0]})")
    observers: list[Observer] = []
    health = _HealthObserver(folder, task)
    if engine.main:
        observers = [Metrics(folder, found[1].total_step if found else 0), health]
        observers += [Dispensable(name, kind, folder) for name, kind in further.items()]
        if type(task).pictures is not Task.pictures and not engine.shard:  # whose parameters one process cannot gather
            pictures = partial(Pictures, task=task, samples=samples, engine=engine, seed=chosen.seed)
            observers.append(Dispensable("of pictures", pictures, folder))
        if not quiet:
            observers.append(ProgressLine(folder, terminal()))
    for record in Run(folder, catalog).metrics:
        health.log(Progress(int(record["stage"]), int(record["step"]), 0, 0, int(record["total_step"])), record)

    def monitor() -> dict[str, float]:
        begun = time.perf_counter()
        numbers = monitors.online(Frozen(task, dataset, engine, seed=chosen.seed, limit={"train": _MONITORED}))
        return (
            numbers | ({"score": numbers["knn"]} if "knn" in numbers else {}) | {"seconds": time.perf_counter() - begun}
        )

    begun = time.perf_counter()
    try:
        for observer in observers:
            observer.start(chosen)
        loop.train(chosen, task, samples, engine, folder, observers, monitor)
    finally:
        for observer in observers:
            observer.close()
    seconds = time.perf_counter() - begun
    if engine.main:
        known = {"health": health.verdict(), "seconds": round(seconds, 2), "samples_per_second": health.speed()}
        if complete:  # resumed although there was nothing left to do: what is known stays
            known |= Run(folder, catalog).evaluations
        _conclude(chosen, folder, catalog, engine, task, dataset, known, evaluate, report, say)


def _prepare_folder(folder: Path, chosen: Recipe, catalog: Catalog) -> None:
    """Make the run's folder with recipe and environment in it; an old run there is replaced."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        environment = json.dumps(_environment(catalog), indent=2) + "\n"
        _write_whole(folder / "environment.json", environment)
        _write_whole(folder / "recipe.json", chosen.to_json())  # last: it makes the folder a run
    except OSError as error:
        raise UsageError(f"--out {folder} cannot be written: {error.strerror or error}") from error


def _write_whole(path: Path, text: str) -> None:
    """A kill or a full disk while writing leaves what was there before."""
    aside = path.with_suffix(".writing")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def _announce(say: Any, chosen: Recipe, task: Task, samples: Dataset, engine: Engine, report: dict[str, Any]) -> None:
    parameters = sum(p.numel() for p in task.parameters() if p.requires_grad)
    say(f"{chosen.task.name}  {parameters:,} trainable parameters, encoder {chosen.encoder.name}")
    say(f"data    {chosen.dataset.name}: {len(samples):,} training samples")
    say(f"engine  {engine.describe()}")
    if report:
        say(f"init    {report['summary']}")
    for name, value in task.provenance().items():
        say(f"{name:7} {value}")


def _conclude(
    chosen: Recipe,
    folder: Path,
    catalog: Catalog,
    engine: Engine,
    task: Task,
    dataset: Dataset,
    known: dict[str, Any],
    evaluate: bool,
    report: bool,
    say: Any,
) -> None:
    """Evaluate before and after, give the verdict, write the report, say where all lies and what to type next."""
    results = dict(known)
    if found := task.provenance():
        results["settled"] = found
    if evaluate:
        engine = Engine(str(engine.device), "fp32")
        frozen = Frozen(task, dataset, engine, seed=chosen.seed, limit=_EVALUATED)
        if frozen.has_split("test") and frozen.has_labels():
            untrained, _ = build(chosen, catalog, engine)
            refs = _evaluations(chosen, task, catalog, (), ())
            results["before"] = _evaluate(frozen.of(untrained), refs, catalog)
            results["after"] = _evaluate(frozen, refs, catalog)
            results["raw"] = _evaluate_raw(frozen, refs, catalog)
            _quarantine(frozen, folder)
        else:
            results["note"] = "no labelled held-out samples, so no downstream evaluation"
        with contextlib.suppress(Exception):  # for the report alone; what can be wrong with the data was said before
            embed.keep(task, dataset, engine, folder / "embeddings.npz", chosen.seed)
    _write_whole(folder / "evaluations.json", json.dumps(results, indent=2) + "\n")
    print_results(say, results)
    run, data = shlex.quote(str(folder)), str(chosen.dataset.options.get("path", chosen.dataset.name))
    say(f"\nrun      {folder}")
    say(f"again    unlabel evaluate {run}")
    say(f"encoder  unlabel export {run} --out {shlex.quote(str(folder / 'encoder'))}")
    say(f"features unlabel embed {run} --data {shlex.quote(data)} --out features.npz")
    if report:
        say(f"report   {_reported(folder, catalog)}")


def _reported(folder: Path, catalog: Catalog) -> str:
    """Write the run's report, and say where it is; a run that went well does not fail for it."""
    from unlabel import report as reports

    try:
        return reports.missing() or str(reports.write([folder], None, catalog))
    except Exception as error:
        return f"not written: {one_line(error)}"


def print_results(say: Any, results: dict[str, Any]) -> None:
    """The result table: evaluations before and after, time and speed, and the verdict."""
    from rich.table import Table
    from rich.text import Text

    if "after" in results:
        table = Table("evaluation", "measure", "random init", "trained", box=None, pad_edge=False)
        for name, numbers in results["after"].items():
            for measure, value in numbers.items():
                before = results["before"][name].get(measure, float("nan"))
                table.add_row(name, measure, f"{before:.4g}", Text(f"{value:.4g}", "bold"))
        say(table)
    else:
        say(results.get("note", "not evaluated"))
    say(f"trained in {results['seconds']:.1f} s, {results['samples_per_second']:.0f} samples/s")
    for level, sentence in results["health"]:
        say(f"health  {level}: {sentence}")


def _evaluations(
    chosen: Recipe, task: Task, catalog: Catalog, names: Iterable[str], options: Iterable[str]
) -> list[Ref]:
    """Which evaluations to run, with their keywords checked."""
    wanted = [Ref(name) for name in names] or chosen.evaluations or [Ref(name) for name in task.evaluations]
    by_name = {ref.name: ref.model_copy(deep=True) for ref in wanted}
    for assignment in options:
        path, value = recipe.assigned(assignment)
        name, _, keyword = path.rpartition(".")
        if name not in by_name:
            raise UsageError(
                f"--set {assignment}: expected EVALUATION.KEYWORD=VALUE with one of {', '.join(by_name)}, or "
                f"dataset.KEYWORD=VALUE{nearest(name, [*by_name, 'dataset'])}"
            )
        by_name[name].options[keyword] = value
    for ref in by_name.values():
        ref.options = recipe.keywords(ref, catalog.load("evaluations", ref.name), ref.name, skip=1)
    return list(by_name.values())


def _evaluate(frozen: Frozen, refs: list[Ref], catalog: Catalog) -> dict[str, dict[str, float]]:
    return {ref.name: catalog.load("evaluations", ref.name)(frozen, **ref.options) for ref in refs}


def _evaluate_raw(frozen: Frozen, refs: list[Ref], catalog: Catalog) -> dict[str, dict[str, float]]:
    """The same evaluations of the raw inputs, which an encoder has to beat; of those that can read them, and cheaply.

    A probe's time grows with the square of the inputs' width: beyond `_RAW_WIDTH` only the others are run.
    """
    found: dict[str, dict[str, float]] = {}
    for ref in refs:
        evaluation = catalog.load("evaluations", ref.name)
        if "inputs" not in recipe.parameters(evaluation, skip=1):
            continue
        try:
            width = frozen.raw("train")[0].shape[1]
            if ref.name == "knn" or width <= _RAW_WIDTH:
                found[ref.name] = evaluation(frozen, **{**ref.options, "inputs": "raw"})
        except Exception:  # what is no stack of numbers fails in many ways; a run never fails for this control
            continue
    return found


def _quarantine(frozen: Frozen, folder: Path) -> None:
    """Samples that only the evaluation met are listed too; they do not count against the limit."""
    path = folder / "quarantine.jsonl"
    known = {record["path"] for record in read_jsonl(path)} if path.exists() else set()
    new = [record for record in frozen.bad if record["path"] not in known]
    if new:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in new)


class _HealthObserver(Observer):
    """Collects the logged numbers for the verdict."""

    def __init__(self, folder: Path, task: Task):
        super().__init__(folder)
        encoder = getattr(task, "encoder", None)
        width = getattr(encoder, "dim", None)
        self.health = monitors.Health(task.expected, None if width is None else min(int(width), _MONITORED))
        self.speeds: list[float] = []

    def log(self, progress: Progress, metrics: Any) -> None:
        skipped = ("stage", "step", "epoch", "total_step", "lr", "samples_per_second", "seconds")
        self.health.record(progress.total_step, {name: value for name, value in metrics.items() if name not in skipped})
        if "samples_per_second" in metrics:
            self.speeds.append(metrics["samples_per_second"])

    def verdict(self) -> list[tuple[str, str]]:
        return [(level, sentence) for level, sentence in self.health.verdict()]

    def speed(self) -> float:
        return sorted(self.speeds)[len(self.speeds) // 2] if self.speeds else 0.0


def _environment(catalog: Catalog) -> dict[str, Any]:
    """What a result depends on besides the recipe: versions, hardware, command, code revision."""
    versions = {plugin.distribution: plugin.version for plugin in catalog.plugins}
    required = [
        *(metadata.requires("unlabel") or ()),
        *(line for plugin in catalog.plugins for line in plugin.requires),
    ]
    for name in {re.split(r"[^\w.-]", line)[0] for line in required if "extra ==" not in line} - versions.keys():
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "unlabel": __version__,
        "python": platform.python_version(),
        "versions": dict(sorted(versions.items())),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "command": sys.argv,
        "git": _git(),
        "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def processor() -> str:
    """Name of this machine's processor, as its maker calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _git() -> str | None:
    """Revision of the working folder, if it is a checkout."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _silent(*_: Any) -> None:
    pass


def _console_print(what: Any) -> None:
    terminal().print(what, highlight=False, markup=False)  # a path may hold brackets
