"""Where batches come from: read sample by sample, or gathered from a table; with what all samples share."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from echo import Echo, Linear, Noises, recipe
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from unlabel import claims, data, loop, seeds
from unlabel.catalog.plugins import Catalog, Offer, Plugin
from unlabel.data import Dataset, Positions, Subset
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Ref, Stage
from unlabel.task import Batch, Sample

CPU = Engine("cpu", "fp32")


class Table(Noises):
    """The same samples, all at once, with an offset that they share."""

    def table(self) -> Batch:
        return {"x": torch.stack([torch.from_numpy(self[index]["x"]) for index in range(len(self))])}

    def context(self) -> Batch:
        return {"offset": torch.tensor([1.0, 2.0])}


class Still(Echo):
    """Draws from the sample's key on the device, so it needs no transform."""

    def transform(self) -> None:
        return None

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        noisy = batch["x"] + 0.1 * seeds.normal(batch["key"], (6,))
        return super().loss({**batch, "x": noisy})


def stage(**fields: object) -> Stage:
    return Stage(**{"steps": 9, "batch_size": 8, **fields})


def take(dataset: Dataset, count: int, chosen: Stage, **more: object) -> list[Batch]:
    stream = data.batches(dataset, chosen.resolved(len(dataset)), CPU, seed=5, **more)
    return [batch for batch, _ in islice(stream, count)]


def test_a_table_gives_the_batches_that_reading_gives() -> None:
    for read, gathered in zip(take(Noises(), 15, stage()), take(Table(), 15, stage()), strict=True):
        assert torch.equal(read["x"], gathered["x"])
        assert torch.equal(read["index"], gathered["index"])
        assert torch.equal(read["key"], gathered["key"])
        assert gathered["key"].dtype == torch.int64


def test_a_subset_of_a_table_gives_its_own_samples() -> None:
    chosen = [7, 3, 11, 30, 2, 9, 40, 41, 42]
    for read, gathered in zip(
        take(Subset(Noises(), chosen), 5, stage()), take(Subset(Table(), chosen), 5, stage()), strict=True
    ):
        assert torch.equal(read["x"], gathered["x"])
        assert torch.equal(read["index"], gathered["index"])
        assert torch.equal(gathered["offset"], torch.tensor([1.0, 2.0]))


def test_what_samples_share_is_the_same_tensor_in_every_batch() -> None:
    first, second = take(Table(), 2, stage())
    assert first["offset"] is second["offset"]


def test_a_transform_is_applied_to_samples_that_are_read() -> None:
    class Double:
        def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
            return {"x": 2 * sample["x"]}

    [plain], [doubled] = take(Table(), 1, stage()), take(Table(), 1, stage(), transform=Double())
    assert torch.equal(2 * plain["x"], doubled["x"])
    assert torch.equal(doubled["offset"], torch.tensor([1.0, 2.0]))


def test_all_samples_are_in_every_update_and_an_epoch_is_one() -> None:
    chosen = stage(steps=None, epochs=3, batch_size="all", warmup_epochs=1).resolved(50)
    assert (chosen.steps, chosen.size, chosen.warmup) == (3, 50, 1)
    for batch in take(Table(), 3, stage(batch_size="all")):
        assert sorted(batch["index"].tolist()) == list(range(50))
    with pytest.raises(ValueError, match="no batch size before it is resolved"):
        stage(batch_size="all").size  # noqa: B018
    with pytest.raises(UsageError, match="batch size 50 does not divide by 1 processes x 4 micro-batches"):
        data.micro_batch(stage(batch_size="all", accumulate=4), 50, 1)


def test_a_run_from_a_table_resumes_exactly(tmp_path: Path) -> None:
    chosen = recipe(stages=[stage(name="all", lr=0.01, steps=10)], save_every=3)
    ends = []
    for folder, steps in (("whole", [10]), ("cut", [3, 6, 10])):
        for step in steps:
            seeds.seed(1)
            task = Still(Linear())
            shorter = [chosen.stages[0].model_copy(update={"steps": step, "horizon": 10})]
            (tmp_path / folder).mkdir(exist_ok=True)
            loop.train(
                loop.Training(chosen.model_copy(update={"stages": shorter}), task, Table(), CPU, tmp_path / folder, [])
            )
        ends.append(task.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_own_collation_is_used_in_training_and_in_evaluation() -> None:
    class Ragged(Noises):
        def collate(self, samples: list[Sample]) -> Batch:
            return {"x": torch.cat([torch.from_numpy(sample["x"]) for sample in samples])}

    [batch] = take(Ragged(), 1, stage())
    assert batch["x"].shape == (48,)
    found = next(Frozen(Still(Linear()), Ragged(), CPU, batch_size=4).batches("train", None))
    assert found["x"].shape == (24,)


def test_evaluations_gather_from_the_table_and_read_raw_samples() -> None:
    task = Still(Linear())
    by_table, by_reading = Frozen(task, Table(), CPU, batch_size=16), Frozen(task, Noises(), CPU, batch_size=16)
    assert torch.equal(by_table.features("train")[0], by_reading.features("train")[0])
    assert torch.equal(by_table.raw("train")[0], by_reading.raw("train")[0])  # without what is shared
    for gathered, read in zip(by_table.batches("train", None), by_reading.batches("train", None), strict=True):
        assert torch.equal(gathered["key"], read["key"])


def test_samples_that_belong_together_are_encoded_in_one_batch() -> None:
    class Together(Table):
        full_batch = True

    frozen = Frozen(Still(Linear()), Subset(Together(), range(30)), CPU, batch_size=4, limit={"train": 20})
    [batch] = frozen.batches("train", None)
    assert batch["index"].tolist() == list(range(30))  # a limit would save nothing


@given(
    count=st.integers(1, 20),
    size=st.integers(1, 30),
    world=st.integers(1, 3),
    start=st.integers(0, 9),
    seed=st.integers(0, 3),
)
def test_positions_depend_on_the_number_of_the_batch_alone(
    count: int, size: int, world: int, start: int, seed: int
) -> None:
    """A loop over single positions, written down from the definition, gives the same pairs."""
    rank = world - 1
    whole = count < world
    for number, pairs in enumerate(islice(Positions(count, size, seed, rank, world, start), 3), start):
        first = number * size if whole else (number * world + rank) * size
        expected = [divmod(position, count) for position in range(first, first + size)]
        assert pairs == [(epoch, int(seeds.permutation(count, seed, epoch)[place])) for epoch, place in expected]


@given(st.integers(0, 2**62), st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), min_size=1))
def test_keys_of_many_samples_are_those_of_each(run: int, places: list[tuple[int, int]]) -> None:
    epochs, indices = torch.tensor(places).T
    assert seeds.keys(run, epochs, indices).tolist() == [seeds.key(run, *place) for place in places]


def test_a_path_is_offered_to_the_plugin_whose_data_the_recipe_borrows(tmp_path: Path) -> None:
    """A plugin of tasks alone, on another plugin's data: ``--data PATH`` must reach that other plugin."""
    kinds = [("borrower", "echo:Echo", "tasks"), ("lender", "test_data:Claiming", "datasets")]
    plugins = [
        Plugin(name, f"unlabel-{name}", "0.1", [Offer(kind, f"{name}/thing", target, name)])
        for name, target, kind in kinds
    ]
    borrowed = recipe(task=Ref("borrower/thing"), dataset=Ref("lender/thing", width=3))
    place = tmp_path / "recordings.wave"
    place.touch()
    chosen = claims.dataset_ref(str(place), borrowed, Catalog(plugins))
    assert chosen == Ref("lender/thing", width=3, path=str(place))
    with pytest.raises(UsageError, match="is none of any dataset"):
        claims.dataset_ref(str(place), recipe(task=Ref("borrower/thing")), Catalog(plugins))


class Claiming(Noises):
    """A dataset for files of its own kind."""

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.suffix == ".wave"


class ClaimingAnything(Noises):
    """A dataset for any file."""

    fallback = True

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_file()


def test_a_general_kind_gets_a_path_only_if_no_particular_one_claims_it(tmp_path: Path) -> None:
    """Whatever their names: datasets are asked in the order of these."""
    names = {"any/a": "ClaimingAnything", "any/b": "Claiming", "any/c": "ClaimingAnything"}
    offers = [Offer("datasets", name, f"test_data:{target}", "any") for name, target in names.items()]
    for name, owner in (("recordings.wave", "any/b"), ("notes.txt", "any/a")):
        (tmp_path / name).touch()
        assert claims.claimant(tmp_path / name, offers).name == owner
    with pytest.raises(UsageError, match="is none of any dataset"):
        claims.claimant(tmp_path / "absent.txt", offers)
