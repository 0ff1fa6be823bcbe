"""Samples in tar shards: found once, read at random, labels and parts recognised, damage named."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from pings import PINGS, Pings, ping, shown

from unlabel.data.sources import reading, shards
from unlabel.data.sources.kind import Kind
from unlabel.data.sources.shards import expand
from unlabel.errors import BadSample, UsageError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def opened(path: str | Path, holdout: float = 0.2) -> Pings:
    return Pings(Path(path), shards.find(path, PINGS), holdout)


def claims(path: str | Path) -> bool:
    return shards.claims(Path(path), PINGS)


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
        members[f"{number:06d}.ping"] = ping(number)
        members[f"{number:06d}.cls"] = str(number % classes).encode()
    return members


def test_samples_of_all_shards_in_order(tmp_path):
    for number in range(3):
        shard(tmp_path / f"s-{number:03d}.tar", labelled(range(number * 4, number * 4 + 4)))
    for source in (tmp_path, f"{tmp_path}/s-{{000..002}}.tar", f"{tmp_path}/s-{{000,001,002}}.tar"):
        dataset = opened(source)
        assert len(dataset) == 12
        for index in (11, 0, 5, 7, 3):
            assert dataset[index]["ping"] == index
            assert dataset[index]["label"] == index % 3
        assert dataset.name_of(5) == f"{tmp_path}/s-001.tar/000005.ping"
        assert dataset.info()["ignored"] == {".cls": 12}


def test_members_are_grouped_by_the_path_up_to_the_first_dot(tmp_path):
    members = {
        "b/1.left.ping": ping(0),
        "b/1.right.ping": ping(1),  # the same sample: its first ping counts
        "b/1.json": b'{"label": "cat"}',
        "a/1.json": b'{"label": "dog", "width": 3}',  # the same name in another folder is another sample
        "a/1.txt": b"a caption",
        "a/1.PING": ping(2),
        "._a/1.ping": b"macOS leaves such things",
        "note.txt": b"no sample",
    }
    dataset = opened(shard(tmp_path / "a.tar", members))
    assert len(dataset) == 2
    assert dataset[0]["ping"] == 0
    assert dataset[1]["ping"] == 2
    assert [dataset.classes[label] for label in dataset.labels] == ["cat", "dog"]


def test_numeric_labels_are_ordered_as_numbers(tmp_path):
    members = {}
    for number in range(12):
        members |= {f"{number}.ping": ping(number), f"{number}.cls": f"{number}\n".encode()}
    dataset = opened(shard(tmp_path / "a.tar", members))
    assert dataset.labels.tolist() == list(range(12))
    assert dataset.classes[10] == "10"


def test_one_missing_label_leaves_the_set_unlabelled_and_says_so(tmp_path):
    members = labelled(range(6))
    del members["000003.cls"]
    dataset = opened(shard(tmp_path / "a.tar", members))
    assert dataset.labels is None
    assert set(dataset[0]) == {"ping"}
    assert dataset.split("test") is None
    assert dataset.info()["notes"] == ["only 5 of 6 samples have a label, so none is used"]


def test_parts_come_from_the_names_of_shards(tmp_path):
    shard(tmp_path / "x-train-0.tar", labelled(range(6)))
    shard(tmp_path / "x-train-1.tar", labelled(range(6, 9)))
    shard(tmp_path / "x-val-0.tar", labelled(range(9, 12)))
    dataset = opened(tmp_path)
    train, test = dataset.split("train"), dataset.split("test")
    assert shown(train) == list(range(9))
    assert test.labels.tolist() == [0, 1, 2]
    held_out = opened(tmp_path / "x-train-0.tar", holdout=0.5).split("test")  # undivided: a holdout
    assert np.bincount(held_out.labels).tolist() == [1, 1, 1]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names(tmp_path, format):
    name = "/".join(["directory" * 3] * 9) + "/name.ping"
    dataset = opened(shard(tmp_path / "a.tar", {"1.ping": ping(0), name: ping(1), "2.ping": ping(2)}, format))
    assert dataset.name_of(1).endswith(name)
    assert dataset[1]["ping"] == 1
    assert dataset[2]["ping"] == 2


def test_shards_are_listed_once(tmp_path, cache):
    path = shard(tmp_path / "data" / "a.tar", labelled(range(5)))
    opened(path)
    assert len(list(cache.rglob("*.json"))) == 1
    times, content = path.stat(), path.read_bytes()
    path.write_bytes(b"\xff" * 512 + content[512:])  # a broken header would be noticed if it were read again
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert opened(path)[3]["ping"] == 3

    shard(path, labelled(range(7)))
    assert len(opened(path)) == 7  # changed: listed anew


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path, cache, monkeypatch):
    path = shard(tmp_path / "data" / "a.tar", labelled(range(5)))
    opened(path)
    for damage in (b"", b'{"names": [', b"[1, 2]", b"{}"):
        for listed in cache.rglob("*.json"):
            listed.write_bytes(damage)
        with pytest.warns(UserWarning, match="is made again"):
            assert len(opened(path)) == 5
        assert len(opened(path)) == 5
    monkeypatch.setenv("UNLABEL_CACHE", os.devnull)
    assert len(opened(path)) == 5


def test_cut_shards_are_named(tmp_path):
    whole = shard(tmp_path / "a.tar", labelled(range(5))).read_bytes()
    for length in (100, 700, 1400):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(UsageError, match=r"cut\.tar is not an intact tar file"):
            opened(tmp_path / "cut.tar")


def test_a_broken_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = shard(tmp_path / "a.tar", labelled(range(5)))
    content = bytearray(path.read_bytes())
    place = content.index(b"000002.ping")
    content[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"a\.tar is damaged at byte {place}"):
        opened(path)


def test_what_cannot_be_read_at_random_is_refused(tmp_path):
    path = shard(tmp_path / "a.tar", labelled(range(5)))
    (tmp_path / "b.tar").write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(UsageError, match=r"b\.tar is compressed.*gunzip"):
        opened(tmp_path / "b.tar")
    for place in ("https://example.org/a.tar", "s3://bucket/{000..010}.tar", "pipe:cat a.tar"):
        with pytest.raises(UsageError, match="local files only"):
            opened(place)


def test_missing_shards_are_counted_and_named(tmp_path):
    shard(tmp_path / "s-000.tar", labelled(range(2)))
    with pytest.raises(UsageError, match=r"2 of the 3 shards.*first: .*s-001\.tar"):
        expand(f"{tmp_path}/s-{{000..002}}.tar")
    with pytest.raises(UsageError, match=r"there is no 's-00\.tar'.*s-000\.tar\?"):
        opened(tmp_path / "s-00.tar")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no \.tar files"):
        opened(tmp_path / "empty")


def test_shards_without_samples_say_what_they_hold(tmp_path):
    path = shard(tmp_path / "a.tar", {"1.flac": b"sound", "2.flac": b"sound", "1.json": b"{}"})
    with pytest.raises(UsageError, match=r"no pings in the 1 tar files .* they hold \.flac, \.json"):
        opened(path)
    assert not claims(path)


def test_bad_members_are_bad_samples(tmp_path):
    dataset = opened(shard(tmp_path / "a.tar", {"1.ping": b"words", "2.ping": b"", "3.ping": ping(3)}))
    for index in (0, 1):
        with pytest.raises(BadSample, match="no ping"):
            dataset[index]
    assert dataset[2]["ping"] == 3


def test_copies_are_small_and_independent(tmp_path):
    dataset = opened(shard(tmp_path / "a.tar", labelled(range(300))))
    dataset[0]
    dumped = pickle.dumps(dataset)
    assert len(dumped) < 300 * 50 + 2000  # name, shard, offset, length, label of each image
    assert pickle.loads(dumped)[299]["ping"] == 299


def test_claims_shards_and_patterns_only(tmp_path):
    shard(tmp_path / "s-0.tar", labelled(range(2)))
    assert claims(tmp_path)
    assert claims(tmp_path / "s-0.tar")
    assert claims(tmp_path / "s-{0..0}.tar")
    assert not claims(tmp_path / "s-{0..1}.tar")
    (tmp_path / "text.tar").write_text("no tar at all")
    assert not claims(tmp_path / "text.tar")
    assert not claims(tmp_path / "absent")


def test_facts_can_be_written_as_json(tmp_path):
    facts = json.loads(json.dumps(opened(shard(tmp_path / "a.tar", labelled(range(6)))).info()))
    assert facts["kind"] == "shards"
    assert facts["classes"] == {"0": 2, "1": 2, "2": 2}
    assert facts["formats"] == {".ping": 6}


@pytest.mark.slow
def test_patterns_that_stand_for_no_shard_or_too_many_are_refused(tmp_path):
    for pattern, count in (("{3..0}", "no shard"), ("{0..99999999999}", "more than 1,000,000 shards")):
        with pytest.raises(UsageError, match=f"stands for {count}"):
            expand(f"{tmp_path}/s-{pattern}.tar")
        assert not claims(f"{tmp_path}/s-{pattern}.tar")


def test_another_kind_of_sample_has_a_list_of_its_own(tmp_path):
    path = shard(tmp_path / "a.tar", {"1.ping": ping(1), "1.cls": b"cat", "2.note": b"words"})
    notes = Kind("note", "notes", frozenset({".note"}), ".note")
    assert len(shards.index_shard(path, PINGS).names) == 1
    assert shards.index_shard(path, notes).names == ["2.note"]
    assert shards.index_shard(path, PINGS).names == ["1.ping"]


def test_a_member_that_declares_to_be_huge_takes_no_memory(tmp_path):
    """Its header says so, and its end lies in a hole of the file."""
    path = tmp_path / "a.tar"
    member = tarfile.TarInfo("1.ping")
    member.size = reading.LARGEST + 1
    with path.open("wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate(512 + -(-member.size // 512) * 512 + 1024)
    with pytest.raises(BadSample, match="2,147,483,649 bytes, more than"):
        opened(path)[0]


@pytest.mark.parametrize("label", [b'{"label": ' * 5000, b"[" * 100_000, b"\xff", b"[]", b'{"label": {}}'])
def test_what_is_no_label_is_none(tmp_path, label):
    dataset = opened(shard(tmp_path / "a.tar", {"1.ping": ping(1), "1.json": label, "2.ping": ping(2)}))
    assert dataset.labels is None
    assert shown(dataset) == [1, 2]
