"""Arrow and Parquet files of samples, as `datasets` writes them and as others do; nothing is downloaded."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from pings import PINGS, Pings, ping, shown

from unlabel.data.sources import columns
from unlabel.data.sources.kind import ColumnForm
from unlabel.errors import BadSample, UsageError

pa = pytest.importorskip("pyarrow")
save = pytest.importorskip("saved").save
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(path: Path, holdout: float = 0.2, **columns_of: str) -> Pings:
    return Pings(path, columns.find(path, PINGS, **columns_of), holdout)


def claims(path: Path) -> bool:
    return columns.claims(path, PINGS)


def cells(numbers: range) -> list[dict[str, Any]]:
    return [{"bytes": ping(number), "path": f"{number}.ping"} for number in numbers]


PING = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def table(numbers: range, labels: list[int] | None = None, names: list[str] | None = None) -> Any:
    columns = {"caption": pa.array([f"no. {n}" for n in numbers]), "ping": pa.array(cells(numbers), PING)}
    features: dict[str, Any] = {"ping": {"_type": "Value"}, "caption": {"dtype": "string", "_type": "Value"}}
    if labels is not None:
        columns["animal"] = pa.array(labels, pa.int64())
        features["animal"] = {"names": names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.table(columns).replace_schema_metadata(metadata if names else None)


def test_saved_dataset_dict_with_class_names(tmp_path):
    names = ["cat", "dog", "elk"]
    save(tmp_path / "saved/train", table(range(7), [0, 1, 2, 2, 1, 0, 0], names))
    save(tmp_path / "saved/test", table(range(7, 10), [1, 2, 0], names))
    (tmp_path / "saved/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    dataset = opened(tmp_path / "saved")
    assert shown(dataset) == list(range(10))
    assert dataset.classes == tuple(names)
    train, test = dataset.split("train"), dataset.split("test")
    assert shown(train) == list(range(7))
    assert shown(test) == [7, 8, 9]
    assert train.labels.tolist() == [0, 1, 2, 2, 1, 0, 0]
    assert [test[index]["label"] for index in range(3)] == [1, 2, 0]
    only = opened(tmp_path / "saved", split="test")
    assert shown(only) == [7, 8, 9]
    assert claims(tmp_path / "saved")


def test_saved_dataset_without_labels(tmp_path):
    save(tmp_path / "saved", table(range(5)))
    dataset = opened(tmp_path / "saved")
    assert dataset.labels is None
    assert dataset.split("test") is None
    assert shown(dataset.split("train")) == list(range(5))


@pytest.mark.parametrize("group", [1, 3, 1000])
def test_parquet_with_any_row_groups(tmp_path, group):
    (tmp_path / "data").mkdir()
    first, second = table(range(8), [0, 1] * 4, ["cat", "dog"]), table(range(8, 12), [0, 1] * 2, ["cat", "dog"])
    parquet.write_table(first, tmp_path / "data/train-00000-of-00002.parquet", row_group_size=group)
    parquet.write_table(second, tmp_path / "data/validation-00000-of-00001.parquet", row_group_size=group)
    dataset = opened(tmp_path / "data")
    assert shown(dataset.split("train")) == list(range(8))
    assert shown(dataset.split("test")) == [8, 9, 10, 11]
    assert dataset.classes == ("cat", "dog")
    assert dataset.name_of(9).endswith("validation-00000-of-00001.parquet:ping[1]")


def test_parquet_is_copied_once_and_copied_anew_when_changed(tmp_path, cache):
    path = tmp_path / "a.parquet"
    parquet.write_table(table(range(4)), path)
    opened(path).prepare()
    copies = list(cache.rglob("*.arrow"))
    assert len(copies) == 1
    before = copies[0].stat().st_mtime_ns
    dataset = opened(path)
    assert shown(dataset) == [0, 1, 2, 3]
    assert copies[0].stat().st_mtime_ns == before
    parquet.write_table(table(range(4, 9)), path)
    assert shown(opened(path)) == [4, 5, 6, 7, 8]


def test_word_labels_and_a_binary_column(tmp_path):
    content = pa.table({"sound": [cell["bytes"] for cell in cells(range(4))], "class": ["b", "a", "b", "a"]})
    parquet.write_table(content, tmp_path / "a.parquet")
    dataset = opened(tmp_path / "a.parquet", holdout=0.5)
    assert dataset.classes == ("a", "b")
    assert dataset.labels.tolist() == [1, 0, 1, 0]
    assert len(dataset.split("test")) == 2
    assert shown(dataset) == [0, 1, 2, 3]


@pytest.mark.parametrize("values", [pa.float32(), pa.int16()])
def test_lists_keep_their_type(tmp_path, values):
    lists = [[1, 2, 3], [4, 5, 6], [7]]
    parquet.write_table(pa.table({"x": pa.array(lists, pa.list_(values))}), tmp_path / "a.parquet")
    dataset = opened(tmp_path / "a.parquet")
    for index, expected in enumerate(lists):
        sample = dataset[index]["ping"]
        assert sample.dtype == values.to_pandas_dtype()
        assert sample.tolist() == expected


def test_rows_that_cannot_be_used_are_bad_samples(tmp_path):
    (tmp_path / "beside.ping").write_bytes(ping(5))
    rows = [
        {"bytes": b"words", "path": None},
        {"bytes": None, "path": "beside.ping"},
        {"bytes": None, "path": "https://example.org/1.ping"},
        {"bytes": None, "path": None},
        None,
    ]
    parquet.write_table(pa.table({"ping": pa.array(rows, PING)}), tmp_path / "a.parquet")
    dataset = opened(tmp_path / "a.parquet")
    assert dataset[1]["ping"] == 5
    for index, words in (
        (0, "no ping"),
        (2, "only local files"),
        (3, "no ping in this row"),
        (4, "no ping in this row"),
    ):
        with pytest.raises(BadSample, match=words):
            dataset[index]


def test_nested_lists_of_different_lengths_are_bad_samples(tmp_path):
    deep = dataclasses.replace(PINGS, columns=ColumnForm(lambda kind: columns.nesting(kind)[0] == 2, "lists"))
    lists = [[[1, 2], [3]], [None, None], [[1, 2], None], [[1, 2], [3, 4]], None]
    parquet.write_table(pa.table({"ping": pa.array(lists, pa.list_(pa.list_(pa.int64())))}), tmp_path / "b.parquet")
    dataset = Pings(tmp_path, columns.find(tmp_path / "b.parquet", deep))
    for index in (0, 1, 2):
        with pytest.raises(BadSample, match="different lengths"):
            dataset[index]
    assert dataset[3]["ping"].tolist() == [[1, 2], [3, 4]]
    with pytest.raises(BadSample, match="no ping in this row"):
        dataset[4]


def test_rows_that_name_files_elsewhere_do_not_get_them(tmp_path):
    """The data are a stranger's: the folder that the user gave is all they may name."""
    (tmp_path / "secret.ping").write_bytes(ping(1))
    inside = tmp_path / "data/files/2.ping"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(ping(2))
    (tmp_path / "data/rows").mkdir()
    given = ["../../secret.ping", str(tmp_path / "secret.ping"), "../files/2.ping", str(inside), 7]
    rows = [{"bytes": None, "path": str(name)} for name in given]
    parquet.write_table(pa.table({"ping": pa.array(rows, PING)}), tmp_path / "data/rows/a.parquet")
    dataset = opened(tmp_path / "data")
    for index in (0, 1):
        with pytest.raises(BadSample, match=r"secret\.ping, which is outside of .*data"):
            dataset[index]
    assert [dataset[index]["ping"] for index in (2, 3)] == [2, 2]
    with pytest.raises(BadSample, match="outside"):
        opened(tmp_path / "data/rows")[2]


@pytest.mark.parametrize("name", ["../other/data-00000-of-00002.arrow", "/etc/hostname", 3, None, {"a": 1}])
def test_saved_folders_that_name_files_elsewhere_are_refused(tmp_path, name):
    save(tmp_path / "other", table(range(4)))
    save(tmp_path / "saved", table(range(4)))
    (tmp_path / "saved/state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(UsageError, match="not inside of it"):
        opened(tmp_path / "saved")
    (tmp_path / "saved/dataset_dict.json").write_text(json.dumps({"splits": [name and "../other"]}))
    with pytest.raises(UsageError, match="not inside of it"):
        opened(tmp_path / "saved")
    assert not claims(tmp_path / "saved")


@pytest.mark.parametrize("content", ["{}", "[]", '{"_data_files": 3}', "{", '{"_data_files": []}'])
def test_saved_folders_that_are_not_understood_are_refused(tmp_path, content):
    save(tmp_path / "saved", table(range(4)))
    (tmp_path / "saved/state.json").write_text(content)
    with pytest.raises(UsageError, match=r"state\.json"):
        opened(tmp_path / "saved")


@pytest.mark.parametrize("written", ["{", "[]", '{"info": []}', '{"info": {"features": {"animal": 3}}}'])
def test_what_datasets_wrote_about_columns_may_be_anything(tmp_path, written):
    content = table(range(4), [0, 1, 0, 1]).replace_schema_metadata({"huggingface": written})
    parquet.write_table(content, tmp_path / "a.parquet")
    assert shown(opened(tmp_path / "a.parquet", label="animal")) == [0, 1, 2, 3]


def test_a_damaged_copy_is_made_again(tmp_path, cache):
    parquet.write_table(table(range(4)), tmp_path / "a.parquet")
    opened(tmp_path / "a.parquet").prepare()
    [copy] = cache.rglob("*.arrow")
    copy.write_bytes(copy.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged and is made again"):
        assert shown(opened(tmp_path / "a.parquet")) == [0, 1, 2, 3]
    assert shown(opened(tmp_path / "a.parquet")) == [0, 1, 2, 3]


def test_unlabelled_test_part_gives_way_to_a_holdout(tmp_path):
    names = ["cat", "dog"]
    parquet.write_table(table(range(10), [0, 1] * 5, names), tmp_path / "train.parquet")
    parquet.write_table(table(range(10, 14), [-1] * 4, names), tmp_path / "test.parquet")
    dataset = opened(tmp_path)
    assert len(dataset) == 10
    assert len(dataset.split("test")) == 2
    assert "test.parquet" in dataset.info()["notes"][0]


def test_wrong_names_are_answered_with_the_right_ones(tmp_path):
    parquet.write_table(table(range(2), [0, 1], ["cat", "dog"]), tmp_path / "train.parquet")
    with pytest.raises(UsageError, match=r"no column 'pin'; did you mean ping "):
        opened(tmp_path, column="pin")
    with pytest.raises(UsageError, match=r"no column 'animals'; did you mean animal"):
        opened(tmp_path, label="animals")
    with pytest.raises(UsageError, match=r"no split 'test'.*It has: train\.parquet"):
        opened(tmp_path, split="test")
    with pytest.raises(UsageError, match=r"no column of pings.*found caption \(string\)"):
        opened(tmp_path, column="caption")
    with pytest.raises(UsageError, match="does not exist"):
        opened(tmp_path / "absent")


def test_files_without_samples_are_not_claimed(tmp_path):
    parquet.write_table(
        pa.table({"text": ["a", "b"], "n": [1, 2], "v": [[[1.0], [2.0]], [[3.0]]]}), tmp_path / "a.parquet"
    )
    assert not claims(tmp_path / "a.parquet")
    parquet.write_table(table(range(2)), tmp_path / "b.parquet")
    assert claims(tmp_path / "b.parquet")
    (tmp_path / "folder").mkdir()
    assert not claims(tmp_path / "folder")
    assert not claims(tmp_path / "absent.parquet")


def test_cut_files_are_named(tmp_path):
    parquet.write_table(table(range(4)), tmp_path / "a.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"cut\.parquet is not an intact Parquet file"):
        opened(tmp_path / "cut.parquet")
    save(tmp_path / "saved", table(range(4)))
    whole = (tmp_path / "saved/data-00000-of-00002.arrow").read_bytes()
    (tmp_path / "saved/data-00000-of-00002.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match=r"data-00000-of-00002\.arrow is not an intact Arrow file"):
        opened(tmp_path / "saved")


def test_missing_pyarrow_is_named_with_its_extra(tmp_path, monkeypatch):
    save(tmp_path / "saved", table(range(4)))
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what an import of something not installed meets
    with pytest.raises(UsageError, match=r"pip install 'unlabel-sonar\[parquet\]'"):
        opened(tmp_path / "saved")
    assert claims(tmp_path / "saved")  # so that the constructor's message is seen
    (tmp_path / "other").mkdir()
    assert not claims(tmp_path / "other")


def test_copies_hold_no_open_files(tmp_path):
    save(tmp_path / "saved", table(range(6)))
    dataset = opened(tmp_path / "saved")
    dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.source.opened == []
    assert len(pickle.dumps(dataset)) < 2000
    assert shown(copy) == list(range(6))
