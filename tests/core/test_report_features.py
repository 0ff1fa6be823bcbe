"""What a run keeps for its report besides: features for the map, and the raw inputs' evaluations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from blobs import Blobs, Points
from torch import Tensor

from unlabel import Ref, embed, judge
from unlabel.catalog.plugins import Catalog
from unlabel.data import Dataset
from unlabel.engine import Engine
from unlabel.evaluate.features import Frozen
from unlabel.evaluate.knn import knn
from unlabel.report import reading
from unlabel.show.thumbnails import thumbnail
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


@pytest.mark.parametrize("shape", [(20, 31, 3), (64, 64, 3), (500, 200, 3)])
def test_a_thumbnail_is_the_middle_of_a_samples_picture(shape: tuple[int, int, int]) -> None:
    value = np.zeros(shape, np.uint8)
    side = min(shape[:2])
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    value[top : top + side, left : left + side] = 200
    value[top : top + side // 2, left : left + side // 2] = 100
    found = thumbnail({"other": np.zeros(3), "view": value})
    assert found is not None
    assert found.shape == (32, 32, 3)
    assert found[1, 1].tolist() == [100] * 3
    assert found[30, 30].tolist() == [200] * 3
    assert thumbnail({"x": np.zeros((4, 4, 3), np.float32), "n": 3}) is None


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
