"""Orders: functions of an update's number, without twins in a batch, the same for any number of processes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from echo import Noises, recipe
from hypothesis import assume, given
from hypothesis import strategies as st

from unlabel import data
from unlabel.data import Buckets, Groups, Mixture, Order, Permutation, Positions
from unlabel.data import reader as loading
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.recipe import Recipe, Stage, load

CPU = Engine("cpu", "fp32")
GROUPS = np.repeat(np.arange(12), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 3])
LENGTHS = np.random.default_rng(0).integers(1, 200, 90)

ORDERS: dict[str, tuple[Callable[[], Order], int, int]] = {  # how it is made, samples there are, size of a batch
    "permutation": (lambda: Permutation(50), 50, 8),
    "straddling": (lambda: Permutation(50, "straddle"), 50, 8),
    "mixture": (lambda: Mixture([40, 9, 21], [0.5, 0.2, 0.3]), 70, 8),
    "mixture by size": (lambda: Mixture([40, 9, 21]), 70, 8),
    "mixture in batches": (lambda: Mixture([40, 9, 21], [2, 1, 1], whole_batches=False), 70, 8),
    "groups": (lambda: Groups(GROUPS, 4, 3), len(GROUPS), 12),
    "repeating groups": (lambda: Groups(GROUPS, 4, 3, repeat=True), len(GROUPS), 12),
    "buckets": (lambda: Buckets(LENGTHS), 90, 8),
    "buckets of tokens": (lambda: Buckets(LENGTHS, tokens=1600), 90, 8),
}


class Ordered(Noises):
    """Samples with an order of their own."""

    def __init__(self, order: Order, count: int) -> None:
        super().__init__(count=count)
        self.own = order

    def order(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        return self.own(number, size, seed)


def stage(size: int | Literal["all"], **fields: object) -> Stage:
    return Stage(**{"steps": 9, "batch_size": size, **fields})


def updates(order: Order, size: int, count: int, seed: int = 5) -> list[list[tuple[int, int]]]:
    """(epoch, index) of each sample of the first updates."""
    found = [order(number, size, seed) for number in range(count)]
    return [list(zip(epochs.tolist(), indices.tolist(), strict=True)) for epochs, indices in found]


# Every order


@pytest.mark.parametrize("name", ORDERS)
@given(number=st.integers(0, 60), before=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 2))
def test_an_update_depends_on_its_number_and_the_seed_alone(
    name: str, number: int, before: list[int], seed: int
) -> None:
    """Whatever was asked before, which is all that resuming needs."""
    make, samples, size = ORDERS[name]
    busy = make()
    for earlier in before:
        busy(earlier, size, seed)
        busy(earlier, size, seed + 1)
    epochs, indices = busy(number, size, seed)
    again = make()(number, size, seed)
    assert (again[0] == epochs).all()
    assert (again[1] == indices).all()
    assert epochs.dtype == indices.dtype == np.int64
    assert ((indices >= 0) & (indices < samples)).all()


@pytest.mark.parametrize("name", ORDERS)
def test_what_was_drawn_may_be_written_over(name: str) -> None:
    make, _, size = ORDERS[name]
    order = make()
    first = [values.copy() for values in order(3, size, 5)]
    for values in order(3, size, 5):
        values[:] = 0
    assert all((values == kept).all() for values, kept in zip(order(3, size, 5), first, strict=True))


@pytest.mark.parametrize("name", ORDERS)
def test_no_sample_comes_twice_with_the_same_draws(name: str) -> None:
    make, _, size = ORDERS[name]
    pairs = [pair for update in updates(make(), size, 60) for pair in update]
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("name", [name for name in ORDERS if name not in ("straddling", "repeating groups")])
def test_no_batch_holds_a_sample_twice(name: str) -> None:
    make, _, size = ORDERS[name]
    for update in updates(make(), size, 60):
        indices = [index for _, index in update]
        assert len(set(indices)) == len(indices)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(("world", "accumulate"), [(2, 1), (1, 2), (2, 2)])
def test_processes_and_micro_batches_together_see_what_one_process_sees(name: str, world: int, accumulate: int) -> None:
    make, samples, size = ORDERS[name]
    dataset = Ordered(make(), samples)
    alone = [pairs for pairs, _ in islice(Positions(dataset, stage(size), 5), 7)]
    split = stage(size, accumulate=accumulate)
    shares = [
        [pairs for pairs, _ in islice(Positions(dataset, split, 5, rank, world), 7 * accumulate)]
        for rank in range(world)
    ]
    for number, whole in enumerate(alone):
        parts = [shares[rank][number * accumulate + micro] for micro in range(accumulate) for rank in range(world)]
        assert [pair for part in parts for pair in part] == whole
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("name", ORDERS)
@given(start=st.integers(0, 20), accumulate=st.integers(1, 3))
def test_positions_from_any_micro_batch_on_are_those_of_the_whole(name: str, start: int, accumulate: int) -> None:
    make, samples, size = ORDERS[name]
    dataset, split = Ordered(make(), samples), stage(size, accumulate=accumulate)
    whole = list(islice(Positions(dataset, split, 5), start + 4))
    assert list(islice(Positions(dataset, split, 5, start=start), 4)) == whole[start:]


# The order of a stage

STRADDLING = [  # of version 0.1: ten samples, batches of four, seed 5
    [(0, 1), (0, 5), (0, 2), (0, 9)],
    [(0, 8), (0, 6), (0, 3), (0, 7)],
    [(0, 0), (0, 4), (1, 6), (1, 4)],
    [(1, 5), (1, 7), (1, 3), (1, 8)],
    [(1, 9), (1, 1), (1, 2), (1, 0)],
    [(2, 8), (2, 5), (2, 6), (2, 7)],
    [(2, 4), (2, 9), (2, 2), (2, 0)],
    [(2, 3), (2, 1), (3, 4), (3, 7)],
]
OF_TWO = {  # seven samples, batches of three in one process from the third on; of the second of two, two each
    (1, 3): [
        [(0, 5), (1, 0), (1, 1)],
        [(1, 5), (1, 3), (1, 6)],
        [(1, 2), (1, 4), (2, 2)],
        [(2, 6), (2, 5), (2, 3)],
        [(2, 1), (2, 0), (2, 4)],
    ],
    (2, 4): [
        [(1, 3), (1, 6)],
        [(2, 2), (2, 6)],
        [(2, 1), (2, 0)],
        [(3, 4), (3, 5)],
        [(3, 1), (3, 2)],
    ],
}


def test_straddling_is_the_order_of_version_0_1() -> None:
    old = stage(4, last_batch="straddle")
    assert [pairs for pairs, _ in islice(Positions(Noises(count=10), old, 5), 8)] == STRADDLING
    for (world, size), expected in OF_TWO.items():
        positions = Positions(Noises(count=7), stage(size, last_batch="straddle"), 11, world - 1, world, start=2)
        assert [pairs for pairs, _ in islice(positions, 5)] == expected


@pytest.mark.parametrize("size", [4, 7, 20, 50])
def test_no_update_repeats_a_sample_over_three_epochs(size: int) -> None:
    """In version 0.1 up to 62 of 256 did, and a contrast took them for different ones."""
    chosen = Stage(epochs=3, batch_size=size).resolved(50)
    stream = data.batches(Noises(count=50), chosen, CPU, seed=5)
    drawn: dict[int, list[int]] = {}
    for step, (batch, _) in enumerate(islice(stream, chosen.steps)):
        indices = batch["index"].tolist()
        assert len(set(indices)) == size
        drawn.setdefault(chosen.epoch_of(step, 50), []).extend(indices)
    assert sorted(drawn) == [0, 1, 2]
    for indices in drawn.values():  # whole updates, and nothing twice in an epoch
        assert len(set(indices)) == len(indices) == 50 // size * size


def test_every_sample_has_its_turn_although_each_epoch_leaves_some_out() -> None:
    counts = Counter(index for update in updates(Permutation(10), 4, 200) for _, index in update)
    assert min(counts.values()) > 60  # of 100 epochs with 8 of 10; another remainder each time


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000), st.sampled_from(["drop", "straddle"]))
def test_the_epoch_of_a_step_is_that_of_its_first_sample(
    samples: int, size: int, step: int, last_batch: Literal["drop", "straddle"]
) -> None:
    assume(size <= samples)
    epochs, _ = Permutation(samples, last_batch)(step, size, 0)
    assert stage(size, last_batch=last_batch).epoch_of(step, samples) == epochs[0]


def test_epochs_of_whole_updates_count_whole_updates() -> None:
    for last_batch, steps, warmup, horizon in (("drop", 12, 6, 24), ("straddle", 13, 6, 25)):
        chosen = stage(8, steps=None, epochs=2, warmup_epochs=1, horizon_epochs=4, last_batch=last_batch).resolved(50)
        assert (chosen.steps, chosen.warmup, chosen.horizon) == (steps, warmup, horizon)
    assert stage("all", steps=None, epochs=2).resolved(50).steps == 2


def test_a_stage_that_ends_within_its_schedule_says_how_far_it_is() -> None:
    chosen = stage(10, steps=5, horizon=8, accumulate=2).resolved(50)
    fractions = [fraction for _, fraction in islice(Positions(Noises(), chosen, 0, start=3), 16)]
    assert fractions == [min(1.0, number // 2 / 8) for number in range(3, 19)]


# Recipes of version 0.1


def test_a_recipe_that_a_run_of_version_0_1_wrote_goes_on_straddling(tmp_path: Path) -> None:
    written = json.loads(recipe().to_json())
    assert written.pop("version") == 2
    for one in written["stages"]:
        assert one.pop("last_batch") == "drop"
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(written))
    old = load(path)
    assert {one.last_batch for one in old.stages} == {"straddle"}
    assert old.version == 2  # what is written now says it all
    path.write_text(old.to_json())
    assert load(path) == old


def test_recipes_of_today_do_not_straddle_unless_they_say_so() -> None:
    by_hand = {"task": "a/b", "encoder": "a/c", "dataset": "a/d", "stages": [{"steps": 1}], "max_bad": 0.5}
    assert Recipe.model_validate(by_hand).stages[0].last_batch == "drop"
    again = Recipe.model_validate(json.loads(recipe().to_json()))
    assert {one.last_batch for one in again.stages} == {"drop"}


# Orders of a dataset's own


def test_a_dataset_with_an_order_of_its_own_is_read_and_gathered_in_it() -> None:
    class Backwards(Noises):
        def order(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
            first = number * size % len(self)
            return np.full(size, number), len(self) - 1 - np.arange(first, first + size) % len(self)

    class Tabled(Backwards):
        def table(self) -> dict[str, object]:
            return data.collate([self[index] for index in range(len(self))])

    for dataset in (Backwards(), Tabled()):
        stream = data.batches(dataset, stage(20).resolved(50), CPU, seed=5)
        assert [batch["index"].tolist() for batch, _ in islice(stream, 2)] == [
            list(range(49, 29, -1)),
            list(range(29, 9, -1)),
        ]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (([0, 0], [1]), r"order of Wrong gave \(2,\) epochs and \(1,\) indices for update 0"),
        (([0], [1]), "a sample for each of 2 micro-batches"),
        (([0, 0], [1, 50]), "gave index 50 for update 0, and there are 50 samples"),
        (([0, 0], [-1, 3]), "gave index -1 for update 0"),
    ],
)
def test_a_wrong_order_is_named(answer: tuple[list[int], list[int]], message: str) -> None:
    class Wrong(Noises):
        def order(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
            return np.array(answer[0]), np.array(answer[1])

    with pytest.raises(UsageError, match=message):
        next(data.batches(Wrong(), stage(4, accumulate=2).resolved(50), CPU, seed=0))


def test_a_batch_that_an_order_cannot_make_is_refused_before_training() -> None:
    grouped = Ordered(Groups(GROUPS, 4, 3), len(GROUPS))
    loading.check(grouped, stage(12), 1)
    with pytest.raises(UsageError, match="batch size 16 is not 4 identities of 3 samples: use --batch-size 12"):
        loading.check(grouped, stage(16), 1)


# Mixtures


def test_each_batch_of_a_mixture_is_of_one_dataset_and_shares_hold_in_the_long_run() -> None:
    shares = np.array([0.5, 0.17, 0.33])
    order, borders = Mixture([40, 9, 21], shares), np.array([0, 40, 49, 70])
    batches = [order(number, 8, 5)[1] for number in range(800)]
    drawn = [np.unique(np.searchsorted(borders, indices, "right") - 1) for indices in batches]
    assert all(len(parts) == 1 for parts in drawn)
    turns = np.concatenate(drawn)
    for epoch in turns.reshape(100, 8):  # 70 samples: 8 batches an epoch
        assert (np.abs(np.bincount(epoch, minlength=3) - 8 * shares) < 1.0 + 1e-9).all()
    assert np.bincount(turns) / len(turns) == pytest.approx(shares, abs=0.01)


def test_the_datasets_of_a_mixture_go_through_their_samples_at_their_own_pace() -> None:
    order = Mixture([40, 9, 21], [0.5, 0.2, 0.3])
    small = [pair for update in updates(order, 8, 100) for pair in update if 40 <= pair[1] < 49]
    passes = Counter(epoch for epoch, _ in small)
    assert sorted(passes) == list(range(len(passes)))
    assert set(passes.values()) == {8}  # of nine samples: one batch, and one left out


def test_each_batch_of_a_mixture_in_batches_has_the_same_shares() -> None:
    order = Mixture([40, 9, 21], [2, 1, 1], whole_batches=False)
    for number in range(30):
        _, indices = order(number, 8, 5)
        assert np.bincount(np.searchsorted([40, 49], indices, "right")).tolist() == [4, 2, 2]
        assert indices.tolist() != sorted(indices.tolist())  # processes get some of each


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture([5, 6], [1.0]), "expected a number above 0 for each of 2 datasets"),
        (lambda: Mixture([5, 6], [1, 0]), "expected a number above 0"),
        (lambda: Mixture([5, 60], [1000, 1])(0, 8, 0), "has 5 samples, fewer than the 8"),
        (lambda: Mixture([50, 60], [1, 99], whole_batches=False)(0, 8, 0), "dataset 0 .* less than one sample"),
        (lambda: Groups([0, 0, 1], 2, 2), "1 identities have 2 samples or more, and a batch holds 2"),
        (lambda: Buckets([1, 900], tokens=512), "sample 1 has length 900, more than the budget of 512"),
        (lambda: Buckets([1, 9], step=1.0), "expected a ratio above 1"),
        (lambda: Permutation(5)(0, 6, 0), "a batch of 6 is larger than the 5 samples"),
    ],
)
def test_what_an_order_cannot_do_is_said(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()


# Groups


@pytest.mark.parametrize("repeat", [False, True])
def test_batches_of_groups_have_so_many_identities_with_so_many_samples(repeat: bool) -> None:
    order = Groups(GROUPS, 4, 3, repeat=repeat)
    for number in range(30):
        _, indices = order(number, 12, 5)
        identities = GROUPS[indices].reshape(4, 3)
        assert (identities == identities[:, :1]).all()
        assert len(set(identities[:, 0].tolist())) == 4
        for row, identity in zip(indices.reshape(4, 3), identities[:, 0], strict=True):
            assert len(set(row.tolist())) == min(3, np.count_nonzero(identity == GROUPS))


def test_identities_with_too_few_samples_are_left_out_and_counted() -> None:
    order = Groups([*GROUPS, -1, -1], 4, 3)
    assert order.left_out.tolist() == [0, 1, 2, len(GROUPS), len(GROUPS) + 1]
    drawn = {index for update in updates(order, 12, 200) for _, index in update}
    assert drawn == set(range(3, len(GROUPS)))
    repeating = Groups([*GROUPS, -1, -1], 4, 3, repeat=True)
    assert repeating.left_out.tolist() == [len(GROUPS), len(GROUPS) + 1]
    assert {index for update in updates(repeating, 12, 200) for _, index in update} == set(range(len(GROUPS)))


def test_an_epoch_of_groups_gives_each_identity_one_turn_and_a_large_one_goes_through_its_samples() -> None:
    order = Groups(np.repeat(np.arange(4), 6), 2, 3)
    seen = [order(number, 6, 5)[1] for number in range(8)]
    for epoch in range(4):
        identities = np.concatenate(seen[2 * epoch : 2 * epoch + 2]) // 6
        assert np.bincount(identities).tolist() == [3, 3, 3, 3]
    for start in (0, 4):  # two epochs: six samples of each identity, three at a time
        assert sorted(np.concatenate(seen[start : start + 4]).tolist()) == list(range(24))


# Buckets


@given(st.lists(st.integers(1, 500), min_size=1, max_size=60), st.integers(0, 5))
def test_buckets_of_tokens_keep_to_the_budget_and_give_every_sample_once_an_epoch(
    lengths: list[int], seed: int
) -> None:
    order = Buckets(lengths, tokens=600)
    epoch: list[int] = []
    number = 0
    while len(epoch) < len(lengths):
        epochs, indices = order(number, 1, seed)
        assert (epochs == 0).all()
        assert max(lengths[index] for index in indices) * len(indices) <= 600
        assert len(indices) >= min(len(lengths), 600 // max(lengths) // 2)
        epoch += indices.tolist()
        number += 1
    assert sorted(epoch) == list(range(len(lengths)))
    assert order(number, 1, seed)[0][0] == 1


@given(st.lists(st.integers(1, 500), min_size=8, max_size=60), st.integers(0, 5))
def test_buckets_leave_out_no_more_than_the_remainder(lengths: list[int], seed: int) -> None:
    order = Buckets(lengths)
    epoch = np.concatenate([order(number, 8, seed)[1] for number in range(len(lengths) // 8)])
    assert len(set(epoch.tolist())) == len(epoch) == len(lengths) // 8 * 8


def test_samples_of_a_bucket_are_of_similar_length() -> None:
    """Of 2,000 uniform lengths, sorted into batches of 8, hardly one pads by more than the step of 20 %."""
    lengths = np.random.default_rng(0).integers(1, 500, 2000)
    order, shuffled = Buckets(lengths), Permutation(2000)

    def padding(of: Order) -> float:
        batches = [lengths[of(number, 8, 5)[1]] for number in range(250)]
        return float(np.mean([1 - batch.sum() / (batch.max() * 8) for batch in batches]))

    assert padding(order) < 0.12
    assert padding(shuffled) > 0.35


def test_buckets_are_filled_anew_each_epoch_and_come_in_another_order() -> None:
    order = Buckets(LENGTHS, tokens=400)
    count = len(order.cuts or ()) - 1
    first, second = (
        [frozenset(order(number, 1, 5)[1].tolist()) for number in range(epoch * count, (epoch + 1) * count)]
        for epoch in (0, 1)
    )
    assert len(set(first) & set(second)) < count / 2
    longest = [max(LENGTHS[list(batch)]) for batch in first]
    assert longest != sorted(longest)
