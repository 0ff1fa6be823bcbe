"""Pictures of a training: taken at a few points, the same after a kill, and never of any influence."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from echo import Echo, Linear, Noises, recipe
from test_loop import StopAt, equal

from unlabel import loop, seeds
from unlabel.catalog.deprecation import Deprecated
from unlabel.data import Dataset
from unlabel.engine import Engine
from unlabel.logs import Dispensable, Observer
from unlabel.recipe import Recipe
from unlabel.show import files, pictures
from unlabel.task import Task


class Seen(Echo):
    """Shows what it is given, and how far it is; draws, and looks at whether it is in evaluation mode."""

    wrong: object = None

    def show(self, batch):  # type: ignore[no-untyped-def]
        assert not self.training
        assert not torch.is_grad_enabled()
        if isinstance(self.wrong, Exception):
            raise self.wrong
        field = next(value for value in batch.values() if value.is_floating_point())
        shade = (torch.sigmoid(field.flatten(1)[:, :8].mean()) * 255 + torch.rand(())).byte().item()
        picture = np.full((6, 10, 3), shade, np.uint8)
        picture[0, 0] = len(batch["index"])
        return {"seen": picture if self.wrong is None else self.wrong, "sub/other": picture}


def run(folder: Path, chosen: Recipe, wrong: object = None, watch: bool = True, *more: Observer) -> Seen:
    engine, samples = Engine("cpu", "fp32"), Noises()
    seeds.seed(chosen.seed)
    task = Seen(Linear())
    task.wrong = wrong
    engine.prepare(task)
    folder.mkdir(exist_ok=True)
    kind = partial(pictures.Pictures, task=task, samples=samples, engine=engine, seed=chosen.seed)
    observers: list[Observer] = [Dispensable("of pictures", kind, folder)] if watch else []
    for observer in observers:
        observer.start(chosen)
    loop.train(loop.Training(chosen, task, samples, engine, folder, [*observers, *more]))
    return task


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("pictures/*"))}


def points(folder: Path) -> list[tuple[int, int]]:
    return [(point.stage, point.step) for point in pictures.taken(folder)]


def test_each_stage_is_seen_after_its_first_update_in_between_and_at_its_end(tmp_path: Path) -> None:
    chosen = recipe(log_every=1)
    run(tmp_path, chosen)

    lengths = [stage.resolved(len(Noises())).steps or 0 for stage in chosen.stages]
    fractions = (0.5, 1.0) if len(lengths) > 1 else (0.05, 0.25, 0.5, 1.0)
    expected = [
        (stage, step)
        for stage, steps in enumerate(lengths)
        if steps
        for step in sorted({1, *(math.ceil(fraction * steps) for fraction in fractions)})
    ]
    assert points(tmp_path) == expected
    found = files.read(pictures.taken(tmp_path)[0].path)
    assert found.keys() == {"seen", "sub/other"}
    assert found["seen"].array.shape == (6, 10, 3)


def test_a_point_between_two_logged_updates_counts_from_the_next(tmp_path: Path) -> None:
    chosen = recipe(log_every=4)
    run(tmp_path, chosen)
    lengths = [stage.resolved(len(Noises())).steps or 0 for stage in chosen.stages]
    assert all(step == 1 or step % 4 == 0 or step == lengths[stage] for stage, step in points(tmp_path))


def test_they_change_no_bit_of_the_training(tmp_path: Path) -> None:
    assert equal(run(tmp_path / "with", recipe()), run(tmp_path / "without", recipe(), watch=False))


@pytest.mark.parametrize("update", [1, 6, 8, 14])
def test_a_run_that_was_killed_and_resumed_has_the_same_ones(tmp_path: Path, update: int) -> None:
    chosen = recipe(log_every=1)
    run(tmp_path / "whole", chosen)
    with pytest.raises(loop.Interrupted):
        run(tmp_path / "cut", chosen, None, True, StopAt(update))
    assert len(kept(tmp_path / "cut")) < len(kept(tmp_path / "whole"))

    run(tmp_path / "cut", chosen)

    assert kept(tmp_path / "cut") == kept(tmp_path / "whole")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (KeyError("no canvas"), "no canvas"),
        (np.zeros((4, 4, 3), np.float32), "expected a uint8 array"),
        (np.zeros((4, 4), np.uint8), "expected a uint8 array"),
        ("a string", "is str"),
    ],
)
def test_one_that_fails_is_said_once_and_the_training_goes_on(
    tmp_path: Path, wrong: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = run(tmp_path / "broken", recipe(), wrong)

    assert equal(broken, run(tmp_path / "well", recipe(), watch=False))
    told = capsys.readouterr().err
    assert told.count("warning: observer of pictures failed") == 1
    assert words in told
    assert kept(tmp_path / "broken") == {}


def test_a_folder_that_cannot_be_written_stops_no_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pictures").write_text("in the way")
    run(tmp_path, recipe())
    assert "the run goes on without it" in capsys.readouterr().err


def test_of_samples_that_belong_together_all_are_shown(tmp_path: Path) -> None:
    class Together(Noises):
        full_batch = True

    def shown(samples: Dataset) -> int:
        task = Seen(Linear())
        watcher = pictures.Pictures(tmp_path, task=task, samples=samples, engine=Engine("cpu", "fp32"), seed=0)
        watcher.take(0, 0)
        [point] = pictures.taken(tmp_path)
        return int(files.read(point.path)["seen"].array[0, 0, 0])

    assert shown(Together()) == len(Noises())
    assert shown(Noises()) == min(16, len(Noises()))


def test_a_task_of_version_0_1_shows_its_pictures_and_is_told_the_new_name(tmp_path: Path) -> None:
    with pytest.warns(Deprecated, match=r"Old.pictures is now called show; unlabel 0.3 will not") as caught:

        class Old(Seen):
            def pictures(self, batch):  # type: ignore[no-untyped-def]
                return {"old": np.zeros((6, 10, 3), np.uint8)}

    assert [warning.filename for warning in caught] == [__file__], "where the class is"

    class Further(Old):  # says nothing again
        pass

    task = Further(Linear())
    pictures.Pictures(tmp_path, task=task, samples=Noises(), engine=Engine("cpu", "fp32"), seed=0).take(0, 1)
    assert files.read(pictures.taken(tmp_path)[0].path).keys() == {"old"}
    assert type(task).show is not Task.show, "so that a run looks at it"
