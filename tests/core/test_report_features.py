"""What a run keeps for its report besides: features for the map, and the raw inputs' evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import Blobs, Points
from torch import Tensor

from unlabel import Ref, embed, judge, report
from unlabel.catalog.plugins import Catalog
from unlabel.data import Dataset, Subset
from unlabel.engine import Engine
from unlabel.evaluate.features import Frozen
from unlabel.evaluate.knn import knn
from unlabel.report import reading, summary
from unlabel.show.media import Clip, Media, Picture, Text
from unlabel.task import Batch, Sample

CPU = Engine("cpu", "fp32")


def test_features_of_held_out_samples_are_kept_with_their_names_and_classes(tmp_path: Path) -> None:
    path, dataset, encoder = tmp_path / "embeddings.npz", Blobs(bad=[170]), Points()
    embed.keep(Frozen(encoder, dataset, CPU, shown=400), path)

    with np.load(path, allow_pickle=False) as table:
        assert set(table["split"]) == {"test"}
        assert table["classes"].tolist() == list("abcd")
        assert len(table["names"]) == 79, "the unreadable one is left out"
        features, labels = Frozen(encoder, dataset, CPU).features("test")
        assert np.array_equal(table["features"], features.numpy())
        assert np.array_equal(table["labels"], labels.numpy())
        assert table["names"].tolist() == [f"point {index}" for index in range(160, 240) if index != 170]
    assert [path.name for path in tmp_path.iterdir()] == ["embeddings.npz"]


def test_without_held_out_samples_and_labels_there_is_a_map_all_the_same(tmp_path: Path) -> None:
    dataset = Blobs(count=1000, held_out=0)
    dataset.labels = np.full(1000, -1)
    embed.keep(Frozen(Points(), dataset, CPU, shown=400), tmp_path / "embeddings.npz")
    (tmp_path / "recipe.json").write_text("{}")
    found = reading.read(tmp_path).embeddings
    assert found is not None
    assert found.features.shape[0] == 400
    assert found.labels is None
    assert found.split == "train"


class Showing(Blobs):
    """Shows a sample as it is told."""

    def show(self, sample: Sample) -> Media | np.ndarray | None:
        return self.shown(sample)


def kept(folder: Path, shown: Callable[[Sample], object]) -> reading.Embeddings:
    dataset = Showing()
    dataset.shown = shown  # type: ignore[attr-defined]
    embed.keep(Frozen(Points(), dataset, CPU, shown=400), folder / "embeddings.npz")
    (folder / "recipe.json").write_text("{}")
    embeddings = reading.read(folder).embeddings
    assert embeddings is not None
    return embeddings


@pytest.mark.parametrize("kind", ["array", "picture", "clip"])
def test_the_maps_thumbnails_are_what_the_dataset_shows(tmp_path: Path, kind: str) -> None:
    def shown(sample: Sample) -> Media | np.ndarray:
        picture = np.full((40, 50, 3), 100 + int(np.sign(sample["x"][0])), np.uint8)
        clip = Clip(np.stack([0 * picture, picture, 0 * picture]), 5.0)
        return {"array": picture, "picture": Picture(picture), "clip": clip}[kind]

    embeddings = kept(tmp_path, shown)
    assert embeddings.thumbnails is not None
    assert embeddings.thumbnails.shape == (80, 32, 32, 3)
    first = [int(np.sign(Blobs()[index]["x"][0])) for index in range(160, 240)]
    assert (embeddings.thumbnails[:, 0, 0, 0].astype(int) - 100).tolist() == first
    assert embeddings.names[0] == "point 160"


def test_a_texts_first_words_are_its_name_in_the_map(tmp_path: Path) -> None:
    embeddings = kept(tmp_path, lambda sample: Text("once upon\na time " + 30 * "and again "))
    assert embeddings.thumbnails is None
    assert embeddings.names[0] == "once upon a time" + 3 * " and again" + " and again... · point 160"


def test_arrays_that_a_dataset_does_not_show_are_no_thumbnails(tmp_path: Path) -> None:
    """Shape alone says nothing: an elevation map in three bands is no picture."""

    class Bands(Blobs):
        def __getitem__(self, index: int) -> Sample:
            return {**super().__getitem__(index), "bands": np.zeros((8, 8, 3), np.uint8)}

    embed.keep(Frozen(Points(), Bands(), CPU, shown=400), tmp_path / "embeddings.npz")
    with np.load(tmp_path / "embeddings.npz") as table:
        assert "thumbnails" not in table.files
        assert "words" not in table.files


def test_a_part_of_a_dataset_shows_what_all_of_it_does() -> None:
    dataset = Showing()
    dataset.shown = lambda sample: Text(str(sample["x"][0]))  # type: ignore[attr-defined]
    part = Subset(dataset, [7])
    assert part.show(part[0]) == Text(str(dataset[7]["x"][0]))


def test_raw_inputs_are_evaluated_like_features() -> None:
    catalog, dataset = Catalog.installed(), Blobs()
    frozen = Frozen(Points(), dataset, CPU, keep_raw=True)
    found = judge.judge(frozen, Points(), [Ref("knn", k=3), Ref("linear_probe"), Ref("clustering")], catalog).raw
    assert found["knn"] == knn(frozen, k=3, inputs="raw")
    assert found["knn"]["accuracy"] > 0.9
    assert found.keys() == {"knn", "linear_probe"}, "clustering reads features alone"


def test_a_probe_of_wide_inputs_is_left_out_and_what_is_no_stack_of_numbers_too() -> None:
    class Wide(Blobs):
        def __getitem__(self, index: int) -> Sample:
            return {**super().__getitem__(index), "wide": np.zeros(600, np.float32)}

    class Listening(Points):
        def encode(self, batch: Batch) -> Tensor:
            return torch.tensor([[float(len(word))] for word in batch["words"]])

    class Words(Blobs):
        def split(self, name: str) -> Dataset | None:
            part = super().split(name)
            assert part is not None
            part.collate = lambda samples: {"words": [str(sample["x"]) for sample in samples]}  # type: ignore[method-assign]
            return part

    catalog, refs = Catalog.installed(), [Ref("knn"), Ref("linear_probe")]
    assert judge.judge(Frozen(Points(), Wide(), CPU, keep_raw=True), Points(), refs, catalog).raw.keys() == {"knn"}
    assert judge.judge(Frozen(Listening(), Words(), CPU, keep_raw=True), Listening(), refs, catalog).raw == {}


def test_what_an_evaluation_lacks_stands_in_the_report_as_text(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")
    lacking = {"knn": "no <b>labels</b>", "linear_probe": "no <b>labels</b>"}
    (tmp_path / "evaluations.json").write_text(json.dumps({"lacking": lacking}))
    assert summary.lacking(reading.read(tmp_path)) == ["knn, linear_probe: not made: no <b>labels</b>"]
    page = report.write([tmp_path], None, Catalog.installed()).read_text(encoding="utf-8")
    assert "knn, linear_probe: not made: no &lt;b&gt;labels&lt;/b&gt;" in page
