"""Any folder, zip or npz of images becomes a dataset; labels and splits are recognised, never required."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections import Counter
from pathlib import Path

import corrupt
import numpy as np
import pytest
import skimage.data
from PIL import Image

from unlabel.data import Reader
from unlabel.data.sources import layout
from unlabel.errors import BadSample, UsageError
from unlabel_vision import images, views
from unlabel_vision.datasets.folder import Folder


def picture(number: int, side: int = 16) -> np.ndarray:
    """A different picture for each number, as (side, side, 3)."""
    return np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    return corrupt.encode(Image.fromarray(picture(number)), "PNG")


def tree(root: Path, *names: str) -> Path:
    """A folder with picture n in the n-th file; names that are no image get text."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number) if path.suffix in images.SUFFIXES else b"words")
    return root


def archive(path: Path, names: list[str], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for number, name in enumerate(names):
            file.writestr(name, png(number))
    return path


SPLIT = [f"{part}/{name}/{n}.png" for part in ("train", "test") for name in ("cat", "dog") for n in range(3)]


def test_samples_are_the_pictures_in_order_of_their_paths(tmp_path):
    names = ["b/2.png", "a.png", "b/1.png", "c/d/e/3.PNG"]
    tree(tmp_path, *names[:3])
    (tmp_path / "c/d/e").mkdir(parents=True)
    (tmp_path / names[3]).write_bytes(png(3))
    dataset = Folder(tmp_path)
    assert [dataset.name_of(index) for index in range(len(dataset))] == [str(tmp_path / name) for name in sorted(names)]
    for index, name in enumerate(sorted(names)):
        np.testing.assert_array_equal(dataset[index]["image"], picture(names.index(name)))
        assert set(dataset[index]) == {"image"}


def test_train_and_test_folders_become_splits(tmp_path):
    dataset = Folder(tree(tmp_path, *SPLIT))
    train, test = dataset.split("train"), dataset.split("test")
    assert ["/train/" in train.name_of(index) for index in range(len(train))] == [True] * 6
    assert ["/test/" in test.name_of(index) for index in range(len(test))] == [True] * 6
    assert dataset.classes == ("cat", "dog")
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_files_without_an_ending_are_judged_by_content(tmp_path):
    tree(tmp_path, "a.png", "README", "LICENSE")
    (tmp_path / "0af3").write_bytes(png(7))
    dataset = Folder(tmp_path)
    assert [Path(dataset.name_of(index)).name for index in range(len(dataset))] == ["0af3", "a.png"]


def test_bad_files_raise_and_good_ones_do_not(tmp_path):
    written = corrupt.write_images(tmp_path, good=16, bad=8, seed=0)
    dataset = Folder(tmp_path)
    assert len(dataset) == 24
    for index in range(24):
        if written[Path(dataset.name_of(index))] in corrupt.GOOD:
            assert dataset[index]["image"].dtype == np.uint8
        else:
            with pytest.raises(BadSample):
                dataset[index]


def test_size_limits_apply(tmp_path):
    for side in (4, 8, 64):
        Image.fromarray(picture(side, side)).save(tmp_path / f"{side:02d}.png")
    dataset = Folder(tmp_path, max_pixels=1000)
    with pytest.raises(BadSample, match="4 x 4 pixels, smaller than min_size=8"):
        dataset[0]
    assert dataset[1]["image"].shape == (8, 8, 3)
    with pytest.raises(BadSample, match="64 x 64 pixels, more than max_pixels=1000"):
        dataset[2]


def test_crops_of_large_jpegs_read_them_at_a_lower_resolution_and_stay_the_same(tmp_path):
    photo = Image.fromarray(skimage.data.astronaut())  # 512 x 512
    photo.save(tmp_path / "0.jpg", quality=90)
    photo.save(tmp_path / "1.png")
    crop = views.RandomResizedCrop(32)
    dataset = Folder(tmp_path)
    suited = Reader(dataset, views.TwoViews(crop, crop), seed=0).dataset
    full, small = dataset[0]["image"], suited[0]["image"]
    assert small.shape == (256, 256, 3)  # at a quarter, the smallest part would have 31 x 42
    for seed in range(30):
        box = views.random_box(256, 256, np.random.default_rng(seed), crop.scale, crop.ratio)
        ours = views.resize(small, box, (32, 32)).astype(float)
        difference = ours - views.resize(full, tuple(2 * side for side in box), (32, 32))
        assert np.sqrt(np.square(difference).mean()) < 2.5  # grey levels

    assert suited[1]["image"].shape == full.shape == (512, 512, 3)
    assert dataset.for_transform(views.ResizeCenterCrop(32))[0]["image"].shape == (512, 512, 3)
    assert dataset.for_transform(views.RandomResizedCrop(32, scale=(0.02, 1.0)))[0]["image"].shape == (512, 512, 3)
    assert dataset.split("train").for_transform(crop)[0]["image"].shape == (256, 256, 3)
    assert Folder(tmp_path, shortest=500).for_transform(crop)[0]["image"].shape == (512, 512, 3)


def test_shortest_reduces_jpegs_only(tmp_path):
    Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg")
    Image.new("RGB", (400, 300)).save(tmp_path / "b.png")
    dataset = Folder(tmp_path, shortest=70)
    assert dataset[0]["image"].shape == (75, 100, 3)
    assert dataset[1]["image"].shape == (300, 400, 3)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_is_as_good_as_the_folder_it_was_made_of(tmp_path, compression):
    loose = Folder(tree(tmp_path / "loose", *SPLIT))
    packed = Folder(archive(tmp_path / "packed.zip", SPLIT, compression))
    assert len(packed) == len(loose)
    assert packed.classes == loose.classes
    np.testing.assert_array_equal(packed.labels, loose.labels)
    np.testing.assert_array_equal(packed.parts, loose.parts)
    for index in range(len(loose)):
        np.testing.assert_array_equal(packed[index]["image"], loose[index]["image"])
        assert packed.name_of(index).removeprefix(f"{tmp_path}/packed.zip") == loose.name_of(index).removeprefix(
            f"{tmp_path}/loose"
        )


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(6, 9, 11), (6, 9, 11, 1), (6, 9, 11, 3), (6, 3, 9, 11)])
def test_npz_of_pixels(tmp_path, save, shape):
    content = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    save(tmp_path / "a.npz", images=content, labels=np.array([[3], [3], [7], [7], [3], [7]]))
    dataset = pickle.loads(pickle.dumps(Folder(tmp_path / "a.npz", holdout=0.34)))
    expected = content[..., None] if content.ndim == 3 else np.moveaxis(content, 1, 3) if shape[1] == 3 else content
    for index in range(6):
        image = dataset[index]["image"]
        np.testing.assert_array_equal(image, np.broadcast_to(expected[index], (9, 11, 3)))
        assert image.flags.writeable
        assert image.flags.c_contiguous
    assert dataset.classes == ("3", "7")
    assert dataset.labels.tolist() == [0, 0, 1, 1, 0, 1]
    assert len(dataset.split("test")) == 2


def files_npz(path: Path, numbers: list[int], **more: np.ndarray) -> Path:
    files = [png(number) for number in numbers]
    offsets = np.cumsum([0] + [len(file) for file in files])
    np.savez(path, jpeg=np.frombuffer(b"".join(files), np.uint8), offsets=offsets, **more)
    return path


def test_npz_of_files_split_in_two(tmp_path):
    names = np.array(["cat", "dog", "elk"])
    files_npz(tmp_path / "train.npz", [0, 1, 2, 3], labels=np.array([2, 0, 2, 1], np.uint8), classes=names)
    files_npz(tmp_path / "test.npz", [4, 5], labels=np.array([0, 0], np.uint8), classes=names)
    dataset = Folder(tmp_path)
    assert dataset.classes == ("cat", "dog", "elk")
    train, test = dataset.split("train"), dataset.split("test")
    for part, numbers in ((train, [0, 1, 2, 3]), (test, [4, 5])):
        for index, number in enumerate(numbers):
            np.testing.assert_array_equal(part[index]["image"], picture(number))
    assert train.labels.tolist() == [2, 0, 2, 1]
    assert "train.npz:jpeg[2]" in train.name_of(2)


def test_npz_with_objects_is_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "sprung"),))

    np.savez(tmp_path / "a.npz", images=np.array([Trap(), Trap()], dtype=object))
    np.savez(tmp_path / "b.npz", images=np.zeros((2, 8, 8), np.uint8), labels=np.array([Trap(), Trap()], dtype=object))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(UsageError, match=name):
            Folder(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


def test_npz_without_images_says_what_it_holds(tmp_path):
    np.savez(tmp_path / "a.npz", weights=np.zeros((3, 4), np.float32))
    with pytest.raises(UsageError, match=r"found weights \(float32 \(3, 4\)\)"):
        Folder(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", images=np.zeros((3, 8, 8), np.float32))
    with pytest.raises(UsageError, match="float32; images are expected as uint8"):
        Folder(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", jpeg=np.zeros(10, np.uint8), offsets=np.array([0, 7, 5]))
    with pytest.raises(UsageError, match="must rise"):
        Folder(tmp_path / "c.npz")


def test_a_folder_without_images_says_what_was_found(tmp_path):
    with pytest.raises(UsageError, match=r"no images in .*; found no files at all"):
        Folder(tmp_path)
    tree(tmp_path, *[f"{n}.txt" for n in range(12)], "sub/a.csv", "sub/Makefile")
    with pytest.raises(UsageError, match=r"found 12 \.txt files, 1 nameless file, 1 \.csv file"):
        Folder(tmp_path)
    with pytest.raises(UsageError, match=r"0\.txt is a file; expected a folder"):
        Folder(tmp_path / "0.txt")


@pytest.mark.parametrize(
    "wrong", [{"holdout": 1.0}, {"holdout": -0.1}, {"min_size": 0}, {"max_pixels": 0}, {"shortest": 0}]
)
def test_wrong_settings_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Folder(tree(tmp_path, "a.png"), **wrong)


def test_facts_can_be_written_as_json(tmp_path):
    tree(tmp_path, *SPLIT, "notes.txt")
    facts = json.loads(json.dumps(Folder(tmp_path).info()))
    assert facts["samples"] == 12
    assert facts["classes"] == {"cat": 6, "dog": 6}
    assert facts["splits"] == {"train": 6, "test": 6}
    assert facts["formats"] == {".png": 12}
    assert facts["sizes"] == {"count": 12, "width": [16, 16, 16], "height": [16, 16, 16]}


def test_claims_what_is_mostly_images(tmp_path):
    assert Folder.claims(tree(tmp_path / "labelled", "a/1.png", "a/1.txt", "a/1.json", "readme.md"))
    assert not Folder.claims(tree(tmp_path / "films", "1.mp4", "2.mp4", "3.mp4", "poster.png"))
    assert not Folder.claims(tree(tmp_path / "texts", "1.txt"))
    assert not Folder.claims(tmp_path / "absent")
    assert Folder.claims(archive(tmp_path / "a.zip", ["1.png"]))
    np.savez(tmp_path / "graph.npz", edges=np.zeros((2, 9), np.int64))
    assert not Folder.claims(tmp_path / "graph.npz")
    assert Folder.claims(files_npz(tmp_path / "train.npz", [0, 1]))
    (tmp_path / "empty").mkdir()
    assert not Folder.claims(tmp_path / "empty")


def test_reading_is_pure_and_hands_out_copies(tmp_path):
    np.savez(tmp_path / "a.npz", images=picture(0)[None].repeat(2, 0))
    dataset = Folder(tmp_path / "a.npz")
    dataset[0]["image"][:] = 0
    np.testing.assert_array_equal(dataset[0]["image"], picture(0))


def test_shared_sets_are_understood(shared):
    cifar = Folder(shared / "data/cifar10_jpeg")
    assert (len(cifar.split("train")), len(cifar.split("test"))) == (20_000, 5_000)
    assert Counter(cifar.split("test").labels.tolist()) == dict.fromkeys(range(10), 500)
    with np.load(shared / "data/cifar10_jpeg/train.npz") as content:
        start, end = content["offsets"][7:9]
        expected = np.asarray(Image.open(io.BytesIO(content["jpeg"][start:end].tobytes())))
        np.testing.assert_array_equal(cifar.split("train")[7]["image"], expected)
        assert cifar.classes == tuple(content["classes"])
        np.testing.assert_array_equal(cifar.split("train").labels, content["labels"])

    clothing = Folder(shared / "data/clothing10/clothing10.zip")
    rows = (shared / "data/clothing10/index.csv").read_text().splitlines()[1:]
    truth = {row.split(",")[0]: row.split(",")[1:3] for row in rows}
    assert len(clothing) == len(truth)
    for index in range(0, len(clothing), 97):
        part, name = truth[clothing.name_of(index).partition(".zip/")[2]]
        assert (layout.PARTS[clothing.parts[index]], clothing.classes[clothing.labels[index]]) == (part, name)
