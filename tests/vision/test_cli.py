"""What a practitioner with a folder of images sees, right and wrong."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from commandline import Answer, unlabel
from PIL import Image


@pytest.fixture(autouse=True)
def _vision_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABEL_PLUGINS", "vision")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos of two classes, and things that are none."""
    monkeypatch.chdir(tmp_path)
    for number in range(24):
        folder = tmp_path / "photos" / ("cats" if number % 2 else "dogs")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (tmp_path / "void").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("buy milk")
    return tmp_path


def train(*words: object, task: str = "vision/mae") -> Answer:
    usual = ("--recipe", "tiny", "--steps", 2, "--batch-size", 8, "--no-evaluate", "--out", "new")
    return unlabel("train", task, "--data", "photos", *usual, *words)


WRONG = {
    "--data fotos": "--data fotos: there is no such path, and no dataset of that name; did you mean photos",
    "--data void": r"void is none of vision/folder, .*vision/webdataset: the folder is empty",
    "--data notes": r"notes is none of vision/folder, .*: the folder holds .txt \(1\)",
    "--data notes/todo.txt": "it is a .txt file of 1 kB",
    "--data vision/folders": "did you mean vision/folder",
    "--encoder vision/resnet": "vision/mae .* cannot do; what fits: --encoder vision/vit, .* or a timm",
    "--encoder vision/timm:test_convnext": "vision/mae .* cannot do; what fits",
    "--encoder vision/timm:resnet5": "timm has no model 'resnet5'; did you mean resnet",
    "--encoder vision/timm": "vision/timm needs encoder.name: give it with --encoder vision/timm:VALUE",
    "--set encoder.image_size=4": "encoder.image_size=4 is not a multiple of patch_size=8; 8 is",
    "--set encoder.image_size=30": "encoder.image_size=30 is not a multiple of patch_size=8; 32 is",
    "--set encoder.heads=5": "encoder.dim=32 must be a multiple of 4 and of heads=5",
    "--set task.mask_ratio=1.2": r"mask ratio 1.2 is outside \(0, 1\)",
    "--set task.mask_ratio=0.999": "mask ratio 0.999 ",
    "--set task.position_order=zy": "task.position_order: should be 'xy' or 'yx', not 'zy'",
    "--batch-size 25": "batch size 25 is larger than the 20 training samples: use --batch-size 20 or less",
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_options_are_explained_before_anything_is_written(words: str, here: Path) -> None:
    answer = train(*shlex.split(words))

    assert answer.code == 2
    assert re.search(WRONG[words], answer.err), answer.err
    assert answer.err.startswith("error: ")
    assert answer.err.count("\n") == 1, answer.err
    assert not (here / "new").exists()


def test_a_folder_of_images_is_trained_on_and_found_again_from_elsewhere(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = train()
    assert answer.code == 0
    assert "data    vision/folder: 20 training samples" in answer.err
    assert f"unlabel embed new --data {here}/photos --out features.npz" in answer.err

    monkeypatch.chdir(here / "void")
    assert unlabel("embed", here / "new", "--data", here / "photos", "--out", "features.npz").out.startswith(
        "24 samples, 32 numbers"
    )
    with np.load("features.npz") as found:
        assert all(Path(name).is_file() for name in found["names"])
        assert all(
            (label == 0) == ("cats" in name) for name, label in zip(found["names"], found["labels"], strict=True)
        )


@pytest.mark.slow
def test_unreadable_images_are_set_aside_named_and_left_out_of_the_features(here: Path) -> None:
    for number in range(3):
        image = (here / "photos" / "cats" / "1.png").read_bytes()
        (here / "photos" / "cats" / f"cut{number}.png").write_bytes(image[: 60 + number])

    answer = train("--steps", 6, "--max-bad", 0.5)

    assert answer.code == 0
    listed = {json.loads(line)["path"] for line in (here / "new" / "quarantine.jsonl").read_text().splitlines()}
    assert listed == {str(here / "photos" / "cats" / f"cut{number}.png") for number in range(3)} & listed
    assert listed
    assert "set aside: " in answer.err
    embedded = unlabel("embed", "new", "--data", "photos", "--out", "features.npz")
    assert embedded.out == "24 samples, 32 numbers each: features.npz; 3 unreadable left out\n"
    with np.load("features.npz") as found:
        assert not any("cut" in name for name in found["names"])
        assert len(found["names"]) == len(found["features"]) == len(found["labels"]) == 24


def test_too_many_unreadable_images_stop_the_run_with_a_way_on(here: Path) -> None:
    for path in list((here / "photos" / "cats").iterdir())[:6]:
        path.write_bytes(b"")

    answer = train("--steps", 6)

    assert answer.code == 1
    assert re.search(
        r"error: \d of 20 samples cannot be used, more than --max-bad 0.01 allows; the last: .*: empty file", answer.err
    )
    assert answer.err.endswith("continue with: unlabel resume new\n")


def test_inspect_counts_names_and_broken_files(here: Path) -> None:
    (here / "photos" / "cats" / "1.png").write_bytes(b"<html>")

    found = json.loads(unlabel("inspect", "photos", "--json").out)

    assert (found["dataset"], found["samples"], found["classes"]) == ("vision/folder", 24, {"cats": 12, "dogs": 12})
    assert [Path(entry["path"]).name for entry in found["broken"]] == ["1.png"]
    text = unlabel("inspect", "photos").out
    assert "samples: 24" in text
    assert "1.png: not an image: an HTML page" in text


def test_show_prints_paper_idea_keywords_encoders_and_recipes() -> None:
    text = unlabel("show", "vision/mae").out

    for expected in (
        "MAE: hide three quarters of the patches",
        "2021, arXiv 2111.06377",
        "mask_ratio: float = 0.75\n      share of the patches to remove, in (0, 1).",
        "position_order: 'xy' | 'yx' = 'xy'",
        "encoders\n  vision/crate, vision/eva_vit, vision/rope_vit, vision/timm, vision/vit\n",
        "recipe paper  (data: vision/folder)\n  ViT-B/16, 800 epochs: 67.8 % linear probe",
        "recipe tiny",
    ):
        assert expected in text


@pytest.mark.slow
def test_every_name_of_the_plugin_can_be_shown() -> None:
    listing = json.loads(unlabel("list", "--json").out)

    for kind, entries in listing.items():
        for entry in entries:
            assert entry["summary"], entry["name"]
            shown = json.loads(unlabel("show", entry["name"], "--json").out)
            assert shown["kind"] + "s" == kind
            assert all(keyword["meaning"] for keyword in shown["keywords"]), entry["name"]
            if kind == "tasks":
                assert re.fullmatch(r"\d{4}\.\d{4,5}", entry["arxiv"])
                assert {"paper", "quick", "tiny"} <= set(shown["recipes"])
                assert all(name.startswith("paper_") for name in shown["recipes"].keys() - {"paper", "quick", "tiny"})
                assert all(recipe["document"] for recipe in shown["recipes"].values())
