"""One run under way: everything it consists of in one object, from its recipe to the verdict.

`unlabel.train` and the command line make a `Session` and run it (`unlabel.launch`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlabel import build, checkpoint, data, embed, export, judge, loop, optim, verify
from unlabel.catalog.plugins import Catalog
from unlabel.data import Dataset
from unlabel.engine import Engine
from unlabel.environment import environment
from unlabel.errors import UsageError, one_line
from unlabel.logs import Dispensable, Metrics, Observer, ProgressLine
from unlabel.monitors import HealthObserver
from unlabel.recipe import Recipe
from unlabel.run import Run
from unlabel.show.pictures import Pictures
from unlabel.storage import assets, lock
from unlabel.storage.files import write_whole
from unlabel.storage.jsonl import read_jsonl
from unlabel.task import Progress, Task
from unlabel.terminal import Say, print_results, say, silent, terminal

if TYPE_CHECKING:
    from unlabel.evaluate.features import Frozen

__all__ = ["Session"]


@dataclass
class Session:
    """One run under way.

    Args:
        recipe: what to run; completed while the session opens by what its data and its task determine.
        folder: of the run.
        catalog: what is installed.
        observe: names of further observers.
        evaluate: whether to run the downstream evaluations at the end.
        report: whether to write the report at the end.
        quiet: nothing on the terminal.

    Attributes:
        engine, dataset, samples, task: device and processes, all of the data, its training part, and what is trained.
        first_weights: what was loaded into the encoders before training, in one line each.
    """

    recipe: Recipe
    folder: Path
    catalog: Catalog
    observe: tuple[str, ...] = ()
    evaluate: bool = True
    report: bool = True
    quiet: bool = False
    engine: Engine = field(init=False)
    dataset: Dataset = field(init=False)
    samples: Dataset = field(init=False)
    task: Task = field(init=False)
    first_weights: list[str] = field(init=False, default_factory=list)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / "checkpoints"

    @property
    def say(self) -> Say:
        """What shows a line to the user; nothing where quiet, and in all processes but the main one."""
        return silent if self.quiet or int(os.environ.get("RANK", "0")) else say

    def run(self, *, resuming: bool = False) -> None:
        """Run the recipe in the folder, or go on with it: build, train, evaluate, say how it went, write the report.

        What can be wrong with the recipe is found before the folder is touched; what only the first update shows (a
        weight for a loss that the task does not have) leaves none behind.
        """
        self.recipe = _with_absolute_sources(self.recipe)
        self.engine = Engine.of(self.recipe.execution)
        self.folder = Path(self.engine.agree(str(self.folder)))  # a name made from the time may differ among processes
        created, alone = False, ExitStack()
        try:
            if self.engine.main and (self.folder / "recipe.json").is_file():
                alone.enter_context(lock.held(self.folder))
            self._open(resuming)
            observers = {name: _observer(name, self.catalog) for name in self.observe}
            if self.engine.main and not resuming:
                self._make_folder()
                created = True
                alone.close()
                alone.enter_context(lock.held(self.folder))
            self.engine.barrier()
            self._announce()
            self._train(observers)
        except UsageError:
            if created and not checkpoint.available(self.checkpoints):
                shutil.rmtree(self.folder)  # it would only be in the way of the next try
            raise
        finally:
            alone.close()
            self.engine.close()

    # --- opening ---------------------------------------------------------------------------------

    def _open(self, resuming: bool) -> None:
        """Build data and task, and check what can be checked without an update."""
        self.dataset = build.build_dataset(self.recipe.dataset, self.catalog)
        if resuming:
            self.dataset.use_assets(assets.load(self.folder, "dataset"))
        self._prepare("data", self.dataset.prepare)
        self.recipe = build.with_data(self.recipe, self.dataset.implies(), self.catalog)
        samples = self.dataset.split("train")
        if samples is None or not len(samples):
            raise UsageError(f"{self.recipe.dataset.name} has no training samples")
        self.samples = samples
        verify.verify_stages(self.recipe, self.catalog)
        for stage in self.recipe.stages:
            data.check(samples, stage, self.engine.world)
        started = resuming and checkpoint.newest(self.checkpoints, self.recipe.name) is not None
        self.task = build.build_task(self.recipe, self.catalog)
        if resuming:
            self.task.use_assets(assets.load(self.folder, "task"))
        if not started:  # where the first weights came from may be gone by the time a run is resumed
            self.first_weights = export.load_first_weights(self.task, self.recipe, self.catalog)
        self.engine.prepare(self.task)
        self._prepare("task", self.task.prepare)
        self.recipe = build.with_provenance(self.recipe, self.task)
        self._check_optimizers()

    def _prepare(self, what: str, prepare: Callable[[], None]) -> None:
        """Offline precomputation: the main process first, which leaves it where the others find it."""
        begun = time.perf_counter()
        if self.engine.main:
            prepare()
        self.engine.barrier()
        if not self.engine.main:
            prepare()
        if (seconds := time.perf_counter() - begun) > 1:
            self.say(f"prepare {what}, {seconds:.1f} s")

    def _check_optimizers(self) -> None:
        """Make every stage's optimizers once, so that a wrong name or pattern of a later stage is found now."""
        for stage in self.recipe.stages:
            self.task.enter_stage(stage)
            try:
                optim.check_names(stage, self.task.optimizers(stage.resolved(len(self.samples))))
            except UsageError:
                raise
            except ValueError as error:  # torch's optimizers check their numbers
                raise UsageError(f"stage {stage.name!r}: {error}") from error

    def _make_folder(self) -> None:
        """Make the run's folder with recipe, environment and assets in it; an old run there is replaced."""
        try:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            self.folder.mkdir(parents=True)
            write_whole(self.folder / "environment.json", json.dumps(environment(self.catalog), indent=2) + "\n")
            assets.save(self.folder, {"dataset": self.dataset.assets(), "task": self.task.assets()})
            write_whole(self.folder / "recipe.json", self.recipe.to_json())  # last: it makes the folder a run
        except OSError as error:
            raise UsageError(f"--out {self.folder} cannot be written: {error.strerror or error}") from error

    def _announce(self) -> None:
        parameters = sum(p.numel() for p in self.task.parameters() if p.requires_grad)
        encoders = ", ".join(ref.name for ref in self.recipe.encoders.values())
        self.say(f"{self.recipe.name}  {parameters:,} trainable parameters, encoder {encoders}")
        self.say(f"data    {self.recipe.dataset.name}: {len(self.samples):,} training samples")
        self.say(f"engine  {self.engine.describe()}")
        for note in self.recipe.notes:
            self.say(f"note    {note}")
        for summary in self.first_weights:
            self.say(f"init    {summary}")
        for name, value in self.task.provenance().items():
            self.say(f"{name:7} {value}")

    # --- training --------------------------------------------------------------------------------

    def _train(self, further: dict[str, type[Observer]]) -> None:
        newest = checkpoint.newest(self.checkpoints, self.recipe.name)
        for problem in newest[2] if newest else []:
            self.say(f"damaged checkpoint skipped: {problem}")
        done = newest[1].total_step if newest else 0
        updates = sum(stage.resolved(len(self.samples)).steps or 0 for stage in self.recipe.stages)
        complete = newest is not None and done >= updates
        if newest:
            self.say(f"{'complete' if complete else 'continuing'} after update {done} ({newest[0]})")
        health = HealthObserver(self.folder, self.task, self.recipe.judging.monitor)
        observers = self._observers(further, health, done)
        for record in Run(self.folder, self.catalog).metrics:
            health.log(Progress(int(record["stage"]), int(record["step"]), 0, 0, int(record["total_step"])), record)
        check = partial(judge.monitor, self.recipe, self.task, self.dataset, self.engine)
        training = loop.Training(
            self.recipe,
            self.task,
            self.samples,
            self.engine,
            self.folder,
            observers,
            check if self.recipe.judging.monitor else None,
        )
        begun = time.perf_counter()
        try:
            for observer in observers:
                observer.start(self.recipe)
            loop.train(training)
        finally:
            for observer in observers:
                observer.close()
        seconds = round(time.perf_counter() - begun, 2)
        if self.engine.main:
            results = {"health": health.verdict(), "seconds": seconds, "samples_per_second": health.speed()}
            if complete:  # resumed although there was nothing left to do: what is known stays
                results |= Run(self.folder, self.catalog).evaluations
            self._conclude(results)

    def _observers(self, further: dict[str, type[Observer]], health: Observer, done: int) -> list[Observer]:
        if not self.engine.main:
            return []
        observers: list[Observer] = [Metrics(self.folder, done), health]
        observers += [Dispensable(name, kind, self.folder) for name, kind in further.items()]
        # the parameters of a sharded task cannot be gathered by one process
        if type(self.task).show is not Task.show and not self.engine.shard:
            pictures = partial(
                Pictures, task=self.task, samples=self.samples, engine=self.engine, seed=self.recipe.seed
            )
            observers.append(Dispensable("of pictures", pictures, self.folder))
        if not self.quiet:
            observers.append(ProgressLine(self.folder, terminal()))
        return observers

    # --- judging ---------------------------------------------------------------------------------

    def _conclude(self, results: dict[str, Any]) -> None:
        """Evaluate before and after, give the verdict, write the report, say where all lies and what to type next."""
        if provenance := self.task.provenance():
            results["settled"] = provenance  # the name it has had in files since version 0.1
        if self.evaluate:
            self._judge(results)
        write_whole(self.folder / "evaluations.json", json.dumps(results, indent=2) + "\n")
        print_results(self.say, results)
        run, source = shlex.quote(str(self.folder)), self.recipe.dataset.options.get("path", self.recipe.dataset.name)
        self.say(f"\nrun      {self.folder}")
        self.say(f"again    unlabel evaluate {run}")
        self.say(f"encoder  unlabel export {run} --out {shlex.quote(str(self.folder / 'encoder'))}")
        self.say(f"features unlabel embed {run} --data {shlex.quote(str(source))} --out features.npz")
        if self.report:
            self.say(f"report   {_reported(self.folder, self.catalog)}")

    def _judge(self, results: dict[str, Any]) -> None:
        engine = judge.engine_for(self.recipe, str(self.engine.device))
        judged = judge.frozen(self.recipe, self.task, self.dataset, engine)
        untrained = build.build_task(self.recipe, self.catalog)
        untrained.use_assets(self.task.assets())
        missing = self._missing_first_weights(untrained)
        engine.place(untrained)  # the main process judges alone: nothing waits for the others
        untrained.prepare()
        refs = judge.requested(self.recipe, self.task, self.catalog)
        self.say(judge.budget(judged))
        verdict = judge.judge(judged, untrained, refs, self.catalog)
        if missing:
            verdict.before = {}
            verdict.lacking["random init"] = missing  # said with what evaluations lack, and kept in the run
        results |= {"before": verdict.before, "after": verdict.after, "raw": verdict.raw}
        if verdict.lacking:
            results["lacking"] = verdict.lacking
        if not verdict.after:
            results["note"] = "no downstream evaluation could be made"
        _list_unreadable(judged, self.folder)
        with contextlib.suppress(Exception):  # for the report alone; what can be wrong with the data was said before
            embed.keep(judged, self.folder / "embeddings.npz")

    def _missing_first_weights(self, untrained: Task) -> str:
        """Load the first weights once more, for the comparison; why not, if they are no longer there."""
        try:
            export.load_first_weights(untrained, self.recipe, self.catalog)
        except UsageError as error:  # a run that is resumed must not fail for what only its beginning needed
            return str(error)
        return ""


def _with_absolute_sources(recipe: Recipe) -> Recipe:
    """Files of first weights by their absolute paths, as for data: a run may be resumed from another folder."""

    def absolute(source: str) -> str:
        path = Path(source).expanduser()
        return str(path.absolute()) if path.exists() else source

    if isinstance(recipe.init, dict):
        return recipe.model_copy(update={"init": {name: absolute(text) for name, text in recipe.init.items()}})
    return recipe.model_copy(update={"init": absolute(recipe.init)}) if recipe.init else recipe


def _observer(name: str, catalog: Catalog) -> type[Observer]:
    """The observer of that name, which has what it needs."""
    offer = catalog.find("observers", name)
    kind = offer.load()
    if not (isinstance(kind, type) and issubclass(kind, Observer)):
        raise UsageError(f"observer {name!r} of plugin {offer.plugin!r} is no subclass of unlabel.Observer: {kind!r}")
    kind.check()
    return kind


def _reported(folder: Path, catalog: Catalog) -> str:
    """Write the run's report, and say where it is; a run that went well does not fail for it."""
    from unlabel import report  # it draws: not a library to wait for before a run begins

    try:
        return report.missing() or str(report.write([folder], None, catalog))
    except Exception as error:
        return f"not written: {one_line(error)}"


def _list_unreadable(judged: Frozen, folder: Path) -> None:
    """Samples that only the evaluation met are listed too; they do not count against the limit."""
    path = folder / "quarantine.jsonl"
    known = {record["path"] for record in read_jsonl(path)} if path.exists() else set()
    new = [record for record in judged.bad if record["path"] not in known]
    if new:
        with path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in new)
