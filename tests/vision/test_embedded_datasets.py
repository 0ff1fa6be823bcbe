"""Data sets that need no download: deterministic, labelled, and with nothing shared between training and test."""

from __future__ import annotations

import json
import pickle
import socket

import numpy as np
import pytest
import torch
from PIL import Image

from unlabel.errors import UsageError
from unlabel_vision.datasets import digits, photos, shapes
from unlabel_vision.datasets.digits import Digits
from unlabel_vision.datasets.photos import Photos
from unlabel_vision.datasets.shapes import CLASSES, Shapes

ALL = [Digits, Photos, Shapes]


def pictures(dataset, count: int) -> np.ndarray:
    return np.stack([dataset[index]["image"] for index in range(count)])


@pytest.mark.parametrize("kind", ALL)
def test_samples_are_pure(kind):
    first, second = kind(), pickle.loads(pickle.dumps(kind()))
    for index in (41, 3, 41):
        np.testing.assert_array_equal(first[index]["image"], second[index]["image"])
        assert first[index]["label"] == first.labels[index] == second[index]["label"]
        first[index]["image"][:] = 7  # whoever gets a sample may write to it


@pytest.mark.parametrize("kind", ALL)
def test_samples_are_images_of_the_right_form(kind):
    dataset = kind()
    for part in (dataset, dataset.split("train"), dataset.split("test")):
        image = part[len(part) - 1]["image"]
        assert image.dtype == np.uint8
        assert image.shape[0] == image.shape[1]
        assert image.shape[2:] == (3,)
        assert image.flags.c_contiguous
        assert part.labels.dtype == np.int64
        assert len(part.labels) == len(part)
    assert dataset.split("validation") is None


@pytest.mark.parametrize("kind", ALL)
def test_training_and_test_have_no_image_in_common(kind):
    dataset = kind()
    train, test = (pictures(dataset.split(name), 300) for name in ("train", "test"))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


@pytest.mark.parametrize("kind", ALL)
def test_every_class_is_in_both_parts(kind):
    dataset = kind()
    for name in ("train", "test"):
        counts = np.bincount(dataset.split(name).labels, minlength=len(dataset.classes))
        assert counts.min() > 0.8 * counts.mean()


@pytest.mark.parametrize("kind", ALL)
def test_no_global_random_state_is_touched(kind):
    dataset = kind()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    dataset[5]
    dataset.split("test")[5]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("kind", ALL)
def test_copies_for_loader_processes_are_small(kind):
    dataset = kind()
    dataset[0]
    assert len(pickle.dumps(dataset)) < 9 * len(dataset) + 1000  # the labels, and next to nothing else


@pytest.mark.parametrize("kind", ALL)
def test_facts_can_be_written_as_json(kind):
    facts = json.loads(json.dumps(kind().info()))
    assert facts["samples"] == len(kind())
    assert sum(facts["classes"].values()) == len(kind())


def test_nothing_is_fetched_from_a_network(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a data set tried to reach a network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    photos.photo.cache_clear()
    shapes._relief.cache_clear()
    digits._load.cache_clear()
    for name in photos.NAMES:
        assert photos.photo(name).dtype == np.uint8
    for kind in ALL:
        kind()[0]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Digits, {"image_size": 4}),
        (Digits, {"holdout": 0.0}),
        (Photos, {"crop": 200}),
        (Photos, {"count": 1}),
        (Shapes, {"count": 5}),
        (Shapes, {"image_size": 8}),
    ],
)
def test_wrong_settings_are_refused(kind, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        kind(**wrong)


def test_digits_are_all_there_and_split_by_class():
    dataset = Digits(holdout=0.25)
    assert len(dataset) == 1797
    train, test = dataset.split("train"), dataset.split("test")
    assert np.array_equal(np.sort(np.concatenate([train.indices, test.indices])), np.arange(1797))
    share = np.bincount(test.labels) / np.bincount(dataset.labels)
    np.testing.assert_allclose(share, 0.25, atol=0.005)


def test_digits_keep_their_eight_by_eight_values():
    from sklearn.datasets import load_digits

    truth = load_digits().images
    exact, large = Digits(image_size=8), Digits(image_size=64)
    for index in (0, 500, 1796):
        np.testing.assert_allclose(exact[index]["image"][..., 1], truth[index] * 255 / 16, atol=0.5)
        reduced = large[index]["image"][..., 0].reshape(8, 8, 8, 8).mean((1, 3))
        # Interpolation smooths each cell with its neighbours; they stay the same digit.
        assert np.corrcoef(reduced.ravel(), truth[index].ravel())[0, 1] > 0.97


def test_photo_crops_of_training_and_test_share_no_pixel():
    dataset = Photos(crop=64, count=3000)
    seen = {}
    for part in ("train", "test"):
        crops = dataset.split(part)
        covered = {name: np.zeros(photos.photo(name).shape[:2], bool) for name in photos.NAMES}
        for index in range(len(crops)):
            top, left, side = crops.window(index)
            height, width = covered[photos.NAMES[crops.labels[index]]].shape
            assert 0 <= top <= top + side <= height
            assert 0 <= left <= left + side <= width
            covered[photos.NAMES[crops.labels[index]]][top : top + side, left : left + side] = True
        seen[part] = covered
    for name in photos.NAMES:
        assert not (seen["train"][name] & seen["test"][name]).any()
        assert seen["train"][name].mean() > 0.4  # and most of the training region is used


def test_photo_crops_show_their_window():
    dataset = Photos(crop=32)
    for index in range(60):
        top, left, side = dataset.window(index)
        window = photos.photo(photos.NAMES[dataset.labels[index]])[top : top + side, left : left + side]
        assert 32 <= side <= 64
        # Pillow's box filter takes whole pixels, which weights some of a window twice.
        np.testing.assert_allclose(dataset[index]["image"].mean((0, 1)), window.mean((0, 1)), atol=4)
        if side in (32, 64):
            exact = window.reshape(32, side // 32, 32, side // 32, 3).mean((1, 3))
            np.testing.assert_allclose(dataset[index]["image"], exact, atol=1.0)  # rounded after each axis


def test_another_seed_gives_other_crops_and_shapes():
    for kind in (Photos, Shapes):
        first, second = pictures(kind(), 50), pictures(kind(seed=1), 50)
        assert (first != second).any((1, 2, 3)).all()


def test_a_longer_set_begins_with_the_shorter_one():
    np.testing.assert_array_equal(pictures(Shapes(count=20), 20), pictures(Shapes(count=50_000), 20))


def test_silhouettes_have_the_areas_of_geometry():
    axis = (np.arange(800) + 0.5) / 400 - 1
    areas = shapes.silhouettes(*np.meshgrid(axis, axis)).mean((1, 2)) * 4

    def lens(a, b, d):  # the overlap of two disks of radii a and b whose centres are d apart
        x = (d**2 + a**2 - b**2) / (2 * d)
        half_chord = np.sqrt(a**2 - x**2)
        return a**2 * np.arccos(x / a) + b**2 * np.arccos((d - x) / b) - d * half_chord

    expected = {
        "disk": np.pi * 0.8**2,
        "ring": np.pi * (0.85**2 - 0.5**2),
        "triangle": 3 * np.sqrt(3) / 4 * 0.95**2,
        "square": 1.36**2,
        "star": 5 * 0.95 * 0.38 * np.sin(np.pi / 5),
        "cross": 2 * 1.8 * 0.56 - 0.56**2,
        "crescent": np.pi * 0.85**2 - lens(0.85, 0.62, 0.42),
        "bar": 1.84 * 0.5,
        "angle": 0.5 * 1.6 + 1.0 * 0.5,
    }
    for name, area in expected.items():
        np.testing.assert_allclose(areas[CLASSES.index(name)], area, rtol=0.01, err_msg=name)


def test_silhouettes_are_distinct_under_any_turn():
    """No class is another one turned: the share of each circle around the centre that is covered tells them apart."""
    axis = (np.arange(400) + 0.5) / 200 - 1
    x, y = np.meshgrid(axis, axis)
    ring = np.digitize(np.hypot(x, y), np.linspace(0, 1, 11))
    profiles = np.array([[mask[ring == r].mean() for r in range(1, 11)] for mask in shapes.silhouettes(x, y)])
    distance = np.abs(profiles[:, None] - profiles[None]).max(2)
    assert distance[~np.eye(10, dtype=bool)].min() > 0.1


def test_silhouettes_stand_out_from_what_is_behind_them():
    """Undo the drawing with the same random numbers: inside and outside differ far more than the textures vary."""
    contrasts = []
    for index in range(100):
        image = Shapes()[index]["image"].astype(float)
        other = shapes.render(shapes.seeds.generator(0, False, index), (index + 5) % 10, 32, "train").astype(float)
        changed = np.abs(image - other).max(2) > 40  # where one silhouette covers and the other does not
        assert changed.sum() > 15
        contrasts.append(np.abs((image - other)[changed]).mean())
    assert np.mean(contrasts) > 50


@pytest.mark.slow
def test_raw_pixels_do_not_tell_the_shapes():
    """The nearest class mean on pixels stays near chance (0.1): positions, turns, colours and polarity see to it."""
    dataset = Shapes()
    train, test = dataset.split("train"), dataset.split("test")
    known, asked = (pictures(part, 600).reshape(600, -1).astype(float) for part in (train, test))
    means = np.stack([known[train.labels[:600] == label].mean(0) for label in range(10)])
    nearest = ((asked[:, None] - means) ** 2).sum(2).argmin(1)
    assert (nearest == test.labels[:600]).mean() < 0.2


def test_shapes_of_other_sizes_show_the_same_scene():
    small, large = Shapes(image_size=32), Shapes(image_size=96)
    for index in range(5):
        assert large[index]["image"].shape == (96, 96, 3)
    reduced = Image.fromarray(large[0]["image"]).resize((32, 32), Image.Resampling.BOX)
    assert np.asarray(reduced).shape == small[0]["image"].shape
