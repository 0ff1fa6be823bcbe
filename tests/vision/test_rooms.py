"""Rooms, stereo windows and overlapping crops: what is said of a pair is what its pixels show."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional

from unlabel import seeds
from unlabel.errors import UsageError
from unlabel_vision.datasets import overlaps, rooms, stereo
from unlabel_vision.datasets.overlaps import Overlaps
from unlabel_vision.datasets.rooms import Camera, Rooms, Scene
from unlabel_vision.datasets.stereo import Stereo

ALL = [Rooms, Stereo, Overlaps]


def small(kind):
    return kind(size=37, count=40)


def warped(sample) -> np.ndarray:
    """The second view, fetched from where the flow says: float32, (S, S, 3)."""
    size = len(sample["image"])
    line = torch.arange(size) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    where = torch.stack([x, y], dim=-1) + torch.from_numpy(sample["flow"])
    planes = torch.from_numpy(sample["second"]).permute(2, 0, 1)[None].float()
    # corners are -1 and 1, the middle of a pixel a half
    found = functional.grid_sample(planes, (2 * where / size - 1)[None], align_corners=False, padding_mode="border")
    return found[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("kind", ALL)
def test_samples_are_pure_and_of_the_right_form(kind):
    dataset = small(kind)
    copy = pickle.loads(pickle.dumps(dataset))
    for index in (3, 39, 3):
        sample, again = dataset[index], copy[index]
        assert sample.keys() == again.keys()
        for name, value in sample.items():
            np.testing.assert_array_equal(value, again[name])
        for name in ("image", "second"):
            assert sample[name].shape == (37, 37, 3)
            assert sample[name].dtype == np.uint8
            sample[name][:] = 0  # whoever gets a sample may write to it
        assert sample["flow"].shape == (37, 37, 2)
        assert {sample["flow"].dtype, sample.get("depth", sample["flow"]).dtype} == {np.dtype(np.float32)}
    assert len(dataset.split("test")) == 10
    assert dataset.split("validation") is None
    assert dataset[0]["image"].any()


def test_kinds_of_rooms_take_turns_and_are_no_labels():
    dataset = small(Rooms)
    assert dataset.labels is None
    assert dataset.classes is None
    assert "label" not in dataset[0]
    assert [dataset.name_of(index).partition(" (")[2] for index in range(4)] == [
        "furniture)",
        "screens)",
        "clutter)",
        "furniture)",
    ]


@pytest.mark.parametrize("kind", ALL)
def test_flow_brings_the_second_view_onto_the_first(kind):
    dataset = small(kind)
    for part in ("train", "test"):
        before, after = [], []
        for index in range(10):
            sample = dataset.split(part)[index]
            seen = sample["visible"].astype(bool)
            after.append(np.abs(warped(sample) - sample["image"])[seen].mean())
            before.append(np.abs(sample["second"].astype(float) - sample["image"])[seen].mean())
        assert np.mean(after) < 0.45 * np.mean(before), part


@pytest.mark.parametrize("kind", ALL)
def test_training_and_test_have_no_view_in_common(kind):
    dataset = small(kind)
    views = [
        {part[index][name].tobytes() for index in range(10) for name in ("image", "second")}
        for part in (dataset, dataset.split("test"))
    ]
    assert not views[0] & views[1]


# --- rooms


def empty(half=(2.0, 1.5, 3.0)) -> Scene:
    """A room without anything in it, the floor at y = 0."""
    ones = np.ones((1, 6))
    texture = np.arange(6)[None]
    return Scene(
        np.array([[0.0, -half[1], 0.0]]),
        np.array([half]),
        np.zeros(1),
        texture,
        50 * ones,
        np.zeros((1, 6, 2)),
        np.ones((1, 6, 3)),
    )


def test_rays_meet_the_walls_where_they_are():
    place = np.array([0.5, -1.0, 0.0])
    directions = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    distance, box, face = rooms.cast(empty(), place, directions)
    assert distance == pytest.approx([1.5, 2.5, 1.0, 2.0, 3.0, 3.0], abs=1e-5)
    assert (box == 0).all()
    assert face.tolist() == [3, 0, 4, 1, 5, 2]


def test_rays_meet_a_turned_box_before_the_wall():
    scene = empty()
    box = {"centre": [[0.0, -1.0, 2.0]], "half": [[0.5, 0.2, 0.1]]}
    both = Scene(
        *(np.concatenate([getattr(scene, name), np.array(box[name])]) for name in ("centre", "half")),
        np.array([0.0, np.pi / 2]),
        *(np.concatenate([getattr(scene, name)] * 2) for name in ("texture", "scale", "shift", "tint")),
    )
    directions = np.array([[0.0, 0, 1], [0.3, 0, 1], [0.0, 0.3, 1]])
    distance, which, _ = rooms.cast(both, np.array([0.0, -1.0, 0.0]), directions)
    assert which.tolist() == [1, 0, 0]  # a quarter turn: half a metre deep, and a fifth wide
    assert distance[0] == pytest.approx(1.5, abs=1e-5)


def test_depth_flow_and_pose_agree():
    dataset = small(Rooms)
    for index in range(6):
        sample = dataset[index]
        _, first, second = dataset.pair(index)
        points = first.directions() @ first.turn * sample["depth"].reshape(-1, 1)  # in the first camera's axes
        moved = points @ sample["rotation"].T.astype(np.float64) + sample["translation"]
        assert np.linalg.det(sample["rotation"]) == pytest.approx(1.0, abs=1e-5)
        where = moved[:, :2] / moved[:, 2:] * second.focal + 18.5
        start = points[:, :2] / points[:, 2:] * first.focal + 18.5
        seen = sample["visible"].reshape(-1).astype(bool)
        assert np.abs((where - start) - sample["flow"].reshape(-1, 2))[seen].max() < 1e-2


def test_what_is_hidden_is_known():
    """A screen before a wall: moving sideways uncovers one strip of the wall, and covers another."""
    scene = empty()
    screen = Scene(
        np.concatenate([scene.centre, [[0.0, -1.0, 1.0]]]),
        np.concatenate([scene.half, [[0.2, 0.4, 0.01]]]),
        np.zeros(2),
        *(np.concatenate([getattr(scene, name)] * 2) for name in ("texture", "scale", "shift", "tint")),
    )
    first, second = (Camera(np.array([x, -1.0, 0.0]), np.eye(3), 64) for x in (0.0, 0.1))
    shift, seen = rooms.flow(screen, first, second)
    row = 32
    on_screen = np.abs(np.arange(64) - 31.5) < 0.2 / 0.99 * first.focal - 1
    assert shift[row, on_screen, 0] == pytest.approx(-0.1 / 0.99 * first.focal, abs=1e-3)
    assert seen[row, on_screen].all()
    # of the wall, what is just right of the screen from here is behind it from there
    edge = int(31.5 + 0.2 / 0.99 * first.focal) + 2
    hidden = 0.1 * (1 / 0.99 - 1 / 3) * first.focal
    assert not seen[
        row,
        edge - 4 - round(hidden) - round(2 * 0.2 / 0.99 * first.focal) : edge - 4 - round(2 * 0.2 / 0.99 * first.focal),
    ].all()
    assert seen[row, edge + 1 : 60].all()


def test_pairs_have_enough_in_common_and_cameras_are_as_asked():
    dataset = Rooms(size=37, count=60, baseline=(0.2, 0.5), covisibility=0.6)
    apart = []
    for index in range(30):
        scene, first, second = dataset.pair(index)
        assert rooms.covisible(scene, first, second) > 0.5  # asked for 0.6 of every second row and column
        apart.append(np.linalg.norm(first.place - second.place))
        assert 1.2 <= -first.place[1] <= 1.8
        assert first.focal == pytest.approx(18.5 / np.tan(np.pi / 6))
        for camera in (first, second):
            assert camera.turn @ camera.turn.T == pytest.approx(np.eye(3), abs=1e-9)
    assert max(apart) <= 0.5
    assert np.median(apart) > 0.15


def test_textures_are_those_of_the_part():
    scene, first, _ = small(Rooms).pair(0)
    train, test = (rooms.render(scene, first, part)[0] for part in ("train", "test"))
    assert np.abs(train.astype(float) - test).mean() > 5


@pytest.mark.parametrize(
    "options", [{"size": 8}, {"count": 3}, {"baseline": (0.5, 0.2)}, {"noise": -1}, {"covisibility": 1.0}]
)
def test_impossible_rooms_are_refused(options):
    with pytest.raises(UsageError, match=r"size|count|baseline|noise"):
        Rooms(**options)


# --- stereo


def test_a_nearer_thing_hides_what_is_behind_it_on_the_right():
    disparity = np.full((1, 12), 2.0)
    disparity[0, 6:8] = 5.0  # lands on columns 1 and 2, where the pixels 3 and 4 would
    disparity[0, 10] = np.nan
    seen = stereo.unoccluded(disparity)[0]
    expected = np.ones(12, bool)
    expected[[0, 1, 3, 4, 10]] = False  # outside of the right image, hidden, unknown
    assert np.array_equal(seen, expected)


def test_windows_of_the_parts_are_apart_in_both_photographs():
    for part, allowed in (("train", (0, 0.62 * 741 + 1)), ("test", (0.62 * 741 - 1, 741))):
        dataset = Stereo(size=64, count=400).split(part)
        for index in range(60):
            _, left, side, shift = dataset.window(index)
            assert allowed[0] <= left - shift <= left + side <= allowed[1]


# --- overlaps


@pytest.mark.slow
def test_overlap_is_as_asked_and_the_flow_is_affine():
    for index in range(50):
        rng = seeds.generator(index)
        first, second = overlaps.draw_windows(rng, 300, 400, 64, (0.3, 0.6), 1.3)
        for top, left, side in (first, second):
            assert 0 <= top <= 300 - side + 1e-9
            assert 0 <= left <= 400 - side + 1e-9
        size = 1000
        _, inside = overlaps.shift_of(first, second, size)
        share = inside.mean()
        assert 0.29 < share < 0.61
        assert 1 / 1.3 - 1e-9 <= second[2] / first[2] <= 1.3 + 1e-9
    shift, _ = overlaps.shift_of((10.0, 20.0, 64.0), (4.0, 28.0, 64.0), 64)
    assert shift == pytest.approx(np.broadcast_to([-8.0, 6.0], (64, 64, 2)))


def test_a_folder_of_images_is_cut_too(tmp_path):
    from PIL import Image

    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    dataset = Overlaps(str(tmp_path), size=32, count=20)
    names = [
        {part.name_of(index).rpartition(" of ")[2] for index in range(len(part))}
        for part in (dataset, dataset.split("test"))
    ]
    assert len(names[0]) == 8
    assert len(names[1]) == 2
    assert not names[0] & names[1]
