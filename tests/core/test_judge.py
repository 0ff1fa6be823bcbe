"""Judging: what is measured, on how many samples, read how often, and what is said of what cannot be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from blobs import Blobs, frozen
from echo import Echo, Linear, Noises
from safetensors.torch import save_file
from torch import Tensor

from unlabel import Catalog, Judging, Recipe, Ref, Run, Stage, judge, launch
from unlabel.catalog.plugins import Offer, Plugin
from unlabel.data import Dataset, Subset
from unlabel.evaluate.features import Frozen
from unlabel.recipe import Execution
from unlabel.session import Session
from unlabel.task import Batch, Rows, Sample

HERE = "test_judge"
READ: Counter[int] = vars(Noises).get("read", Counter())  # the catalog imports this file once more
Noises.read = READ


class Counted(Noises):
    """Noises that count how often each is read; no classes."""

    def __getitem__(self, index: int) -> Sample:
        Noises.read[index] += 1
        return super().__getitem__(index)

    def split(self, name: str) -> Dataset | None:
        border = len(self) * 4 // 5
        return Subset(self, range(border) if name == "train" else range(border, len(self)))


class Classed(Counted):
    """The same with classes."""

    def __init__(self, *, count: int = 50) -> None:
        super().__init__(count=count)
        self.labels = torch.arange(count).numpy() % 3
        self.classes = ("a", "b", "c")


class Judged(Echo):
    """Judged by what needs classes and by what needs none."""

    evaluations = ("knn", "linear_probe", "test/spread")


def spread(frozen: Frozen) -> dict[str, float]:
    """Standard deviation of the features; needs no classes."""
    features, _ = frozen.features("test")
    return {"spread": features.std().item(), "samples": float(len(features))}


def catalog() -> Catalog:
    offers = [
        Offer("tasks", "test/judged", f"{HERE}:Judged", "test"),
        Offer("encoders", "test/linear", "echo:Linear", "test"),
        Offer("datasets", "test/counted", f"{HERE}:Counted", "test"),
        Offer("datasets", "test/classed", f"{HERE}:Classed", "test"),
        Offer("evaluations", "test/spread", f"{HERE}:spread", "test"),
    ]
    own = [offer for offer in Catalog.installed().offers("evaluations") if "/" not in offer.name]
    return Catalog([Plugin("test", "unlabel-test", "0", [*offers, *own])])


def recipe(dataset: str, **fields: object) -> Recipe:
    return Recipe(
        task=Ref("test/judged"),
        encoder=Ref("test/linear"),
        dataset=Ref(dataset),
        stages=[Stage(steps=2, batch_size=8, lr=0.1)],
        execution=Execution(workers=0, precision="fp32"),
        **fields,
    )


def train(folder: Path, dataset: str, **judging: object) -> Run:
    chosen = recipe(dataset, judging=Judging(monitor=0, **judging))
    return launch.train(chosen, out=folder, catalog=catalog(), quiet=True)


@pytest.fixture(autouse=True)
def _unread() -> None:
    READ.clear()


def test_a_run_on_data_without_classes_is_judged_by_what_needs_none(tmp_path: Path) -> None:
    results = train(tmp_path / "run", "test/counted").evaluations
    assert results["after"].keys() == results["before"].keys() == {"test/spread"}
    assert results["lacking"].keys() == {"knn", "linear_probe"}
    assert all("has no labels" in reason for reason in results["lacking"].values())


def test_what_lacks_the_same_is_said_in_one_line(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "test/counted")
    lines: list[str] = []
    assert run.evaluate(say=lines.append).keys() == {"test/spread"}
    [line] = lines
    assert line.startswith("knn, linear_probe: not made: the ")
    with pytest.raises(ValueError, match="has no labels"):
        run.evaluate("knn")  # which was asked for


def test_before_after_raw_and_the_map_come_out_of_one_read(tmp_path: Path) -> None:
    trained = 2 * 8
    run = train(tmp_path / "run", "test/classed", train=30, test=7)
    assert run.evaluations.keys() >= {"before", "after", "raw"}
    assert run.evaluations["raw"]["knn"]
    assert (tmp_path / "run/embeddings.npz").is_file()
    judged = sum(READ.values()) - trained
    assert judged == 30 + 7
    assert max(READ[index] for index in range(40, 50)) == 1, "held-out samples are read once"


def test_the_budget_of_judging_is_the_recipes(tmp_path: Path) -> None:
    run = train(tmp_path / "run", "test/classed", test=3)
    assert run.evaluations["after"]["test/spread"]["samples"] == 3
    assert run.evaluate("test/spread", options=["judging.test=null"])["test/spread"]["samples"] == 10
    READ.clear()
    assert "raw" in train(tmp_path / "without", "test/classed", raw=False).evaluations
    assert json.loads((tmp_path / "without/evaluations.json").read_text())["raw"] == {}


def test_judging_computes_in_the_runs_precision_unless_asked(tmp_path: Path) -> None:
    chosen = recipe("test/classed")
    assert judge.engine_for(chosen, "cpu").precision == "fp32"
    asked = chosen.model_copy(update={"judging": Judging(precision="bf16")})
    assert judge.engine_for(asked, "cpu").precision == "bf16"
    own = chosen.model_copy(update={"execution": Execution(precision="bf16")})
    assert judge.engine_for(own, "cpu").precision == "bf16"


def test_judging_has_no_more_in_memory_than_training_had() -> None:
    def size(**fields: object) -> int:
        one = recipe("test/classed", **fields)
        return judge.frozen(one, Judged(Linear()), Classed(), judge.engine_for(one, "cpu"))._batch_size

    assert size() == 8
    assert size(judging=Judging(batch_size=3)) == 3


class Several(Echo):
    """Two outputs; of the second, a sample has one row for each of its index's last bits, with a class of its own."""

    outputs = ("wave", "parts")

    def encode(self, batch: Batch, of: str = "wave") -> Tensor | Rows:
        features = self.encoder(batch["x"])
        if of == "wave":
            return features
        sample = torch.arange(len(features)).repeat_interleave(1 + batch["index"] % 2)
        return Rows(features[sample], sample, sample % 3)


def test_rows_know_their_sample_and_may_have_a_class_of_their_own() -> None:
    judged = frozen(Counted(), Several(Linear()), batch_size=7, limit={"train": 20})
    waves, parts = judged.rows("train"), judged.rows("train", "parts")
    assert max(READ.values()) == 1, "every output comes out of one read"
    used = judged.indices("train").tolist()
    assert waves.sample.tolist() == used
    assert parts.sample.tolist() == [index for index in used for _ in range(1 + index % 2)]
    assert torch.equal(parts.features, waves.features[torch.searchsorted(waves.sample, parts.sample)])
    assert judged.features("train", "parts")[1].max() == 2
    with pytest.raises(ValueError, match="has no output 'wav': it has wave, parts; did you mean wave"):
        judged.rows("train", "wav")


def test_an_untrained_twin_shares_the_read_and_another_kind_of_task_does_not() -> None:
    judged = frozen(Classed(), Judged(Linear()))
    twin = judged.of(Judged(Linear()))
    twin.features("train")
    judged.features("train")
    assert max(READ.values()) == 1
    judged.of(Several(Linear())).features("train")
    assert max(READ.values()) == 2


def test_features_of_a_blob_are_the_same_with_and_without_a_twin() -> None:
    alone = frozen(Blobs()).features("test")[0]
    judged = frozen(Blobs())
    judged.of(judged.task)
    assert torch.equal(judged.features("test")[0], alone)


def test_a_run_whose_first_weights_are_gone_is_judged_without_the_comparison(tmp_path: Path) -> None:
    source = tmp_path / "first.safetensors"
    save_file(dict(Linear().state_dict()), source)
    chosen = recipe("test/classed", judging=Judging(monitor=0), init=str(source))
    session = Session(chosen, tmp_path / "run", catalog(), quiet=True)
    session.evaluate = False
    session.run()
    source.unlink()
    (tmp_path / "run/evaluations.json").unlink()
    Session(Run(tmp_path / "run", catalog()).recipe, tmp_path / "run", catalog(), quiet=True).run(resuming=True)
    results = Run(tmp_path / "run", catalog()).evaluations
    assert results["before"] == {}
    assert "first.safetensors" in results["lacking"]["random init"]
    assert results["after"].keys() == {"knn", "linear_probe", "test/spread"}


def test_rows_with_classes_of_their_own_are_probed_whatever_was_asked_before() -> None:
    judged = frozen(Counted(), Several(Linear()), batch_size=7)
    judged.of(judged.task)
    with pytest.raises(ValueError, match="has no labels"):
        judged.labelled("train", "raw")
    with pytest.raises(ValueError, match="has no labels"):
        judged.labelled("train")  # of the first output, whose rows have none


def test_an_evaluation_is_asked_for_once() -> None:
    twice = recipe("test/classed", evaluations=[Ref("knn", k=1), Ref("knn", k=3)])
    with pytest.raises(ValueError, match="knn, knn: expected each once"):
        judge.requested(twice, Judged(Linear()), catalog())
