"""Any folder, zip or npz of images becomes a dataset; labels and splits are recognised, never required."""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import corrupt
import numpy as np
import pytest
import skimage.data
from PIL import Image

from unlabel.data import Reader
from unlabel.errors import BadSample, UsageError
from unlabel_vision import images, views
from unlabel_vision.datasets import layout, sources
from unlabel_vision.datasets.folder import Folder, scan


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


def test_without_classes_everything_trains_and_nothing_is_held_out(tmp_path):
    dataset = Folder(tree(tmp_path, *[f"{n}.png" for n in range(10)]))
    assert dataset.labels is None
    assert len(dataset.split("train")) == 10
    assert dataset.split("test") is None


def test_class_folders_become_labels_and_a_stratified_holdout(tmp_path):
    names = [
        f"{name}/{sub}/{n}.png" for name, count in (("cat", 10), ("dog", 20)) for sub in "xy" for n in range(count)
    ]
    dataset = Folder(tree(tmp_path, *names), holdout=0.25)
    assert dataset.classes == ("cat", "dog")
    for index in range(len(dataset)):
        assert dataset.classes[dataset[index]["label"]] in dataset.name_of(index)
    train, test = dataset.split("train"), dataset.split("test")
    assert np.bincount(test.labels).tolist() == [5, 10]
    shown = [part.name_of(index) for part in (train, test) for index in range(len(part))]
    assert sorted(shown) == [dataset.name_of(index) for index in range(60)]
    again = Folder(tmp_path, holdout=0.25).split("test")
    np.testing.assert_array_equal(again.indices, test.indices)


def test_train_and_test_folders_become_splits(tmp_path):
    dataset = Folder(tree(tmp_path, *SPLIT))
    train, test = dataset.split("train"), dataset.split("test")
    assert ["/train/" in train.name_of(index) for index in range(len(train))] == [True] * 6
    assert ["/test/" in test.name_of(index) for index in range(len(test))] == [True] * 6
    assert dataset.classes == ("cat", "dog")
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("held_out", ["val", "valid", "validation", "Test", "testing"])
def test_either_validation_or_test_is_held_out(tmp_path, held_out):
    dataset = Folder(tree(tmp_path, "Train/1.png", "Train/2.png", f"{held_out}/3.png"))
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (2, 1)


def test_test_goes_before_validation_and_validation_never_trains(tmp_path):
    dataset = Folder(tree(tmp_path, "train/1.png", "val/2.png", "val/3.png", "test/4.png"))
    assert dataset.split("train").name_of(0).endswith("train/1.png")
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (1, 1)
    assert dataset.info()["splits"] == {"train": 1, "val": 2, "test": 1}


def test_wrapping_folders_are_stepped_into(tmp_path):
    dataset = Folder(tree(tmp_path, *[f"my data/v2/{name}" for name in SPLIT]))
    assert dataset.classes == ("cat", "dog")
    assert len(dataset.split("test")) == 6


def test_unlabelled_test_folder_gives_way_to_a_holdout_from_training(tmp_path):
    names = [f"train/{name}/{n}.png" for name in ("cat", "dog") for n in range(5)] + ["test/1.png", "test/2.png"]
    dataset = Folder(tree(tmp_path, *names))
    assert dataset.classes == ("cat", "dog")
    assert (len(dataset.split("train")), len(dataset.split("test"))) == (8, 2)
    assert all("/train/" in dataset.name_of(index) for index in range(len(dataset)))
    assert "2 images of test" in dataset.info()["notes"][0]


def test_images_beside_class_folders_leave_the_set_unlabelled_and_say_so(tmp_path):
    dataset = Folder(tree(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "preview.png"))
    assert dataset.labels is None
    assert len(dataset) == 5
    assert "1 images lie beside the 2 folders" in dataset.info()["notes"][0]


def test_a_folder_for_each_image_is_no_class(tmp_path):
    assert Folder(tree(tmp_path, *[f"{n}/photo.png" for n in range(5)])).labels is None


def test_layout_of_a_million_names_is_quick_to_read():
    import time

    names = [f"train/{n % 1000:04d}/{n:07d}.jpg" for n in range(100_000)] + ["val/0001/1.jpg"]
    start = time.process_time()
    found = layout.read(names)
    assert time.process_time() - start < 1.0  # 0.1 s on an idle core
    assert len(found.classes) == 1000
    assert found.labels[:3].tolist() == [0, 1, 2]


def test_hidden_files_and_other_files_are_left_out_and_counted(tmp_path):
    tree(tmp_path, "a.png", ".hidden.png", ".git/b.png", "__MACOSX/c.png", "notes.txt", "more.txt", "table.csv")
    dataset = Folder(tmp_path)
    assert len(dataset) == 1
    assert dataset.info()["ignored"] == {".txt": 2, ".csv": 1}


def test_files_without_an_ending_are_judged_by_content(tmp_path):
    tree(tmp_path, "a.png", "README", "LICENSE")
    (tmp_path / "0af3").write_bytes(png(7))
    dataset = Folder(tmp_path)
    assert [Path(dataset.name_of(index)).name for index in range(len(dataset))] == ["0af3", "a.png"]


def test_links_are_followed_but_never_in_circles(tmp_path):
    elsewhere = tree(tmp_path / "elsewhere", "x.png")
    root = tree(tmp_path / "root", "a/1.png", "b/2.png")
    (root / "linked").symlink_to(elsewhere, target_is_directory=True)
    (root / "a" / "loop").symlink_to(root, target_is_directory=True)
    (root / "0").symlink_to(root / "b", target_is_directory=True)  # sorts first, yet the real folder is preferred
    (root / "dangling.png").symlink_to(root / "absent.png")
    (root / "file.png").symlink_to(root / "a/1.png")
    assert scan(root)[0] == ["a/1.png", "b/2.png", "file.png", "linked/x.png"]


def test_undecodable_names_can_be_read_and_printed(tmp_path):
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
            file.write(png(1))
    except OSError:
        pytest.skip("this file system takes no such names")
    dataset = pickle.loads(pickle.dumps(Folder(tmp_path)))
    np.testing.assert_array_equal(dataset[0]["image"], picture(1))
    assert json.dumps(dataset.name_of(0)).encode("ascii")
    dataset.name_of(0).encode("utf-8")


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


def test_zip_members_of_macs_and_windows(tmp_path):
    path = archive(
        tmp_path / "a.zip", ["data\\cat\\1.png", "__MACOSX/data/._1.png", "data/.DS_Store.png", "data/2.png"]
    )
    assert [Path(name).name for name in map(Folder(path).name_of, range(2))] == ["2.png", "1.png"]


def test_zip_with_something_before_it(tmp_path):
    path = archive(tmp_path / "a.zip", ["1.png", "2.png"], zipfile.ZIP_DEFLATED)
    path.write_bytes(b"#!/bin/sh\n" * 100 + path.read_bytes())  # a self-extracting archive
    np.testing.assert_array_equal(Folder(path)[1]["image"], picture(1))


def test_damaged_zip_members_are_bad_samples(tmp_path):
    path = archive(tmp_path / "a.zip", ["1.png", "2.png"], zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    content[60:64] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    dataset = Folder(path)
    with pytest.raises(BadSample, match="damaged zip member"):
        dataset[0]
    np.testing.assert_array_equal(dataset[1]["image"], picture(1))


def test_cut_and_encrypted_zips_are_refused(tmp_path):
    path = archive(tmp_path / "a.zip", ["1.png"])
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UsageError, match=r"cut\.zip is not a readable zip archive"):
        Folder(tmp_path / "cut.zip")
    secret = path.read_bytes().replace(b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01")
    (tmp_path / "secret.zip").write_bytes(secret)
    with pytest.raises(UsageError, match="encrypted"):
        Folder(tmp_path / "secret.zip")


def test_zip_reading_survives_a_fork_and_a_copy(tmp_path):
    dataset = Folder(archive(tmp_path / "a.zip", [f"{n:02d}.png" for n in range(20)]))
    dataset[0]  # opens the file
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.source.handles.opened == {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of forking a process that has threads
        child = os.fork()
    if child == 0:
        wrong = any((dataset[n]["image"] != picture(n)).any() for n in range(20))
        os._exit(int(wrong))
    for number in range(20):
        np.testing.assert_array_equal(dataset[number]["image"], picture(number))
        np.testing.assert_array_equal(copy[number]["image"], picture(number))
    assert os.waitpid(child, 0)[1] == 0


def test_few_files_stay_open(tmp_path):
    handles = sources.Handles(limit=3)
    for number in range(10):
        (tmp_path / str(number)).write_bytes(bytes([number]) * 5)
    for number in [*range(10), *range(10)]:
        assert handles.read(str(tmp_path / str(number)), 1, 3) == bytes([number]) * 3
        assert len(handles.opened) <= 3


def test_open_files_are_closed_and_say_nothing_whatever_ends_them(tmp_path):
    """A file that lets go, one that cannot be opened, and the interpreter's end with one still open."""
    (tmp_path / "a").write_bytes(b"12345")
    program = f"""
import builtins, os
from unlabel_vision.datasets.sources import Handles
builtins.kept = handles = Handles()
handles.read({str(tmp_path / "a")!r}, 0, 5)
number = handles.opened[{str(tmp_path / "a")!r}].number
handles.opened.clear()
try:
    os.fstat(number)
except OSError:
    print("closed")
handles.read({str(tmp_path / "a")!r}, 0, 5)
try:
    handles.read({str(tmp_path / "none")!r}, 0, 5)
except FileNotFoundError:
    print("missing")
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (answer.stdout.split(), answer.stderr) == (["closed", "missing"], "")


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


def test_uncompressed_npz_is_mapped_not_loaded(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8, 3), np.uint8))
    dataset = Folder(tmp_path / "a.npz")
    dataset[0]
    assert isinstance(dataset.source.tables[0].opened, np.memmap)
    assert dataset.source.tables[0].opened.flags.writeable is False


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


def test_npz_arrays_may_carry_the_part_in_their_name(tmp_path):
    arrays = {"x_train": np.zeros((5, 8, 8), np.uint8), "y_train": np.arange(5) % 2}
    arrays |= {"x_test": np.ones((3, 8, 8), np.uint8), "y_test": np.array([1, 0, 1])}
    np.savez(tmp_path / "a.npz", **arrays)
    dataset = Folder(tmp_path / "a.npz")
    test = dataset.split("test")
    assert [int(test[index]["image"].max()) for index in range(3)] == [1, 1, 1]
    assert test.labels.tolist() == [1, 0, 1]
    assert len(dataset.split("train")) == 5


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


def test_folder_with_one_zip_stands_for_it(tmp_path):
    archive(tmp_path / "a.zip", SPLIT)
    (tmp_path / "index.csv").write_text("path\n")
    assert len(Folder(tmp_path)) == 12


def test_a_missing_path_names_the_nearest_one(tmp_path):
    (tmp_path / "photographs").mkdir()
    with pytest.raises(
        UsageError, match=r"photogaphs/cats does not exist: there is no 'photogaphs' in .*photographs\?"
    ):
        Folder(tmp_path / "photogaphs" / "cats")


def test_a_folder_without_images_says_what_was_found(tmp_path):
    with pytest.raises(UsageError, match=r"no images in .*; found no files at all"):
        Folder(tmp_path)
    tree(tmp_path, *[f"{n}.txt" for n in range(12)], "sub/a.csv", "sub/Makefile")
    with pytest.raises(UsageError, match=r"found 12 \.txt files, 1 nameless file, 1 \.csv file"):
        Folder(tmp_path)
    with pytest.raises(UsageError, match=r"0\.txt is a file; expected a folder"):
        Folder(tmp_path / "0.txt")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs users with fewer rights")
def test_an_unreadable_folder_is_named():
    with tempfile.TemporaryDirectory() as name:
        root = tree(Path(name), "a.png", "locked/b.png")
        root.chmod(0o755)
        (root / "locked").chmod(0)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root may read everything
            with pytest.raises(UsageError, match=r"locked.* cannot be read: Permission denied"):
                Folder(root)
        finally:
            os.seteuid(user)
            (root / "locked").chmod(0o755)


@pytest.mark.parametrize(
    "wrong", [{"holdout": 1.0}, {"holdout": -0.1}, {"min_size": 0}, {"max_pixels": 0}, {"shortest": 0}]
)
def test_wrong_settings_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Folder(tree(tmp_path, "a.png"), **wrong)


def test_copies_for_loader_processes_are_small(tmp_path):
    names = [f"{n % 7}/{n:05d}.png" for n in range(2000)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert len(pickle.dumps(Folder(tmp_path))) / 2000 < 30  # bytes an image: its name, its end, its label


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
