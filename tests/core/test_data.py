"""Where batches come from: read sample by sample, or gathered from a table; with what all samples share."""

from __future__ import annotations

import copy
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from echo import Echo, Linear, Noises, recipe
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from unlabel import claims, data, loop, seeds
from unlabel.catalog.plugins import Catalog, Offer, Plugin
from unlabel.data import (
    Concatenated,
    Dataset,
    Draw,
    Groups,
    Mixture,
    Positions,
    Reader,
    Subset,
    Views,
)
from unlabel.engine import Engine
from unlabel.errors import RunError, UsageError
from unlabel.evaluate.dense_probe import LabelMaps, label_maps
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
        def __call__(self, sample: Sample, draw: Draw) -> Sample:
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
def test_straddling_positions_depend_on_the_number_of_the_batch_alone(
    count: int, size: int, world: int, start: int, seed: int
) -> None:
    """A loop over single positions, written down from the definition, gives the same pairs."""
    rank = world - 1
    whole = count < world
    chosen = stage(batch_size=size * (1 if whole else world), last_batch="straddle").resolved(count)
    positions = Positions(Noises(count=count), chosen, seed, rank, world, start)
    for number, (pairs, _) in enumerate(islice(positions, 3), start):
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


# Parts of a dataset


class Mapped(Table):
    """With what evaluations ask for: maps one by one, identities, names of classes; and data that imply a keyword."""

    per_sample = ("label_map", "identities")
    per_dataset = ("map_classes",)
    fallback = True

    def __init__(self, *, count: int = 50) -> None:
        super().__init__(count=count)
        self.identities = np.arange(count) % 7
        self.asked = 0

    def label_map(self, index: int, scale: int = 1) -> np.ndarray:
        return np.full((2, 2), index * scale)

    @property
    def map_classes(self) -> tuple[str, ...]:
        self.asked += 1
        return ("sea", "land")

    def raw(self, index: int) -> bytes:
        return bytes([index])

    def implies(self) -> dict[str, object]:
        return {"features": 6}

    def prepare(self) -> None:
        self.prepared = True


CHOSEN = [7, 3, 11, 30]


def check_part(part: Subset) -> None:
    assert isinstance(part, Subset)
    assert isinstance(part, LabelMaps)
    assert [int(part.label_map(index)[0, 0]) for index in range(4)] == CHOSEN
    assert int(part.label_map(1, scale=2)[0, 0]) == 6
    assert part.identities.tolist() == [0, 3, 4, 2]
    assert part.map_classes == ("sea", "land")
    assert (part.raw(2), part.name_of(3), part.implies()) == (bytes([11]), "noise/30", {"features": 6})
    assert part.fallback


def test_a_subset_keeps_what_evaluations_ask_of_its_dataset() -> None:
    whole = Mapped()
    part = Subset(whole, CHOSEN)
    assert whole.asked == 0  # to name the classes may cost a look at every file
    check_part(part)
    part.prepare()
    assert whole.prepared
    assert not isinstance(Subset(Noises(), CHOSEN), LabelMaps)


def test_a_subset_of_a_subset_its_copies_and_those_of_other_processes_keep_it_too() -> None:
    check_part(Subset(Subset(Mapped(), [30, 7, 3, 11, 5]), [1, 2, 3, 0]))
    part = Subset(Mapped(), CHOSEN)
    part.told = 5
    for other in (copy.copy(part), pickle.loads(pickle.dumps(part)), part.for_transform(None)):
        check_part(other)
        assert other.told == 5


def test_a_subset_answers_for_everything_a_dataset_is_asked() -> None:
    """A new member of `Dataset` must be thought of here: passed on, or one of these."""
    its_own = {"split", "info", "inspect", "claims", "per_sample", "per_dataset", "part_of"}
    by_init = {"labels", "classes", "full_batch", "fallback"}
    members = {name for name in vars(Dataset) if not name.startswith("_")}
    assert members - set(vars(Subset)) == its_own | by_init


def test_a_subset_has_the_default_order_unless_it_is_given_one() -> None:
    class Upwards(Noises):
        def order(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
            return np.zeros(size, dtype=np.int64), np.arange(40, 40 + size)

    [by_default] = take(Subset(Upwards(), range(20, 30)), 1, stage())
    [plain] = take(Subset(Noises(), range(20, 30)), 1, stage())
    assert by_default["index"].tolist() == plain["index"].tolist()
    [grouped] = take(Subset(Upwards(), range(20, 40), Groups(np.arange(20) // 5, 4, 2)), 1, stage())
    assert np.bincount(grouped["index"].numpy() // 5).tolist() == [2, 2, 2, 2]


def test_maps_that_a_part_does_not_pass_on_are_missed_with_the_way_to_mend_it() -> None:
    class Undeclared(Mapped):
        per_sample = per_dataset = ()

        def split(self, name: str) -> Dataset:
            return Subset(self, CHOSEN)

    frozen = Frozen(Still(Linear()), Undeclared(), CPU)
    with pytest.raises(UsageError, match=r"Undeclared has a class for every place.* `per_sample = \(\"label_map\",\)`"):
        label_maps(frozen, "train", "probe")


# Several datasets as one


class Texts(Dataset):
    """Sentences, padded by their own `collate`."""

    labels = np.zeros(9, dtype=np.int64)

    def __init__(self, bad: tuple[int, ...] = ()) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Sample:
        if index in self.bad:
            raise OSError("torn")
        return {"tokens": np.arange(index + 1)}

    def name_of(self, index: int) -> str:
        return f"text/{index}"

    def raw(self, index: int) -> str:
        return "word " * index

    def collate(self, samples: list[Sample]) -> Batch:
        width = max(len(sample["tokens"]) for sample in samples)
        rows = [np.pad(sample["tokens"], (0, width - len(sample["tokens"]))) for sample in samples]
        return {"tokens": torch.from_numpy(np.stack(rows))}


def test_batches_of_one_of_several_datasets_are_made_as_that_one_makes_them() -> None:
    several = Concatenated([Noises(count=20), Texts()], Mixture)
    kinds = []
    for batch in take(several, 12, stage(batch_size=4)):
        kinds.append("tokens" in batch)
        inside = batch["index"] >= 20
        assert inside.all() if kinds[-1] else not inside.any()
        assert batch["tokens"].shape[0] == 4 if kinds[-1] else batch["x"].shape == (4, 6)
    assert 0 < sum(kinds) < 12


def test_several_datasets_name_and_label_their_samples() -> None:
    several = Concatenated([Noises(count=20), Texts()])
    assert len(several) == 29
    assert (several.name_of(19), several.name_of(20), several.name_of(28)) == ("noise/19", "text/0", "text/8")
    assert several.raw(22) == "word word "
    assert several.labels.tolist() == [-1] * 20 + [0] * 9
    named = Texts()
    named.classes = ("a",)
    assert Concatenated([Texts(), named]).labels is None
    assert isinstance(several.split("train"), Concatenated)
    assert several.split("test") is None
    halves = Concatenated([Subset(Table(), range(9)), Table()])
    assert torch.equal(halves.table()["x"], torch.cat([Table().table()["x"][:9], Table().table()["x"]]))
    assert Concatenated([Table(), Noises()]).table() is None
    nested = Concatenated([Texts(), several])
    assert (nested.name_of(8), nested.name_of(9), nested.name_of(37)) == ("text/8", "noise/0", "text/8")


def test_what_stands_in_for_a_bad_sample_is_of_the_same_dataset() -> None:
    several = Concatenated([Noises(count=20), Texts(bad=(1, 2, 3))], Mixture)
    for number in range(10):
        batch, bad = Reader(several, None, number).read([(0, 21), (0, 22), (0, 23)])
        assert batch["tokens"].shape[0] == 3
        assert {record["path"] for record in bad} >= {"text/1", "text/2", "text/3"}


def test_another_sample_is_of_the_same_dataset() -> None:
    class Other:
        def __call__(self, sample: Sample, draw: Draw) -> Sample:
            return draw.other()

    several = Concatenated([Noises(count=20), Texts()])
    assert "tokens" in Reader(several, Other(), 3).read([(0, 24), (1, 28)])[0]
    assert "x" in Reader(several, Other(), 3).read([(0, 4), (1, 19)])[0]


def test_datasets_that_share_different_things_cannot_be_one() -> None:
    with pytest.raises(UsageError, match="two of the datasets share another 'offset'"):
        Concatenated([Table(), Table()]).context()


# Collating


def test_fields_of_fields_are_stacked_and_texts_stay_lists() -> None:
    def sample(number: int) -> Sample:
        inner = {"wave": np.full(3, number), "rate": number, "deep": {"of": torch.tensor([number])}}
        return {"sound": inner, "text": f"number {number}", "captions": ["a", "b"][: number + 1]}

    batch = data.collate([sample(0), sample(1)])
    assert batch["sound"]["wave"].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert batch["sound"]["rate"].tolist() == [0, 1]
    assert batch["sound"]["deep"]["of"].tolist() == [[0], [1]]
    assert batch["text"] == ["number 0", "number 1"]
    assert batch["captions"] == [["a"], ["a", "b"]]


@pytest.mark.parametrize(
    "ragged", [[np.zeros(2), np.zeros(3)], [torch.zeros(2, 1), torch.zeros(2, 3)], [[1, 2], [1, 2, 3]]]
)
def test_fields_of_different_shapes_are_named(ragged: list[object]) -> None:
    with pytest.raises(
        UsageError, match=r"field 'sound.wave' has another shape in each sample .* a `collate` that pads"
    ):
        data.collate([{"sound": {"wave": value}} for value in ragged])
    with pytest.raises(UsageError, match=r"some samples of a batch have a field 'sound.wave' and others have not"):
        data.collate([{"sound": {"wave": 1}}, {"sound": {}}])


class Spoken(Noises):
    """Samples of nested fields, ragged ones and text; their own `collate` keeps the ragged ones as a list."""

    def __getitem__(self, index: int) -> Sample:
        return {"x": super().__getitem__(index)["x"], "said": {"words": np.arange(1 + index % 3), "by": str(index)}}

    def collate(self, samples: list[Sample]) -> Batch:
        words = [torch.from_numpy(sample["said"]["words"]) for sample in samples]
        plain = [{**sample, "said": {"by": sample["said"]["by"]}} for sample in samples]
        batch = data.collate(plain)
        return {**batch, "said": {**batch["said"], "words": words}}

    def context(self) -> Batch:
        return {"voices": {"pitch": torch.arange(3.0)}}


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_nested_batches_pass_the_loader(workers: int) -> None:
    for batch in take(Spoken(), 3, stage(), workers=workers):
        assert batch["said"]["by"] == [str(index) for index in batch["index"].tolist()]
        assert [len(words) for words in batch["said"]["words"]] == [1 + index % 3 for index in batch["index"].tolist()]
        assert batch["voices"]["pitch"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_collate_refuses_comes_out_of_the_loader_as_one_line(workers: int) -> None:
    class Ragged(Noises):
        def __getitem__(self, index: int) -> Sample:
            return {"x": np.zeros(1 + index % 3)}

    with pytest.raises(UsageError, match=r"^field 'x' has another shape in each sample"):
        take(Ragged(), 1, stage(), workers=workers)


def test_the_views_of_a_sample_may_be_nested() -> None:
    class Nested(Noises):
        def __getitem__(self, index: int) -> Sample:
            return {"said": {"x": super().__getitem__(index)["x"], "by": str(index)}}

    class Both:
        def __call__(self, sample: Sample, draw: Draw) -> Views:
            return Views({"first": sample, "second": {"number": 1}})

    batch, _ = Reader(Nested(), Both(), 3).read([(0, 1), (0, 2)])
    assert batch["first:said"]["by"] == ["1", "2"]
    assert batch["first:said"]["x"].shape == (2, 6)
    assert batch["second:number"].tolist() == [1, 1]


def test_a_loss_that_is_not_finite_leaves_the_tensors_of_a_nested_batch(tmp_path: Path) -> None:
    class Poisoned(Spoken):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return {**sample, "x": sample["x"] * np.float32("nan")}

    with pytest.raises(RunError, match="loss is nan at update 0"):
        loop.train(loop.Training(recipe(stages=[stage()]), Still(Linear()), Poisoned(), CPU, tmp_path, []))
    saved = load_file(tmp_path / "nonfinite-stage0-update0.safetensors")
    assert {"x", "index", "key", *(f"said.words.{place}" for place in range(8))} == saved.keys()
    assert saved["said.words.0"].tolist() == list(range(1 + int(saved["index"][0]) % 3))
