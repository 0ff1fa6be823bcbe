"""What a transform may know: its own random numbers, where training stands, and other samples."""

from __future__ import annotations

import pickle
from itertools import islice

import numpy as np
import pytest
from echo import Echo, Linear, Noises, Shift
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unlabel import data, seeds
from unlabel.data import Dataset, Draw, Reader, others
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError
from unlabel.evaluate.features import Frozen
from unlabel.joint import Joint
from unlabel.recipe import Stage
from unlabel.task import Batch, Sample

CPU = Engine("cpu", "fp32")


class Numbered(Dataset):
    """Samples that are their own number, with a label."""

    def __init__(self, count: int = 50, bad: tuple[int, ...] = ()) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise OSError("torn")
        return {"number": np.int64(index), "label": 7}


class Tell:
    """Puts into the sample what the draw says."""

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        first, second = draw.other(), draw.other()
        return {
            **sample,
            "epoch": draw.epoch,
            "fraction": draw.fraction,
            "others": np.array([first["number"], second["number"]]),
            "labels": "label" in first,
            "drawn": draw.rng.random(),
        }


def read(pairs: list[tuple[int, int]], seed: int = 3, **options: object) -> Batch:
    return Reader(Numbered(**options), Tell(), seed).read(pairs)[0]


def test_the_random_numbers_are_those_that_transforms_have_always_drawn() -> None:
    assert read([(4, 17)])["drawn"].item() == np.float32(seeds.generator(3, 4, 17).random())
    plain = Noises()[6]["x"]
    shifted = Reader(Noises(), Shift(), 3).read([(2, 6)])[0]["x"][0].numpy()
    assert (shifted == plain + np.float32(0.1) * seeds.generator(3, 2, 6).normal(size=6).astype(np.float32)).all()


def test_the_parts_of_a_joint_task_draw_one_after_the_other() -> None:
    encoder = Linear()
    transform = Joint({"encoder": encoder}, {"a": Echo(encoder), "b": Echo(encoder)}).transform()
    views, rng = transform(Noises()[0], Draw(seeds.generator(1))), seeds.generator(1)
    for view in ("a", "b"):
        expected = Noises()[0]["x"] + np.float32(0.1) * rng.normal(size=6).astype(np.float32)
        assert (views[view]["x"] == expected).all()


@given(st.integers(2, 40), st.integers(0, 39), st.integers(0, 3), st.integers(0, 3))
def test_another_sample_is_never_the_sample_itself(count: int, index: int, epoch: int, seed: int) -> None:
    index %= count
    found = [int(sample["number"]) for sample in islice(others(Numbered(count), seed, epoch, index), 30)]
    assert index not in found
    assert all(0 <= other < count for other in found)
    again = [int(sample["number"]) for sample in islice(others(Numbered(count), seed, epoch, index), 30)]
    assert found == again


def test_other_samples_are_spread_over_the_dataset_and_differ_between_samples_and_epochs() -> None:
    drawn = np.array([read([(epoch, index)])["others"][0].numpy() for epoch in range(20) for index in range(50)])
    counts = np.bincount(drawn.reshape(-1), minlength=50)
    assert counts.min() > 15  # of 40 each on average; a standard deviation is 6.3
    assert (drawn[:50] != drawn[50:100]).any(axis=1).mean() > 0.9
    assert (drawn[:, 0] != drawn[:, 1]).mean() > 0.9


def test_of_one_sample_the_other_is_itself() -> None:
    assert read([(0, 0)], count=1)["others"].tolist() == [[0, 0]]


def test_other_samples_come_without_their_labels() -> None:
    assert not read([(0, index) for index in range(50)])["labels"].any()


def test_samples_that_cannot_be_read_are_passed_over() -> None:
    bad = tuple(range(0, 50, 2))
    reader = Reader(Numbered(bad=bad), Tell(), 3)
    batch, records = reader.read([(0, index) for index in range(1, 50, 2)])
    assert (batch["others"] % 2 == 1).all()
    assert records == []  # they have their own turn
    with pytest.raises(RunError, match=r"50 samples in a row cannot be used; the last: sample \d+: OSError: torn"):
        Reader(Numbered(bad=tuple(range(1, 50))), Tell(), 3).read([(0, 0)])


def test_the_other_of_a_stand_in_is_not_the_stand_in() -> None:
    reader = Reader(Numbered(2, bad=(0,)), Tell(), 3)
    with pytest.raises(RunError, match="in a row"):  # sample 1 stands in for 0, and there is no other but 0
        reader.read([(0, 0)])


def test_a_question_of_what_was_asked_for_is_no_bad_sample() -> None:
    class Refusing(Numbered):
        def __getitem__(self, index: int) -> Sample:
            if index:
                raise UsageError("these data have no second view")
            return super().__getitem__(index)

    with pytest.raises(UsageError, match="no second view"):
        Reader(Refusing(), Tell(), 3).read([(0, 0)])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_draws_in_training_know_epoch_and_fraction_of_the_schedule(workers: int) -> None:
    stage = Stage(steps=9, horizon=12, batch_size=20, accumulate=2).resolved(50)  # two updates an epoch
    stream = data.batches(Numbered(), stage, CPU, seed=3, transform=Tell(), start=2, workers=workers)
    for number, (batch, _) in enumerate(islice(stream, 10), 2):
        assert set(batch["epoch"].tolist()) == {number // 2 // 2}
        assert batch["fraction"].tolist() == pytest.approx([number // 2 / 12] * 10)


def test_draws_in_an_evaluation_are_at_the_end_of_the_schedule() -> None:
    class Telling(Echo):
        def loss(self, batch: Batch) -> dict[str, Tensor]:
            raise AssertionError("nothing is trained")

    frozen = Frozen(Telling(Linear()), Numbered(), CPU, batch_size=10, seed=3)
    batch = next(frozen.batches("train", Tell(), epoch=2))
    assert set(batch["fraction"].tolist()) == {1.0}
    assert set(batch["epoch"].tolist()) == {2}
    trained = Reader(Numbered(), Tell(), 3).read([(2, int(index)) for index in batch["index"]])[0]
    assert batch["others"].tolist() == trained["others"].tolist()
    assert batch["drawn"].tolist() == trained["drawn"].tolist()


def test_a_draw_without_a_dataset_says_so() -> None:
    with pytest.raises(RunError, match="knows no dataset"):
        Draw(seeds.generator(0)).other()


def test_a_reader_can_be_handed_to_another_process() -> None:
    reader = pickle.loads(pickle.dumps(Reader(Numbered(), Tell(), 3)))
    assert reader.read([(1, 2)])[0]["others"].tolist() == read([(1, 2)])["others"].tolist()
