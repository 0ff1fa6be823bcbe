"""What can be shown: checked when made, kept in part, written without pickle and read back."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlabel.show import files, limits, media
from unlabel.show.media import Clip, Mark, Media, Picture, Sound, Table, Text

FRAME = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
WAVE = np.sin(np.arange(800, dtype=np.float32) / 9)
EVERY: dict[str, Media] = {
    "a/picture": Picture(FRAME, "as it is"),
    "clip": Clip(np.stack([FRAME, 255 - FRAME]), 2.5),
    "mono": Sound(WAVE, 8000),
    "stereo": Sound(np.stack([WAVE, -WAVE]), 8000, "both ears"),
    "text": Text(["plain", ["a ", Mark("cat", "dog", 0.3), " sat"], "", [Mark("漢字")]], "masked"),
    "table": Table(["word", "count", "share", "rare"], [["the", 12, 0.5, False], ["ox", 1, None, True]], "words"),
}


def same(left: Media, right: Media) -> bool:
    if isinstance(left, Text | Table):
        return left == right
    assert type(left) is type(right)
    one, other = vars(left), vars(right)
    # 16 bits of a sound are kept
    return all(np.allclose(one[k], other[k], atol=2e-5) if isinstance(one[k], np.ndarray) else one[k] == other[k]
               for k in one)  # fmt: skip


# Checked


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Picture(np.zeros((4, 4, 3))), r"float64 \(4, 4, 3\), expected a uint8 array \(H, W, 3\)"),
        (lambda: Picture(np.zeros((4, 4), np.uint8)), r"uint8 \(4, 4\), expected a uint8 array"),
        (lambda: Picture(np.zeros((0, 4, 3), np.uint8)), r"uint8 \(0, 4, 3\), expected"),
        (lambda: Picture("x.png"), "str, expected a uint8 array"),
        (lambda: Picture(FRAME, 3), "a caption of int, expected a str"),
        (lambda: Clip(FRAME, 5.0), r"uint8 \(4, 5, 3\), expected a uint8 array \(T, H, W, 3\)"),
        (lambda: Clip(FRAME[None], 0), "a clip of 0 pictures a second"),
        (lambda: Clip(FRAME[None], float("nan")), "a clip of nan pictures a second"),
        (lambda: Sound(WAVE.astype(np.float64), 8000), r"float64 \(800,\), expected a float32 array"),
        (lambda: Sound(2 * WAVE, 8000), r"reaches 2, expected samples within \[-1, 1\]"),
        (lambda: Sound(WAVE * np.float32("nan"), 8000), "reaches nan"),
        (lambda: Sound(WAVE[None, None], 8000), r"float32 \(1, 1, 800\)"),
        (lambda: Sound(WAVE.reshape(80, 10), 8000), r"shape \(80, 10\), expected samples, in at most 8 channels"),
        (lambda: Sound(WAVE, 0), "a sound of 0 samples a second"),
        (lambda: Sound(WAVE, 0.5), "a sound of 0.5 samples a second"),
        (lambda: Text(3), "a text of int"),
        (lambda: Text(["a", 3]), "a line of int"),
        (lambda: Text([["a", 3]]), "a line of list"),
        (lambda: Mark("a", strength=0), r"a mark of strength 0 is outside \(0, 1\]"),
        (lambda: Mark(3), "a mark of int"),
        (lambda: Table([], []), r"a table with the columns \[\]"),
        (lambda: Table("ab", []), "a table with the columns 'ab'"),
        (lambda: Table(["a", "b"], [[1, 2], [3]]), "row 1 of a table has 1 cells, expected 2"),
        (lambda: Table(["a"], [[{}]]), "a cell of dict"),
        (lambda: media.checked([FRAME]), r"show\(\) returned list, expected a dict"),
        (lambda: media.checked({"seen": FRAME[0]}), r"'seen' is uint8 \(5, 3\), expected"),
        (lambda: media.checked({"seen": "a text"}), "'seen' is str, expected a Picture, Text, Sound, Clip or Table"),
    ],
)
def test_what_cannot_be_shown_is_refused_and_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_numbers_of_numpy_are_numbers() -> None:
    table = Table(["n", "x"], [[np.int64(3), np.float32(0.5)]])
    assert table.rows == ((3, 0.5),)
    assert Sound(WAVE, np.int64(8000)).rate == 8000
    assert isinstance(media.of(FRAME), Picture)


# Kept


@pytest.mark.parametrize("name", EVERY)
def test_what_is_small_is_kept_whole(name: str) -> None:
    assert same(limits.limited(EVERY[name]), EVERY[name])


def test_what_is_cut_is_said() -> None:
    picture = limits.limited(Picture(np.zeros((3000, 2000, 3), np.uint8), "large"))
    assert isinstance(picture, Picture)
    assert (picture.array.shape, picture.caption) == ((750, 500, 3), "large; 500 x 750 of 2000 x 3000")

    frames = np.arange(33, dtype=np.uint8)[:, None, None, None] + np.zeros((33, 400, 320, 3), np.uint8)
    clip = limits.limited(Clip(frames, 32.0))
    assert isinstance(clip, Clip)
    assert clip.array.shape == (8, 100, 80, 3)
    assert clip.array[:, 0, 0, 0].tolist() == [0, 5, 9, 14, 18, 23, 27, 32], "first and last, and evenly between"
    assert clip.rate == 7.0, "a second still takes a second"
    assert clip.caption == "8 of 33 pictures; 80 x 100 of 320 x 400"

    sound = limits.limited(Sound(np.zeros((4, 80_000), np.float32), 8000))
    assert isinstance(sound, Sound)
    assert sound.samples.shape == (2, 48_000)
    assert sound.caption == "the first 6 of 10 s; 2 of 4 channels"

    text = limits.limited(Text([["word " * 500, Mark("word " * 500)], "never"]))
    assert isinstance(text, Text)
    assert len(text.plain) == 4000
    assert isinstance(text.lines[0][1], Mark)
    assert text.caption == "the first 4,000 of 5,006 characters"
    assert limits.limited(Text(["x"] * 100)).caption == "the first 119 of 199 characters"

    table = limits.limited(Table(["c"] * 30, [["y" * 300] * 30] * 70))
    assert isinstance(table, Table)
    assert (len(table.columns), len(table.rows), len(str(table.rows[0][0]))) == (20, 50, 200)
    assert table.caption == "the first 50 of 70 rows; the first 20 of 30 columns"


# Written and read


def test_every_kind_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "stage00-update00000001.npz"
    files.write(path, EVERY)
    back = files.read(path)
    assert list(back) == list(EVERY)
    assert all(same(back[name], EVERY[name]) for name in EVERY)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    again = tmp_path / "pictures" / "again.npz"
    files.write(again, EVERY)
    assert again.read_bytes() == path.read_bytes()


def test_what_json_and_utf_8_cannot_hold_is_written_as_text(tmp_path: Path) -> None:
    path = tmp_path / "pictures" / "odd.npz"
    shown = {"\ud800name": Text("lone \udfff\x00\x1b[31m"), "t": Table(["\ud800"], [[float("nan")], [2**70]])}
    files.write(path, shown)
    name, text = next(iter(files.read(path).items()))
    assert (name, text.plain) == ("?name", "lone ?  [31m")  # type: ignore[union-attr]
    assert files.read(path)["t"] == Table(["?"], [["nan"], [str(2**70)]])


def test_files_of_version_0_1_are_read(tmp_path: Path) -> None:
    path = tmp_path / "stage00-update00000001.npz"
    np.savez_compressed(path, **{"seen": FRAME, "sub/other": 255 - FRAME})
    back = files.read(path)
    assert list(back) == ["seen", "sub/other"]
    assert same(back["sub/other"], Picture(255 - FRAME))


def entries(path: Path, content: Any, **arrays: np.ndarray) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("show.json", content if isinstance(content, str) else json.dumps(content))
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "3",
        "[3]",
        "[{}]",
        [{"name": "x", "kind": "Film", "caption": ""}],
        [{"name": "x", "kind": "Picture", "caption": ""}],
        [{"name": "x", "kind": "Text", "caption": "", "lines": 3}],
        [{"name": "x", "kind": "Text", "caption": "", "lines": [[["a", "b", "c", "d"]]]}],
        [{"name": "x", "kind": "Table", "caption": "", "columns": ["a"], "rows": [[1, 2]]}],
        [{"name": "x", "kind": "Table", "caption": [], "columns": ["a"], "rows": []}],
    ],
)
def test_a_list_of_something_else_is_an_error_that_names_the_file(tmp_path: Path, content: Any) -> None:
    with pytest.raises(ValueError, match=r"^odd.npz cannot be read"):
        files.read(entries(tmp_path / "odd.npz", content))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"\x80\x04not a picture"])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "torn.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^torn.npz cannot be read"):
        files.read(path)


def test_arrays_of_something_else_are_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    picture = [{"name": "x", "kind": "Picture", "caption": ""}]
    for array in (np.zeros((4, 4), np.float32), np.array([print], dtype=object)):
        with pytest.raises(ValueError, match="cannot be read"):
            files.read(entries(tmp_path / "odd.npz", picture, **{"0": array}))
    np.savez(tmp_path / "old.npz", seen=np.zeros((4, 4), np.float32))
    with pytest.raises(ValueError, match=r"old.npz cannot be read \(float32 \(4, 4\)"):
        files.read(tmp_path / "old.npz")


@pytest.mark.slow
def test_a_file_that_unpacks_to_very_much_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("show.json", " " * (1 << 27))
    with pytest.raises(ValueError, match=r"show.json holds 134,217,728 bytes"):
        files.read(path)
