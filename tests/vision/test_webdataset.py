"""Images in tar shards: found once, read at random, labels and parts recognised, damage named."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import corrupt
import numpy as np
import pytest
from PIL import Image

from unlabel.errors import BadSample, UsageError
from unlabel_vision.datasets.webdataset import WebDataset, expand


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    return corrupt.encode(Image.fromarray(picture(number)), "PNG")


def shard(path: Path, members: dict[str, bytes], format: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def labelled(numbers: range, classes: int = 3) -> dict[str, bytes]:
    members = {}
    for number in numbers:
        members[f"{number:06d}.png"] = png(number)
        members[f"{number:06d}.cls"] = str(number % classes).encode()
    return members


def test_samples_of_all_shards_in_order(tmp_path):
    for number in range(3):
        shard(tmp_path / f"s-{number:03d}.tar", labelled(range(number * 4, number * 4 + 4)))
    for source in (tmp_path, f"{tmp_path}/s-{{000..002}}.tar", f"{tmp_path}/s-{{000,001,002}}.tar"):
        dataset = WebDataset(source)
        assert len(dataset) == 12
        for index in (11, 0, 5, 7, 3):
            np.testing.assert_array_equal(dataset[index]["image"], picture(index))
            assert dataset[index]["label"] == index % 3
        assert dataset.name_of(5) == f"{tmp_path}/s-001.tar/000005.png"
        assert dataset.info()["ignored"] == {".cls": 12}


def test_members_are_grouped_by_the_path_up_to_the_first_dot(tmp_path):
    members = {
        "b/1.left.png": png(0),
        "b/1.right.png": png(1),  # the same sample: its first image counts
        "b/1.json": b'{"label": "cat"}',
        "a/1.json": b'{"label": "dog", "width": 3}',  # the same name in another folder is another sample
        "a/1.txt": b"a caption",
        "a/1.JPG": png(2),
        "._a/1.png": b"macOS leaves such things",
        "note.txt": b"no sample",
    }
    dataset = WebDataset(shard(tmp_path / "a.tar", members))
    assert len(dataset) == 2
    np.testing.assert_array_equal(dataset[0]["image"], picture(0))
    np.testing.assert_array_equal(dataset[1]["image"], picture(2))
    assert [dataset.classes[label] for label in dataset.labels] == ["cat", "dog"]


def test_numeric_labels_are_ordered_as_numbers(tmp_path):
    members = {}
    for number in range(12):
        members |= {f"{number}.png": png(number), f"{number}.cls": f"{number}\n".encode()}
    dataset = WebDataset(shard(tmp_path / "a.tar", members))
    assert dataset.labels.tolist() == list(range(12))
    assert dataset.classes[10] == "10"


def test_one_missing_label_leaves_the_set_unlabelled_and_says_so(tmp_path):
    members = labelled(range(6))
    del members["000003.cls"]
    dataset = WebDataset(shard(tmp_path / "a.tar", members))
    assert dataset.labels is None
    assert set(dataset[0]) == {"image"}
    assert dataset.split("test") is None
    assert dataset.info()["notes"] == ["only 5 of 6 samples have a label, so none is used"]


def test_parts_come_from_the_names_of_shards(tmp_path):
    shard(tmp_path / "x-train-0.tar", labelled(range(6)))
    shard(tmp_path / "x-train-1.tar", labelled(range(6, 9)))
    shard(tmp_path / "x-val-0.tar", labelled(range(9, 12)))
    dataset = WebDataset(tmp_path)
    train, test = dataset.split("train"), dataset.split("test")
    assert [train[index]["image"].tolist() == picture(index).tolist() for index in range(len(train))] == [True] * 9
    assert test.labels.tolist() == [0, 1, 2]
    held_out = WebDataset(tmp_path / "x-train-0.tar", holdout=0.5).split("test")  # undivided: a holdout
    assert np.bincount(held_out.labels).tolist() == [1, 1, 1]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(tmp_path, format):
    name = "/".join(["directory" * 3] * 9) + "/picture.png"
    dataset = WebDataset(shard(tmp_path / "a.tar", {"1.png": png(0), name: png(1), "2.png": png(2)}, format))
    assert dataset.name_of(1).endswith(name)
    np.testing.assert_array_equal(dataset[1]["image"], picture(1))
    np.testing.assert_array_equal(dataset[2]["image"], picture(2))


def test_shards_are_listed_once(tmp_path, cache):
    path = shard(tmp_path / "data" / "a.tar", labelled(range(5)))
    WebDataset(path)
    assert len(list(cache.rglob("*.json"))) == 1
    times, content = path.stat(), path.read_bytes()
    path.write_bytes(b"\xff" * 512 + content[512:])  # a broken header would be noticed if it were read again
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    np.testing.assert_array_equal(WebDataset(path)[3]["image"], picture(3))

    shard(path, labelled(range(7)))
    assert len(WebDataset(path)) == 7  # changed: listed anew


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path, cache, monkeypatch):
    path = shard(tmp_path / "data" / "a.tar", labelled(range(5)))
    WebDataset(path)
    for listed in cache.rglob("*.json"):
        listed.write_bytes(listed.read_bytes()[:20])
    assert len(WebDataset(path)) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert len(WebDataset(path)) == 5


def test_cut_shards_are_named(tmp_path):
    whole = shard(tmp_path / "a.tar", labelled(range(5))).read_bytes()
    for length in (100, 700, 1400):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cut\.tar is not an intact tar file"):
            WebDataset(tmp_path / "cut.tar")


def test_a_broken_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = shard(tmp_path / "a.tar", labelled(range(5)))
    content = bytearray(path.read_bytes())
    place = content.index(b"000002.png")
    content[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"a\.tar is damaged at byte {place}"):
        WebDataset(path)


def test_what_cannot_be_read_at_random_is_refused(tmp_path):
    path = shard(tmp_path / "a.tar", labelled(range(5)))
    (tmp_path / "b.tar").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UsageError, match=r"b\.tar is compressed.*gunzip"):
        WebDataset(tmp_path / "b.tar")
    for place in ("https://example.org/a.tar", "s3://bucket/{000..010}.tar", "pipe:cat a.tar"):
        with pytest.raises(UsageError, match="local files only"):
            WebDataset(place)


def test_missing_shards_are_counted_and_named(tmp_path):
    shard(tmp_path / "s-000.tar", labelled(range(2)))
    with pytest.raises(UsageError, match=r"2 of the 3 shards.*first: .*s-001\.tar"):
        expand(f"{tmp_path}/s-{{000..002}}.tar")
    with pytest.raises(UsageError, match=r"there is no 's-00\.tar'.*s-000\.tar\?"):
        WebDataset(tmp_path / "s-00.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no \.tar files"):
        WebDataset(tmp_path / "empty")


def test_shards_without_images_say_what_they_hold(tmp_path):
    path = shard(tmp_path / "a.tar", {"1.flac": b"sound", "2.flac": b"sound", "1.json": b"{}"})
    with pytest.raises(UsageError, match=r"no images in the 1 tar files .* they hold \.flac, \.json"):
        WebDataset(path)
    assert not WebDataset.claims(path)


def test_bad_members_are_bad_samples(tmp_path):
    dataset = WebDataset(shard(tmp_path / "a.tar", {"1.jpg": b"words", "2.jpg": b"", "3.png": png(3)}))
    with pytest.raises(BadSample, match="text"):
        dataset[0]
    with pytest.raises(BadSample, match="empty"):
        dataset[1]
    np.testing.assert_array_equal(dataset[2]["image"], picture(3))


def test_copies_are_small_and_independent(tmp_path):
    dataset = WebDataset(shard(tmp_path / "a.tar", labelled(range(300))))
    dataset[0]
    dumped = pickle.dumps(dataset)
    assert len(dumped) < 300 * 50 + 2000  # name, shard, offset, length, label of each image
    np.testing.assert_array_equal(pickle.loads(dumped)[299]["image"], picture(299))


def test_claims_shards_and_patterns_only(tmp_path):
    shard(tmp_path / "s-0.tar", labelled(range(2)))
    assert WebDataset.claims(tmp_path)
    assert WebDataset.claims(tmp_path / "s-0.tar")
    assert WebDataset.claims(tmp_path / "s-{0..0}.tar")
    assert not WebDataset.claims(tmp_path / "s-{0..1}.tar")
    (tmp_path / "text.tar").write_text("no tar at all")
    assert not WebDataset.claims(tmp_path / "text.tar")
    assert not WebDataset.claims(tmp_path / "absent")


def test_facts_can_be_written_as_json(tmp_path):
    facts = json.loads(json.dumps(WebDataset(shard(tmp_path / "a.tar", labelled(range(6)))).info()))
    assert facts["kind"] == "webdataset"
    assert facts["classes"] == {"0": 2, "1": 2, "2": 2}
    assert facts["sizes"]["width"] == [10, 10, 10]
