"""Reading images with masks: layouts, class numbers, parts, and what is said about files that are wrong."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabel import Catalog
from unlabel.claims import claimant
from unlabel.errors import UsageError
from unlabel.evaluate.dense_probe import LabelMaps
from unlabel_vision.datasets.segmentation import CAMVID, Segmentation
from unlabel_vision.datasets.shapes import CLASSES, Shapes


def picture(path: Path, size: tuple[int, int] = (12, 8), seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def mask(path: Path, numbers: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(numbers.astype(np.uint16 if mode == "I;16" else np.uint8))
    if mode == "P":
        image = Image.fromarray(numbers.astype(np.uint8), "L").convert("P")
        image.putdata(numbers.flatten().tolist())
        image.putpalette([200, 10, 10] * 256)  # all of one colour: the colours must not matter
    image.save(path)


def numbers(seed: int, classes: int = 3, size: tuple[int, int] = (12, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, (size[1], size[0]))


def made(root: Path, names: tuple[str, ...] = ("a", "b", "c", "d", "e")) -> Path:
    for seed, name in enumerate(names):
        picture(root / f"images/{name}.jpg", seed=seed)
        mask(root / f"masks/{name}.png", numbers(seed))
    return root


def test_files_are_paired_by_name_and_not_by_order(tmp_path: Path) -> None:
    made(tmp_path, ("b", "a", "c10", "c9"))
    dataset = Segmentation(tmp_path)
    for index in range(4):
        seed = ("b", "a", "c10", "c9").index(Path(dataset.name_of(index)).stem)
        assert np.array_equal(dataset.label_map(index), numbers(seed))


def test_training_never_sees_a_mask(tmp_path: Path) -> None:
    dataset = Segmentation(made(tmp_path))
    assert set(dataset[0]) == {"image"}
    assert dataset.labels is None


@pytest.mark.parametrize(
    ("picture_of", "mask_of"),
    [
        ("{part}/images/{name}.jpg", "{part}/masks/{name}.png"),
        ("images/{part}/{name}.jpg", "annotations/{part}/{name}.png"),
        ("{part}/{name}.png", "{part}annot/{name}.png"),
        ("data/JPEGImages/{part}/{name}.jpg", "data/SegmentationClass/{part}/{name}.png"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_layouts_with_parts(tmp_path: Path, picture_of: str, mask_of: str, zipped: bool) -> None:
    root = tmp_path / "files"
    for seed, (part, name) in enumerate([("train", "x"), ("train", "y"), ("val", "x"), ("test", "x"), ("test", "z")]):
        picture(root / picture_of.format(part=part, name=name), seed=seed)
        mask(root / mask_of.format(part=part, name=name), numbers(seed))
    where = root
    if zipped:
        where = tmp_path / "whole.zip"
        with zipfile.ZipFile(where, "w") as archive:
            for file in sorted(root.rglob("*.*")):
                archive.write(file, file.relative_to(root).as_posix())
    assert Segmentation.claims(where)
    dataset = Segmentation(where)
    train, test = dataset.split("train"), dataset.split("test")
    assert isinstance(train, LabelMaps)
    assert isinstance(test, LabelMaps)
    assert (len(dataset), len(train), len(test)) == (5, 2, 2)
    assert np.array_equal(train.label_map(1), numbers(1))
    assert np.array_equal(test.label_map(0), numbers(3))  # the x of test, not that of train or val
    assert np.array_equal(pickle.loads(pickle.dumps(test)).label_map(1), numbers(4))
    assert not {train.name_of(i) for i in range(2)} & {test.name_of(i) for i in range(2)}


def test_without_parts_a_share_of_the_images_is_held_out_and_none_is_in_both(tmp_path: Path) -> None:
    dataset = Segmentation(made(tmp_path, tuple("abcdefghij")), holdout=0.3)
    train, test = dataset.split("train"), dataset.split("test")
    assert train is not None
    assert test is not None
    names = [{part.name_of(i) for i in range(len(part))} for part in (train, test)]
    assert (len(names[0]), len(names[1])) == (7, 3)
    assert not names[0] & names[1]
    assert Segmentation(tmp_path, holdout=0.0).split("test") is None


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_class_numbers_are_read_as_stored_whatever_the_colours(tmp_path: Path, mode: str) -> None:
    made(tmp_path, ("a",))
    mask(tmp_path / "masks/a.png", numbers(5), mode)
    assert np.array_equal(Segmentation(tmp_path).label_map(0), numbers(5))


def test_unlabelled_pixels_are_minus_one_and_no_class(tmp_path: Path) -> None:
    made(tmp_path, ("a", "b"))
    there = numbers(0)
    there[0] = 255
    mask(tmp_path / "masks/a.png", there)
    dataset = Segmentation(tmp_path)
    assert (dataset.label_map(0)[0] == -1).all()
    assert np.array_equal(dataset.label_map(0)[1:], there[1:])
    assert dataset.map_classes == ("0", "1", "2")
    other = Segmentation(tmp_path, ignore=0)
    assert (other.label_map(1) == np.where(numbers(1) == 0, -1, numbers(1))).all()


def test_names_come_from_a_file(tmp_path: Path) -> None:
    (made(tmp_path) / "classes.txt").write_text("ground\nwater\nsky\n")
    assert Segmentation(tmp_path).map_classes == ("ground", "water", "sky")


def test_camvids_layout_has_its_names_and_its_unlabelled_class(tmp_path: Path) -> None:
    picture(tmp_path / "train/a.png")
    mask(tmp_path / "trainannot/a.png", np.arange(96).reshape(8, 12) % 12)
    dataset = Segmentation(tmp_path)
    assert dataset.map_classes == CAMVID
    found = dataset.label_map(0).flatten()
    assert found[:12].tolist() == [*range(11), -1]


def panoptic(root: Path) -> Path:
    kinds = [(1, "cat", "animal"), (7, "dog", "animal"), (9, "sky", "sky")]
    segments = {"a": [7, 9], "b": [1]}
    images = []
    for seed, (name, of) in enumerate(segments.items()):
        picture(root / f"train/images/{name}.jpg", seed=seed)
        mask(root / f"train/panoptic/{name}.png", numbers(seed, 1 + len(of)))
        entry = {"file": f"train/images/{name}.jpg", "panoptic": f"train/panoptic/{name}.png"}
        images.append({**entry, "segments": [{"index": i + 1, "category_id": c} for i, c in enumerate(of)]})
    picture(root / "train/images/c.jpg", seed=2)
    images.append({"file": "train/images/c.jpg"})
    categories = [dict(zip(("id", "name", "supercategory"), kind, strict=True)) for kind in kinds]
    (root / "annotations.json").write_text(json.dumps({"splits": {"train": images}, "categories": categories}))
    return root


def test_panoptic_segments_become_the_classes_of_their_categories(tmp_path: Path) -> None:
    dataset = Segmentation(panoptic(tmp_path))
    assert (len(dataset), dataset.map_classes) == (2, ("cat", "dog", "sky"))
    assert np.array_equal(dataset.label_map(0), np.array([-1, 1, 2])[numbers(0, 3)])
    assert np.array_equal(dataset.label_map(1), np.array([-1, 0])[numbers(1, 2)])
    assert "1 images have no mask" in dataset.notes[0]
    merged = Segmentation(tmp_path, categories="supercategory")
    assert merged.map_classes == ("animal", "sky")
    assert np.array_equal(merged.label_map(0), np.array([-1, 0, 1])[numbers(0, 3)])


def test_panoptic_numbers_beyond_the_segments_and_damaged_annotations_are_named(tmp_path: Path) -> None:
    panoptic(tmp_path)
    mask(tmp_path / "train/panoptic/b.png", np.full((8, 12), 2))
    with pytest.raises(UsageError, match=r"b\.png: 2 at row 0, column 0 is beyond the 1 segments"):
        Segmentation(tmp_path).label_map(1)
    (tmp_path / "annotations.json").write_text('{"splits": {}}')
    with pytest.raises(UsageError, match=r"annotations\.json: expected splits.*categories"):
        Segmentation(tmp_path)


def test_an_image_without_a_mask_is_named_or_left_out(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "masks/c.png").unlink()
    with pytest.raises(UsageError, match=r"images/c\.jpg has no mask of the same name.*maskless=skip"):
        Segmentation(tmp_path)
    left = Segmentation(tmp_path, maskless="skip")
    assert [Path(left.name_of(i)).stem for i in range(len(left))] == ["a", "b", "d", "e"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: mask(path, numbers(0, 3, (8, 12))), r"c\.png is a mask of 8 x 12 pixels.*c\.jpg has 12 x 8"),
        (lambda path: path.write_bytes(path.read_bytes()[:60]), r"c\.png cannot be used as a mask: .*truncated PNG"),
        (lambda path: path.write_text("no image"), r"c\.png cannot be used as a mask: not an image"),
        (lambda path: picture(path), r"c\.png cannot be used as a mask: an image of mode RGB"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(tmp_path: Path, change: object, message: str) -> None:
    (made(tmp_path) / "classes.txt").write_text("x\ny\nz\n")
    change(tmp_path / "masks/c.png")  # type: ignore[operator]
    dataset = Segmentation(tmp_path)
    assert dataset.label_map(1).shape == (8, 12)
    with pytest.raises(UsageError, match=message):
        dataset.label_map(2)


def test_a_number_beyond_the_classes_is_named_with_its_place_and_what_to_do(tmp_path: Path) -> None:
    (made(tmp_path) / "classes.txt").write_text("x\ny\nz\n")
    there = numbers(2)
    there[3, 5] = 7
    mask(tmp_path / "masks/c.png", there)
    with pytest.raises(UsageError, match=r"c\.png: 7 at row 3, column 5 is beyond the 3 classes.*dataset\.ignore"):
        Segmentation(tmp_path).label_map(2)


def test_jpeg_masks_are_not_taken_for_masks(tmp_path: Path) -> None:
    """They do not keep numbers."""
    picture(tmp_path / "images/a.jpg")
    picture(tmp_path / "masks/a.jpg")
    assert not Segmentation.claims(tmp_path)


def test_folders_of_classes_are_left_to_the_reader_of_folders(tmp_path: Path) -> None:
    for name in ("mask/1.png", "mask/2.png", "no_mask/3.png", "no_mask/4.png"):
        picture(tmp_path / name)
    assert not Segmentation.claims(tmp_path)
    offers = [offer for offer in Catalog.installed().offers("datasets") if offer.name.startswith("vision/")]
    assert claimant(tmp_path, offers).name == "vision/folder"
    assert claimant(made(tmp_path / "other"), offers).name == "vision/segmentation"


def test_shapes_have_masks_that_match_their_pictures() -> None:
    dataset = Shapes(count=200, image_size=64)
    test = dataset.split("test")
    assert isinstance(test, Shapes)
    assert dataset.map_classes == ("background", *CLASSES)
    for part in (dataset, test):
        for index in range(40):
            sample, found = part[index], part.label_map(index)
            there = set(np.unique(found).tolist())
            assert there <= {-1, 0, 1 + sample["label"]}
            assert 1 + sample["label"] in there
            inside, outside = (sample["image"][found == c].astype(float).mean(0) for c in (1 + sample["label"], 0))
            assert abs(inside - outside).sum() > 15  # silhouettes are drawn to stand out; the place must be theirs
    assert not np.array_equal(dataset.label_map(0), test.label_map(0))


def test_a_file_is_no_folder_of_masks(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"a\.png is a file; expected a folder of images and masks"):
        Segmentation(tmp_path / "a.png")
