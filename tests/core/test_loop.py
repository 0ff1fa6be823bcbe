"""The loop: the same numbers however often it is interrupted, and nothing lost when something is wrong."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from echo import WIDTH, Echo, Linear, Noises, recipe

from unlabel import checkpoint, data, loop, seeds
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError
from unlabel.logs import Metrics, Observer
from unlabel.recipe import Execution, Recipe, Stage
from unlabel.storage.jsonl import read_jsonl
from unlabel.task import Batch, Progress


def run(
    folder: Path,
    chosen: Recipe,
    dataset: Noises | None = None,
    observers: list[Observer] | None = None,
    kind: type[Echo] = Echo,
) -> Echo:
    engine = Engine("cpu", "fp32")
    seeds.seed(chosen.seed)
    task = kind(Linear())
    engine.prepare(task)
    folder.mkdir(exist_ok=True)
    loop.train(loop.Training(chosen, task, dataset or Noises(), engine, folder, observers or []))
    return task


def equal(left: Echo, right: Echo) -> bool:
    mine, theirs = left.state_dict(), right.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


class StopAt(Observer):
    """Sends this process a signal after an update."""

    def __init__(self, update: int, number: int = signal.SIGTERM) -> None:
        self.update, self.number = update, number

    def log(self, progress, metrics) -> None:  # type: ignore[no-untyped-def]
        if progress.total_step == self.update:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(
    ("update", "workers"),
    [(1, 0), (3, 0), (6, 0), (7, 0), (8, 0), (14, 0), (19, 0), (14, 2)],  # inside and at borders of stages and epochs
)
def test_interrupted_and_resumed_run_ends_bit_identical(tmp_path: Path, update: int, workers: int) -> None:
    chosen = recipe(execution=Execution(workers=workers))
    whole = run(tmp_path / "whole", chosen)

    with pytest.raises(loop.Interrupted, match=f"after update {update}"):
        run(tmp_path / "cut", chosen, observers=[StopAt(update)])

    assert equal(run(tmp_path / "cut", chosen), whole)


@pytest.mark.slow
def test_every_checkpoint_leads_to_the_same_end(tmp_path: Path) -> None:
    chosen = recipe(save_every=1, keep=100)
    whole = run(tmp_path / "whole", chosen)
    for path in checkpoint.available(tmp_path / "whole/checkpoints")[:-1]:
        other = tmp_path / path.name / "checkpoints"
        other.mkdir(parents=True)
        path.rename(other / path.name)
        assert equal(run(other.parent, chosen), whole)


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    whole = run(tmp_path, recipe())
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    assert equal(run(tmp_path, recipe()), whole)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_workers_do_not_change_a_bit(tmp_path: Path) -> None:
    runs = [run(tmp_path / str(n), recipe(execution=Execution(workers=n))) for n in (0, 1, 2)]
    assert equal(runs[0], runs[1])
    assert equal(runs[0], runs[2])


def test_seed_changes_the_run(tmp_path: Path) -> None:
    assert not equal(run(tmp_path / "a", recipe(seed=0)), run(tmp_path / "b", recipe(seed=1)))


def test_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    chosen = recipe(keep=3)
    whole = run(tmp_path, chosen)
    newest = checkpoint.available(tmp_path / "checkpoints")[-1]
    (newest / "task.safetensors").write_bytes(b"\0" * 100)

    found = checkpoint.newest(tmp_path / "checkpoints", "test/echo")

    assert found is not None
    assert found[0] < newest
    assert "damaged" in found[2][0]
    assert newest.name in found[2][0]
    assert equal(run(tmp_path, chosen), whole)
    assert checkpoint.read(newest).total_step == 20  # written again, whole


@pytest.mark.parametrize("name", ["task.safetensors", "optimizers.safetensors", "position.json"])
def test_truncated_or_missing_file_is_noticed(tmp_path: Path, name: str) -> None:
    run(tmp_path, recipe())
    newest = checkpoint.available(tmp_path / "checkpoints")[-1]
    content = (newest / name).read_bytes()
    (newest / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=newest.name):
        checkpoint.read(newest)
    (newest / name).unlink()
    with pytest.raises(RunError, match=newest.name):
        checkpoint.read(newest)


def test_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    run(tmp_path, recipe())
    with pytest.raises(UsageError, match="'test/echo', not of 'test/other'"):
        checkpoint.newest(tmp_path / "checkpoints", "test/other")


def test_unfinished_checkpoint_of_a_killed_process_is_ignored(tmp_path: Path) -> None:
    whole = run(tmp_path, recipe())
    (tmp_path / "checkpoints/.step-00000099.1.writing").mkdir()
    assert equal(run(tmp_path, recipe()), whole)


def test_failed_write_leaves_earlier_checkpoints_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    run(tmp_path, recipe(keep=10))
    before = checkpoint.available(tmp_path / "checkpoints")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    task, engine = Echo(Linear()), Engine("cpu", "fp32")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))  # as a full disk: the write fails half way
        with pytest.raises(RunError, match="earlier checkpoints are untouched"):
            checkpoint.save(tmp_path / "checkpoints", task, {}, engine, checkpoint.Position("test/echo", 1, 13, 99))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert checkpoint.available(tmp_path / "checkpoints") == before
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_only_the_newest_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    engine, task = Engine("cpu", "fp32"), Echo(Linear())
    for update, score in enumerate([0.1, 0.9, 0.3, 0.2, 0.4]):
        checkpoint.save(tmp_path, task, {}, engine, checkpoint.Position("test/echo", 0, update, update, score))
        checkpoint.prune(tmp_path, keep=2)
    assert [path.name for path in checkpoint.available(tmp_path)] == ["step-00000001", "step-00000003", "step-00000004"]


def test_not_finite_loss_stops_and_names_term_update_and_samples(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"loss is (inf|nan) at update \d+ of stage 'head only'") as error:
        run(tmp_path, recipe(), Noises(poison=[11]))
    assert "last good checkpoint is kept" in str(error.value)
    note = json.loads(next(tmp_path.glob("nonfinite-*.json")).read_text())
    assert "noise/11" in note["samples"]
    for path in checkpoint.available(tmp_path / "checkpoints"):
        checkpoint.read(path)
        task = Echo(Linear())
        checkpoint.load_task(path, task, Engine("cpu", "fp32"))
        assert all(torch.isfinite(value).all() for value in task.state_dict().values())


def test_weights_ruined_by_an_update_of_finite_loss_are_never_saved(tmp_path: Path) -> None:
    ruinous = recipe().stages[0].model_copy(update={"lr": 1e42, "warmup_steps": 0})
    with pytest.raises(RunError, match=r"is nan at update 0"):
        run(tmp_path, recipe(stages=[ruinous], save_every=1))
    assert not checkpoint.available(tmp_path / "checkpoints")


def test_bad_samples_are_listed_once_and_replaced_the_same_way_each_time(tmp_path: Path) -> None:
    chosen = recipe(max_bad=0.2)
    first = run(tmp_path / "a", chosen, Noises(bad=[3, 30]))
    again = run(tmp_path / "b", recipe(max_bad=0.2, execution=Execution(workers=2)), Noises(bad=[3, 30]))
    assert equal(first, again)
    records = read_jsonl(tmp_path / "a/quarantine.jsonl")
    assert sorted((r["index"], r["path"], r["reason"]) for r in records) == [
        (3, "noise/3", "torn"),
        (30, "noise/30", "torn"),
    ]


def test_too_many_bad_samples_stop_the_run_with_the_share_and_the_file(tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"of 50 samples cannot be used, more than --max-bad 0.01 allows.*quarantine.jsonl"
    ):
        run(tmp_path, recipe(), Noises(bad=range(0, 50, 5)))


def test_no_bad_sample_is_ever_trained_on_and_each_good_one_is(tmp_path: Path) -> None:
    seen: set[int] = set()
    stage = recipe().stages[1].resolved(50)
    stream = data.batches(Noises(bad=[3]), stage, Engine("cpu", "fp32"), seed=1)
    for _ in range(24):  # micro-batches of 6: three epochs of 48, each without two others of the 50
        batch, _ = next(stream)
        seen |= set(batch["index"].tolist())
    assert seen == set(range(50)) - {3}, "a stand-in goes by its own index"


def test_labels_never_reach_the_task() -> None:
    class Labelled(Noises):
        def __getitem__(self, index: int) -> dict[str, object]:
            return {**super().__getitem__(index), "label": 1}

    batch, _ = next(data.batches(Labelled(), recipe().stages[0].resolved(50), Engine("cpu", "fp32"), seed=1))
    assert set(batch) == {"x", "index", "key"}


def test_resumed_metrics_have_each_update_once(tmp_path: Path) -> None:
    chosen = recipe()
    tmp_path.joinpath("cut").mkdir()
    metrics = Metrics(tmp_path / "cut")
    with pytest.raises(loop.Interrupted):
        run(tmp_path / "cut", chosen, observers=[metrics, StopAt(11)])
    metrics.close()
    with (tmp_path / "cut/metrics.jsonl").open("a") as file:
        file.write('{"stage": 1, "step": 5, "total_step": 12, "loss": 0}\n{"torn')  # of a process killed while writing
    metrics = Metrics(tmp_path / "cut", resume_at=11)
    run(tmp_path / "cut", chosen, observers=[metrics])
    metrics.close()
    assert [record["total_step"] for record in read_jsonl(tmp_path / "cut/metrics.jsonl")] == list(range(1, 21))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_ends_the_run_with_the_file_that_could_not_be_written(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path)
    metrics.file.close()
    with Path("/dev/full").open("a", encoding="utf-8") as metrics.file:
        with pytest.raises(RunError, match=r"/dev/full could not be written \(No space left on device\)"):
            run(tmp_path, recipe(), observers=[metrics])
        metrics.close()


def test_epochs_are_entered_once_and_again_after_a_resume_which_says_so(tmp_path: Path) -> None:
    chosen = recipe()
    whole = run(tmp_path / "whole", chosen)
    # of 50 samples: 7 updates of 8, six an epoch; 13 of 12, four an epoch
    assert whole.entered == [(epoch, False) for epoch in (0, 1, 0, 1, 2, 3)]
    with pytest.raises(loop.Interrupted):
        run(tmp_path / "within", chosen, observers=[StopAt(13)])
    assert run(tmp_path / "within", chosen).entered == [(1, True), (2, False), (3, False)]
    with pytest.raises(loop.Interrupted):
        run(tmp_path / "between", chosen, observers=[StopAt(11)])
    assert run(tmp_path / "between", chosen).entered == [(1, False), (2, False), (3, False)]


class Anchored(Echo):
    """Stays near the weights it had when the epoch began."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__(encoder)
        self.register_buffer("anchor", torch.zeros(WIDTH, WIDTH))

    def enter_epoch(self, progress: Progress, resumed: bool) -> None:
        super().enter_epoch(progress, resumed)
        if not resumed:
            self.anchor.copy_(self.encoder.weight.detach())

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        terms = super().loss(batch)
        return {**terms, "loss": terms["loss"] + (self.encoder.weight - self.anchor).square().sum()}


@pytest.mark.slow
def test_what_is_computed_from_the_weights_at_an_epochs_start_survives_a_resume_after_every_update(
    tmp_path: Path,
) -> None:
    chosen = recipe(save_every=1, keep=100)
    whole = run(tmp_path / "whole", chosen, kind=Anchored)
    assert sum(not resumed for _, resumed in whole.entered) == 6
    for path in checkpoint.available(tmp_path / "whole/checkpoints")[:-1]:
        other = tmp_path / path.name / "checkpoints"
        other.mkdir(parents=True)
        path.rename(other / path.name)
        assert equal(run(other.parent, chosen, kind=Anchored), whole), path.name


class Watching(Echo):
    """Remembers where the run stood."""

    def training_step(self, batches, optimizers, engine, stage):  # type: ignore[no-untyped-def]
        self.before.append(self.progress)
        return super().training_step(batches, optimizers, engine, stage)

    def after_update(self, progress: Progress) -> None:
        super().after_update(progress)
        assert self.progress == progress
        self.after.append(progress)

    def enter_stage(self, stage: Stage) -> None:
        super().enter_stage(stage)
        self.entering = self.progress
        self.before: list[Progress] = []
        self.after: list[Progress] = []


def test_a_task_knows_where_the_run_stands_during_and_after_an_update(tmp_path: Path) -> None:
    """As copies of the counters in its state would tell it: after a resume, and when a checkpoint is loaded."""
    chosen = recipe()
    with pytest.raises(loop.Interrupted):
        run(tmp_path, chosen, observers=[StopAt(12)], kind=Watching)
    loaded = Watching(Linear())
    assert loaded.progress == Progress(0, 0, 1, 0, 0)
    loop.resume(chosen, loaded, Engine("cpu", "fp32"), tmp_path)
    assert loaded.progress == Progress(stage=1, step=5, steps=13, epoch=1, total_step=12)

    task = run(tmp_path, chosen, kind=Watching)
    assert task.entering == task.before[0] == Progress(stage=1, step=5, steps=13, epoch=1, total_step=12)
    assert [progress.step for progress in task.before] == list(range(5, 13))
    assert [progress.total_step for progress in task.before] == list(range(12, 20))
    assert [progress.step for progress in task.after] == list(range(6, 14))
    assert {(progress.stage, progress.steps) for progress in task.before + task.after} == {(1, 13)}
    assert task.progress == task.after[-1]


def test_checkpoints_that_do_not_say_the_epoch_are_read(tmp_path: Path) -> None:
    task = Echo(Linear())
    path = checkpoint.save(tmp_path, task, {}, Engine("cpu", "fp32"), checkpoint.Position("test/echo", 1, 2, 5))
    position = json.loads((path / "position.json").read_text())
    del position["steps"], position["epoch"]
    (path / "position.json").write_text(json.dumps(position))
    assert checkpoint.read(path).progress == Progress(1, 2, 0, 0, 5)


def test_what_a_task_no_longer_keeps_may_stand_in_its_checkpoints(tmp_path: Path) -> None:
    class Leaner(Echo):
        obsolete = ("old_*",)

    engine, task, older = Engine("cpu", "fp32"), Leaner(Linear()), Echo(Linear())
    older.register_buffer("old_counter", torch.tensor(3))
    path = checkpoint.save(tmp_path, older, {}, engine, checkpoint.Position("test/echo", 0, 1, 1))
    checkpoint.load_task(path, task, engine)
    assert all(torch.equal(value, older.state_dict()[name]) for name, value in task.state_dict().items())

    older.register_buffer("counter", torch.tensor(3))
    path = checkpoint.save(tmp_path, older, {}, engine, checkpoint.Position("test/echo", 0, 2, 2))
    with pytest.raises(RunError, match="1 entries differ, among them counter"):
        checkpoint.load_task(path, task, engine)


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run(tmp_path, recipe())
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
