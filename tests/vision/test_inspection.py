"""`unlabel inspect` counts exactly what is there."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections import Counter

import corrupt
import numpy as np
import pytest
from PIL import Image

from unlabel.catalog.plugins import Catalog
from unlabel.errors import UsageError
from unlabel.inspection.contents import open_dataset
from unlabel_vision import inspection
from unlabel_vision.datasets.folder import Folder

CATALOG = Catalog.installed()


def inspected(path, verify=True):
    """The report of whatever images are there, opened as the command opens them."""
    return inspection.report(open_dataset(str(path), CATALOG)[1], verify=verify)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_broken_files_are_listed_with_reasons_and_nothing_else_is(tmp_path):
    written = corrupt.write_images(tmp_path / "mixed", good=24, bad=8, seed=1)
    found = inspected(tmp_path / "mixed")
    reasons = {entry["path"]: entry["reason"] for entry in found["broken"]}
    assert set(reasons) == {str(path) for path, kind in written.items() if kind in corrupt.BAD}
    words = {"truncated": "truncated JPEG", "empty": "empty file", "text named jpg": "text", "giant": "60000 x 60000"}
    for path, reason in reasons.items():
        kind = next(kind for written_path, kind in written.items() if str(written_path) == path)
        assert words[kind] in reason


def test_kinds_of_images_are_counted(tmp_path):
    kinds = Counter(corrupt.write_images(tmp_path / "mixed", good=20, bad=0, seed=1).values())
    found = inspected(tmp_path / "mixed")
    assert found["samples"] == 20
    assert found["rotated"] == kinds["exif-rotated"]
    assert found["animated"] == kinds["animated"]
    assert found["modes"]["CMYK"] == kinds["cmyk"]
    assert found["modes"]["I;16"] == kinds["16-bit"]
    assert found["contents"]["JPEG"] == kinds["jpeg"] + kinds["cmyk"] + kinds["exif-rotated"]
    assert found["contents"]["PNG"] == kinds["png"] + kinds["png named jpg"] + kinds["16-bit"]
    assert found["bytes"] == sum(path.stat().st_size for path in (tmp_path / "mixed").iterdir())


def test_sizes_are_those_of_all_images_upright(tmp_path):
    exif = Image.Exif()
    exif[corrupt.ORIENTATION] = 6
    for number, width in enumerate((20, 30, 70)):
        Image.new("RGB", (width, 16)).save(tmp_path / f"{number}.png")
    Image.new("RGB", (16, 90)).save(tmp_path / "turned.jpg", exif=exif)
    assert inspected(tmp_path)["sizes"] == {"count": 4, "width": [20, 50, 90], "height": [16, 16, 16]}


def test_small_images_count_as_broken_as_they_do_in_training(tmp_path):
    Image.new("RGB", (4, 40)).save(tmp_path / "line.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "whole.png")
    (broken,) = inspected(tmp_path)["broken"]
    assert broken == {"path": str(tmp_path / "line.png"), "reason": "4 x 40 pixels, smaller than min_size=8"}


def test_duplicates_are_found_by_content_also_across_splits(tmp_path):
    for seed, name in enumerate(("train/cat", "train/dog", "test/cat")):
        corrupt.write_images(tmp_path / name, good=8, bad=0, seed=seed)
    first, second = sorted((tmp_path / "train/cat").iterdir())[:2]
    shutil.copy(first, tmp_path / "train/dog" / f"copy{first.suffix}")
    shutil.copy(first, tmp_path / "test/cat" / f"copy{first.suffix}")
    shutil.copy(second, tmp_path / "train/cat" / f"other{second.suffix}")
    found = json.loads(json.dumps(inspected(tmp_path)))
    assert found["duplicates"] == 3
    assert found["duplicates_across_splits"] == 1
    assert [str(second), str(tmp_path / "train/cat" / f"other{second.suffix}")] in found["duplicate_examples"]
    assert found["splits"] == {"train": 18, "test": 9}
    assert found["classes"] == {"cat": 18, "dog": 9}


def test_headers_alone_do_not_decode(tmp_path):
    written = corrupt.write_images(tmp_path, good=8, bad=4, seed=0)
    found = inspected(tmp_path, verify=False)
    truncated = {str(path) for path, kind in written.items() if kind == "truncated"}
    assert truncated.isdisjoint(entry["path"] for entry in found["broken"])
    assert len(found["broken"]) == 3
    assert "samples_per_second" not in found
    speed = inspected(tmp_path)["samples_per_second"]
    assert 10 < speed < 1e6


@pytest.mark.slow
def test_threads_see_what_one_after_another_sees(tmp_path):
    corrupt.write_images(tmp_path, good=150, bad=50, seed=0)
    dataset = Folder(tmp_path)
    alone = [inspection.examine(dataset, index, True) for index in range(len(dataset))]
    together = list(inspection._examined(dataset, True))
    assert [finding[:4] for finding in map(_fields, together)] == [finding[:4] for finding in map(_fields, alone)]


def _fields(finding: inspection.Finding) -> tuple:
    return finding.size, finding.digest, finding.header, finding.reason


def test_archives_shards_and_arrays_are_inspected_too(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (6, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pictures[[0, 1, 2, 3, 4, 0]])
    found = inspected(tmp_path / "a.npz")
    assert (found["samples"], found["duplicates"], found["broken"]) == (6, 1, [])

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number, content in enumerate([*map(Image.fromarray, pictures), None]):
            file = b"words" if content is None else corrupt.encode(content, "PNG")
            member = tarfile.TarInfo(f"{number}.png")
            member.size = len(file)
            archive.addfile(member, io.BytesIO(file))
    found = inspected(tmp_path / "a.tar")
    assert found["kind"] == "webdataset"
    assert [entry["path"] for entry in found["broken"]] == [f"{tmp_path}/a.tar/6.png"]

    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        pa.table({"image": [corrupt.encode(Image.fromarray(p), "PNG") for p in pictures]}), tmp_path / "a.parquet"
    )
    found = inspected(tmp_path / "a.parquet")
    assert (found["kind"], found["contents"]) == ("huggingface", {"PNG": 6})


def test_report_can_be_written_as_json(tmp_path):
    corrupt.write_images(tmp_path, good=8, bad=4, seed=0)
    assert json.loads(json.dumps(inspected(tmp_path)))["verified"] is True


def test_the_command_gets_the_whole_report(tmp_path):
    corrupt.write_images(tmp_path, good=8, bad=4, seed=0)
    dataset = Folder(tmp_path)
    assert len(dataset.inspect()["broken"]) == 4
    assert dataset.inspect(verify=False) == dataset.info()


def test_what_cannot_be_inspected_is_explained(tmp_path):
    with pytest.raises(UsageError, match="the folder is empty"):
        inspected(tmp_path)
    with pytest.raises(UsageError, match=r"there is no path and no dataset called '.*absent'"):
        inspected(tmp_path / "absent")


def test_shared_photos_are_sound(shared):
    found = inspected(shared / "data/clothing10/clothing10.zip", verify=False)
    assert found["broken"] == []
    assert found["splits"] == {"train": 1147, "val": 341, "test": 372}
    assert found["sizes"]["count"] == 1860
    assert min(found["sizes"]["width"][0], found["sizes"]["height"][0]) >= 200
