"""Pairs from folders and lists: what belongs together is said, guessed where it is plain, and never made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unlabel import Catalog, claims, compose
from unlabel.data import Draw
from unlabel.errors import BadSample, UsageError
from unlabel.session import Session
from unlabel_vision.datasets import pairs
from unlabel_vision.datasets.folder import Folder
from unlabel_vision.datasets.pairs import Pairs
from unlabel_vision.tasks.croco import pair_views


def write(folder: Path, *names: str, size: tuple[int, int] = (48, 40)) -> Path:
    """Images whose colour is told by their name."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, color_of(name)).save(path)
    return folder


def color_of(name: str) -> tuple[int, int, int]:
    value = sum(ord(letter) * (7 + place) for place, letter in enumerate(name))
    return value % 251, value // 3 % 241, 60


def names_of(dataset: Pairs, folder: Path) -> list[tuple[str, str]]:
    parts = [dataset.name_of(index).split(" + ") for index in range(len(dataset))]
    return [tuple(str(Path(part).relative_to(folder)) for part in pair) for pair in parts]


def test_two_folders_side_by_side(tmp_path):
    write(tmp_path, "a/left/1.png", "a/left/2.png", "a/left/4.png", "a/right/1.jpg", "a/right/2.png", "a/right/3.png")
    dataset = Pairs(tmp_path)
    assert names_of(dataset, tmp_path) == [("a/left/1.png", "a/right/1.jpg"), ("a/left/2.png", "a/right/2.png")]
    assert dataset.info()["notes"] == ["2 images belong to no pair and are left out"]
    sample = dataset[1]
    assert tuple(sample["image"][0, 0]) == color_of("a/left/2.png")
    assert tuple(sample["second"][0, 0]) == color_of("a/right/2.png")


def test_folders_may_be_named(tmp_path):
    write(tmp_path, "monday/1.png", "friday/1.png")
    with pytest.raises(UsageError, match="what belongs together is not clear"):
        Pairs(tmp_path)
    assert names_of(Pairs(tmp_path, folders=("monday", "friday")), tmp_path) == [("monday/1.png", "friday/1.png")]


def test_names_that_differ_in_their_ending(tmp_path):
    write(tmp_path, "aloeL.png", "aloeR.jpg", "dollsL.png", "dollsR.png", "lonely.png")
    assert names_of(Pairs(tmp_path), tmp_path) == [("aloeL.png", "aloeR.jpg"), ("dollsL.png", "dollsR.png")]
    other = write(tmp_path / "other", "x-before.png", "x-after.png")
    assert len(Pairs(other, endings=("-before", "-after"))) == 1


def test_numbered_frames_are_no_pairs_unless_neighbours_are_asked_for(tmp_path):
    write(tmp_path, *(f"IMG_{number}.png" for number in (9, 10, 11, 12, 21, 22)))
    with pytest.raises(UsageError, match=r"0 of 6 images .*neighbours=1"):
        Pairs(tmp_path)
    found = names_of(Pairs(tmp_path, neighbours=2), tmp_path)
    assert found[:3] == [("IMG_9.png", "IMG_10.png"), ("IMG_9.png", "IMG_11.png"), ("IMG_10.png", "IMG_11.png")]
    assert len(found) == 5 + 4


@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_a_list_says_what_belongs_together(tmp_path, separator):
    write(tmp_path, "x/1.png", "y/7.png", "3.png")
    lines = ["# two views", "first,second", f"x/1.png{separator}y/7.png", "", f"3.png{separator}x/1.png"]
    (tmp_path / "some.txt").write_text("\n".join(lines if separator == "," else [lines[0], *lines[2:]]))
    dataset = Pairs(tmp_path / "some.txt")
    assert names_of(dataset, tmp_path) == [("x/1.png", "y/7.png"), ("3.png", "x/1.png")]


def test_a_list_may_name_files_from_the_root(tmp_path):
    write(tmp_path, "x/1.png", "y/7.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/mine.csv").write_text(f"{tmp_path}/x/1.png,../y/7.png\n")
    sample = Pairs(tmp_path / "lists/mine.csv")[0]
    assert tuple(sample["image"][0, 0]) == color_of("x/1.png")
    assert tuple(sample["second"][0, 0]) == color_of("y/7.png")


def test_a_bad_line_is_named(tmp_path):
    (tmp_path / "pairs.csv").write_text("a.png,b.png\nc.png\n")
    with pytest.raises(UsageError, match=r"pairs.csv, line 2: expected two paths .* got 'c.png'"):
        Pairs(tmp_path)
    (tmp_path / "pairs.csv").write_text("# nothing\n")
    with pytest.raises(UsageError, match="holds no pairs"):
        Pairs(tmp_path)


def test_paths_that_are_not_there_or_hold_nothing_are_explained(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        Pairs(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"no images in .*: give a list of pairs"):
        Pairs(tmp_path)


def test_only_what_is_plainly_pairs_is_claimed(tmp_path):
    plain = write(tmp_path / "plain", "left/1.png", "right/1.png")
    classes = write(tmp_path / "classes", "a/1.png", "b/1.png", "1/1.png", "2/1.png")
    frames = write(tmp_path / "frames", "f_1.png", "f_2.png")
    assert Pairs.claims(plain)
    assert not Pairs.claims(classes)
    assert not Pairs.claims(frames)
    (frames / "pairs.txt").write_text("f_1.png f_2.png\n")
    assert Pairs.claims(frames)
    assert Pairs.claims(frames / "pairs.txt")
    (tmp_path / "notes.txt").write_text("see a.png b.png\n")
    assert not Pairs.claims(tmp_path / "notes.txt")
    catalog = Catalog.installed()
    recipe = compose.compose("vision/croco", catalog, name="tiny")
    assert claims.dataset_ref(str(plain), recipe, catalog).name == "vision/pairs"
    assert claims.dataset_ref(str(classes), recipe, catalog).name == "vision/folder"
    assert len(Folder(classes)) == 4


def test_a_bad_file_makes_one_bad_pair_that_says_which_view(tmp_path):
    write(tmp_path, "left/1.png", "right/1.png", "left/2.png", "right/2.png", "left/3.png", "right/3.png")
    whole = (tmp_path / "right/2.png").read_bytes()
    (tmp_path / "right/2.png").write_bytes(whole[: len(whole) // 2])
    dataset = Pairs(tmp_path)
    with pytest.raises(BadSample, match=r"second view, .*right/2.png: truncated PNG"):
        dataset[1]
    (tmp_path / "left/3.png").unlink()
    with pytest.raises(BadSample, match=r"first view, .*left/3.png: FileNotFoundError"):
        dataset[2]
    with pytest.raises(BadSample, match="smaller than min_size=64"):
        Pairs(tmp_path, min_size=64)[0]


def test_a_run_sets_a_bad_pair_aside_as_one(tmp_path):
    write(tmp_path / "data", *(f"{side}/{number:02}.png" for side in ("left", "right") for number in range(20)))
    (tmp_path / "data/left/07.png").write_bytes(b"")
    (tmp_path / "data/right/07.png").write_bytes(b"")
    catalog = Catalog.installed()
    recipe = compose.compose("vision/croco", catalog, name="tiny", data=str(tmp_path / "data"), steps=4, batch_size=20)
    recipe = compose.with_overrides(recipe, ["max_bad=0.1", "execution.device=cpu", "monitor_every=1000"], catalog)
    Session(recipe, tmp_path / "run", catalog, evaluate=False, quiet=True).run()
    [line] = (tmp_path / "run/quarantine.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["path"].endswith("left/07.png + " + str(tmp_path / "data/right/07.png"))
    assert "first view" in record["reason"]
    assert "empty file" in record["reason"]


def test_held_out_pairs_share_no_image_with_those_that_train(tmp_path):
    write(tmp_path, *(f"IMG_{number}.png" for number in range(10)))
    dataset = Pairs(tmp_path, neighbours=1, holdout=0.3)
    train, test = dataset.split("train"), dataset.split("test")
    assert len(test) == 3
    used = [
        {name for index in part.indices for name in dataset.name_of(int(index)).split(" + ")} for part in (train, test)
    ]
    assert not used[0] & used[1]
    assert len(train) == 5
    assert Pairs(tmp_path, neighbours=1).split("test") is None


def test_views_of_several_sizes_train_single_image_tasks_by_their_first(tmp_path):
    write(tmp_path, "left/1.png", "right/1.png")
    write(tmp_path, "left/2.png", "right/2.png", size=(48, 64))
    dataset = Pairs(tmp_path)
    samples = [{**dataset[index], "image": np.zeros((8, 8, 3), np.uint8)} for index in range(2)]
    assert set(dataset.collate(samples)) == {"image"}
    crop = pair_views.PairCrop(16)
    cut = [crop(dataset[index], Draw(np.random.default_rng(index))) for index in range(2)]
    assert dataset.collate(cut)["view2"].shape == (2, 16, 16, 3)


def test_shared_photographs_are_pairs(shared):
    folder = shared / "data/multiview"
    names = [path.name for path in folder.glob("*.jpg")]
    assert ("aloeL.jpg", "aloeR.jpg") in pairs.by_ending(names, [("L", "R")])
    assert len(Pairs(folder / "monstree", neighbours=1)) == 22
    sample = Pairs(folder / "monstree", neighbours=1)[0]
    crop = pair_views.PairCrop(64, window=(0.4, 0.8))(sample, Draw(np.random.default_rng(0)))
    assert {name: view.shape for name, view in crop.items()} == {"view1": (64, 64, 3), "view2": (64, 64, 3)}


# --- views of pairs


def test_windows_lie_at_the_same_place_of_images_of_different_sizes():
    def ramp(height: int, width: int) -> np.ndarray:
        y, x = np.linspace(0, 250, height), np.linspace(0, 250, width)
        return np.stack(np.broadcast_arrays(y[:, None], x[None], np.float64(0)), axis=-1).astype(np.uint8)

    crop = pair_views.PairCrop(32, window=(0.3, 0.9))
    for index in range(20):
        views = crop({"image": ramp(200, 300), "second": ramp(100, 150)}, Draw(np.random.default_rng(index)))
        middles = [view.reshape(-1, 3).mean(0)[:2] for view in views.values()]
        # each crop is shifted by itself within a window that is an eighth larger
        assert np.abs(middles[0] - middles[1]).max() < 250 / 8


def test_central_views_keep_what_is_known_in_place():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    depth = np.arange(120, dtype=np.float32).reshape(12, 10)
    sample = {"image": image, "second": image + 1, "depth": depth, "rotation": np.eye(3)}
    cut = pair_views.CentralPair(8)(sample, Draw(rng))
    assert np.array_equal(cut["image"], image[2:10, 1:9])
    assert np.array_equal(cut["depth"], depth[2:10, 1:9])
    assert np.array_equal(cut["rotation"], np.eye(3))
    with pytest.raises(UsageError, match="smaller than the encoder's 16"):
        pair_views.CentralPair(16)(sample, Draw(rng))
    alone = pair_views.CentralPair(8)({"image": image}, Draw(rng))
    assert alone["image"].shape == (8, 8, 3)


def test_a_file_that_is_no_text_is_no_list(tmp_path):
    write(tmp_path, "1.png")
    with pytest.raises(UsageError, match=r"1\.png is no text: expected a list of pairs"):
        Pairs(tmp_path / "1.png")
