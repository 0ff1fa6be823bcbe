"""Images in Arrow and Parquet files, as `datasets` writes them and as others do. How columns are read is the core's."""

from __future__ import annotations

import json
import sys
from typing import Any

import corrupt
import numpy as np
import pytest
from PIL import Image

from unlabel.errors import BadSample, UsageError
from unlabel_vision.datasets.hf import HuggingFace

pa = pytest.importorskip("pyarrow")
save = pytest.importorskip("saved").save
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def cells(numbers: range) -> list[dict[str, Any]]:
    return [
        {"bytes": corrupt.encode(Image.fromarray(picture(number)), "PNG"), "path": f"{number}.png"}
        for number in numbers
    ]


IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def table(numbers: range, labels: list[int] | None = None, names: list[str] | None = None) -> Any:
    columns = {"caption": pa.array([f"no. {n}" for n in numbers]), "image": pa.array(cells(numbers), IMAGE)}
    features: dict[str, Any] = {"image": {"_type": "Image"}, "caption": {"dtype": "string", "_type": "Value"}}
    if labels is not None:
        columns["animal"] = pa.array(labels, pa.int64())
        features["animal"] = {"names": names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(columns).replace_schema_metadata(metadata if names else None)


def shown(dataset: Any) -> list[int]:
    """Which of the first hundred pictures the samples are."""
    known = {picture(number).tobytes(): number for number in range(100)}
    return [known[dataset[index]["image"].tobytes()] for index in range(len(dataset))]


def test_saved_dataset_dict_with_class_names(tmp_path):
    names = ["cat", "dog", "elk"]
    save(tmp_path / "saved/train", table(range(7), [0, 1, 2, 2, 1, 0, 0], names))
    save(tmp_path / "saved/test", table(range(7, 10), [1, 2, 0], names))
    (tmp_path / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    dataset = HuggingFace(tmp_path / "saved")
    assert shown(dataset) == list(range(10))
    assert dataset.classes == tuple(names)
    train, test = dataset.split("train"), dataset.split("test")
    assert shown(train) == list(range(7))
    assert shown(test) == [7, 8, 9]
    assert train.labels.tolist() == [0, 1, 2, 2, 1, 0, 0]
    assert [test[index]["label"] for index in range(3)] == [1, 2, 0]
    only = HuggingFace(tmp_path / "saved", split="test")
    assert shown(only) == [7, 8, 9]
    assert HuggingFace.claims(tmp_path / "saved")


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
def test_nested_lists(tmp_path, axes):
    pixels = [picture(number).transpose(axes).tolist() for number in range(3)]
    parquet.write_table(
        pa.table({"x": pa.array(pixels, pa.list_(pa.list_(pa.list_(pa.uint8()))))}), tmp_path / "a.parquet"
    )
    assert shown(HuggingFace(tmp_path / "a.parquet")) == [0, 1, 2]
    grey = [picture(number)[..., 0].tolist() for number in range(3)]
    parquet.write_table(pa.table({"x": grey}), tmp_path / "b.parquet")  # int64
    np.testing.assert_array_equal(HuggingFace(tmp_path / "b.parquet")[2]["image"][..., 1], picture(2)[..., 0])


def test_rows_that_cannot_be_used_are_bad_samples(tmp_path):
    (tmp_path / "beside.png").write_bytes(cells(range(5, 6))[0]["bytes"])
    rows = [
        {"bytes": b"words", "path": None},
        {"bytes": None, "path": "beside.png"},
        {"bytes": None, "path": "https://example.org/1.png"},
        {"bytes": None, "path": None},
        None,
    ]
    parquet.write_table(pa.table({"image": pa.array(rows, IMAGE)}), tmp_path / "a.parquet")
    dataset = HuggingFace(tmp_path / "a.parquet")
    np.testing.assert_array_equal(dataset[1]["image"], picture(5))
    for index, words in ((0, "text"), (2, "only local files"), (3, "no image"), (4, "no image")):
        with pytest.raises(BadSample, match=words):
            dataset[index]

    lists = [[[1, 2], [3]], [[1, 2], [3, 400]], [[1] * 9] * 9]
    parquet.write_table(pa.table({"image": lists}), tmp_path / "b.parquet")
    dataset = HuggingFace(tmp_path / "b.parquet")
    for index, words in ((0, "different lengths"), (1, "outside 0 to 255")):
        with pytest.raises(BadSample, match=words):
            dataset[index]
    assert dataset[2]["image"].shape == (9, 9, 3)


def test_wrong_names_are_answered_with_the_right_ones(tmp_path):
    parquet.write_table(table(range(2), [0, 1], ["cat", "dog"]), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=r"no column 'imag'; did you mean image "):
        HuggingFace(tmp_path, image="imag")
    with pytest.raises(UsageError, match=r"no column 'animals'; did you mean animal"):
        HuggingFace(tmp_path, label="animals")
    with pytest.raises(UsageError, match=r"no split 'test'.*It has: train\.parquet"):
        HuggingFace(tmp_path, split="test")
    with pytest.raises(UsageError, match=r"no column of images.*found caption \(string\)"):
        HuggingFace(tmp_path, image="caption")
    with pytest.raises(UsageError, match="does not exist"):
        HuggingFace(tmp_path / "absent")


def test_files_without_images_are_not_claimed(tmp_path):
    parquet.write_table(
        pa.table({"text": ["a", "b"], "n": [1, 2], "v": [[1.0, 2.0], [3.0, 4.0]]}), tmp_path / "a.parquet"
    )
    assert not HuggingFace.claims(tmp_path / "a.parquet")
    parquet.write_table(table(range(2)), tmp_path / "b.parquet")
    assert HuggingFace.claims(tmp_path / "b.parquet")
    (tmp_path / "folder").mkdir()
    assert not HuggingFace.claims(tmp_path / "folder")
    assert not HuggingFace.claims(tmp_path / "absent.parquet")


def test_missing_pyarrow_is_named_with_its_extra(tmp_path, monkeypatch):
    save(tmp_path / "saved", table(range(4)))
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what an import of something not installed meets
    with pytest.raises(UsageError, match=r"pip install 'unlabel-vision\[hf\]'"):
        HuggingFace(tmp_path / "saved")
    assert HuggingFace.claims(tmp_path / "saved")  # so that the constructor's message is seen
    (tmp_path / "other").mkdir()
    assert not HuggingFace.claims(tmp_path / "other")


@pytest.mark.slow
def test_what_the_datasets_library_writes_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "img": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "raw": datasets.Array3D((12, 10, 3), "uint8"),
        }
    )
    rows = {
        "img": [Image.fromarray(picture(number)) for number in range(6)],
        "label": [0, 1] * 3,
        "raw": [picture(number) for number in range(6)],
    }
    whole = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": whole.select(range(4)), "test": whole.select(range(4, 6))}).save_to_disk(
        tmp_path / "saved"
    )
    whole.to_parquet(tmp_path / "whole.parquet")
    for path in (tmp_path / "saved", tmp_path / "whole.parquet"):
        for column in ("img", "raw"):
            dataset = HuggingFace(path, image=column)
            order = shown(dataset.split("train")) + shown(dataset.split("test"))
            assert sorted(order) == list(range(6))
            assert dataset.classes == ("cat", "dog")
    assert shown(HuggingFace(tmp_path / "saved").split("test")) == [4, 5]
