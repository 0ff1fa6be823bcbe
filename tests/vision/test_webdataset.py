"""Images in tar shards: what ends as an image is one, decoded as everywhere. How shards are read is the core's."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import corrupt
import numpy as np
import pytest
from PIL import Image

from unlabel.errors import BadSample, UsageError
from unlabel_vision.datasets.webdataset import WebDataset


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNLABEL_CACHE", str(tmp_path / "cache"))


def picture(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    return corrupt.encode(Image.fromarray(picture(number)), "PNG")


def shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_samples_are_the_pictures_with_their_labels(tmp_path):
    for first in (0, 4):
        members = {f"{n:06d}.png": png(n) for n in range(first, first + 4)}
        members |= {f"{n:06d}.cls": str(n % 3).encode() for n in range(first, first + 4)}
        shard(tmp_path / f"s-{first}.tar", members)
    assert WebDataset.claims(tmp_path)
    dataset = WebDataset(tmp_path)
    for index in (7, 0, 5):
        np.testing.assert_array_equal(dataset[index]["image"], picture(index))
        assert dataset[index]["label"] == index % 3
    assert dataset.name_of(5) == f"{tmp_path}/s-4.tar/000005.png"
    facts = dataset.info()
    assert (facts["kind"], facts["ignored"], facts["sizes"]["width"]) == ("webdataset", {".cls": 8}, [10, 10, 10])


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


@pytest.mark.parametrize("wrong", [{"holdout": 1.0}, {"min_size": 0}, {"max_pixels": 0}, {"shortest": 0}])
def test_wrong_settings_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        WebDataset(shard(tmp_path / "a.tar", {"1.png": png(1)}), **wrong)
