"""Annotation files: every layout is read, and every defect is named with file and line."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from unlabel.errors import UsageError
from unlabel_trajectory import reading
from unlabel_trajectory.datasets.files import TrackFiles
from unlabel_trajectory.datasets.tracks import cut_file


def rows(agents: int = 12, steps: int = 24, frames: int = 10, speed: float = 0.5) -> np.ndarray:
    """Agents that walk to the right, one above the other: frame, id, x, y."""
    return np.array([[s * frames, a + 1, speed * s, float(a)] for s in range(steps) for a in range(agents)])


def write(path: Path, table: np.ndarray, separator: str = " ", header: str = "") -> Path:
    lines = [separator.join(f"{value:g}" for value in row) for row in table]
    path.write_text("\n".join([header, *lines] if header else lines) + "\n")
    return path


def same(left: TrackFiles, right: TrackFiles) -> bool:
    return np.array_equal(left.windows.positions, right.windows.positions)


def test_text_csv_and_parquet_with_any_column_order_are_the_same_tracks(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    table = rows()
    expected = TrackFiles(write(tmp_path / "a.txt", table))
    turned = table[:, [3, 2, 1, 0]]
    for number, mark in enumerate((",", ";", "\t")):
        found = write(tmp_path / f"b{number}.csv", turned, mark, mark.join(["Y", "X", "track_id", "Time"]))
        assert same(TrackFiles(found), expected)
    named = dict(zip(("north", "east", "who", "when"), turned.T, strict=True))
    parquet.write_table(pyarrow.table(named), tmp_path / "c.parquet")
    columns = {"frame": "when", "agent": "who", "x": "east", "y": "north"}
    assert same(TrackFiles(tmp_path / "c.parquet", **columns), expected)
    shifted = np.concatenate([np.zeros((len(table), 1)), table], axis=1)
    by_number = {"frame": "1", "agent": "2", "x": "3", "y": "4"}
    assert same(TrackFiles(write(tmp_path / "d.txt", shifted), **by_number), expected)


def test_ids_need_not_be_numbers(tmp_path: Path) -> None:
    lines = [f"{s * 0.4:.1f},cyclist {a},{s},{a}" for s in range(20) for a in range(9)]
    (tmp_path / "a.csv").write_text("t,id,x,y\n" + "\n".join(lines))
    found = TrackFiles(tmp_path / "a.csv")
    assert len(found.windows) + len(found.split("test").windows) <= 9
    assert re.fullmatch(r"a: agent cyclist \d from frame 0", found.name_of(0))


BROKEN = {
    "duplicate": (lambda t: np.concatenate([t, t[5:6]]), r"a\.txt:289: agent 6 is already at frame 0 in line 6"),
    "nan": (lambda t: np.where(np.arange(t.size).reshape(t.shape) == 4 * 17 + 2, np.nan, t), r"a\.txt:18: x is nan"),
    "short": (lambda t: t[t[:, 0] < 150], r"a\.txt:1: the longest track without a gap has 15 positions .*needs 20"),
    "single rows": (lambda t: t[:12], r"a\.txt: each of its 12 agents has a single row"),
    "empty": (lambda t: t[:0], r"a\.txt holds no rows"),
    "three columns": (lambda t: t[:, :3], r"a\.txt:1: there is no column '3' for y"),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_defects_are_named_with_file_and_line(tmp_path: Path, defect: str) -> None:
    spoil, message = BROKEN[defect]
    path = write(tmp_path / "a.txt", spoil(rows()))
    with pytest.raises(UsageError, match=message):
        TrackFiles(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [("10 1 zero 2", r"a\.txt:3: x is 'zero', not a number"), ("10 1 2", r"a\.txt:3: 3 columns where")],
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.txt").write_text(f"# a comment\n0 1 0 0\n{line}\n")
    with pytest.raises(UsageError, match=message):
        TrackFiles(tmp_path / "a.txt")


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", rows(), ",", "frame,id,lon,lat")
    with pytest.raises(
        UsageError, match=r"a\.csv:1: no column x or pos_x or x_m for x; the columns are frame, id, lon"
    ):
        TrackFiles(path)
    with pytest.raises(UsageError, match=r"no column long for x; did you mean lon\?"):
        TrackFiles(path, x="long", y="lat")


def test_rows_out_of_order_are_sorted_and_said(tmp_path: Path) -> None:
    table = rows()
    expected = TrackFiles(write(tmp_path / "a.txt", table))
    with pytest.warns(UserWarning, match=r"b\.txt:13: frame 220 stands after a later one of the same agent"):
        found = TrackFiles(write(tmp_path / "b.txt", table[::-1]))
    assert same(found, expected)


def test_agent_after_agent_is_an_order_of_time_too(tmp_path: Path) -> None:
    table = rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = TrackFiles(write(tmp_path / "a.txt", table[np.lexsort((table[:, 0], table[:, 1]))]))
    assert len(found.windows.agents) == 12


def test_jumps_that_nobody_runs_are_warned_of_in_metres_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", rows(speed=12.0))
    with pytest.warns(
        UserWarning, match=r"a\.txt:13: agent 1 moves 12 m in one step \(276 steps are longer than 10 m\)"
    ):
        TrackFiles(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TrackFiles(path, unit="px").unit == "px"


def test_one_agent_trains_without_selection_and_test(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", rows(agents=1, steps=60))
    with pytest.warns(UserWarning, match=r"1 agent\(s\) are too few to hold any out|is none: there is no test part"):
        found = TrackFiles(path)
    assert len(found) == 41
    assert "held_out" not in found.context()
    assert found.split("test") is None
    with (
        pytest.warns(UserWarning, match="there is no test part"),
        pytest.raises(UsageError, match="no test part to select by"),
    ):
        TrackFiles(path, select="test")


def test_an_empty_file_in_a_folder_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", rows())
    (tmp_path / "b.txt").write_text("\n\n")
    with pytest.raises(UsageError, match=r"b\.txt holds no rows"):
        TrackFiles(tmp_path)


def test_the_future_hidden_by_a_challenge_is_no_number(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("0 1 0 0\n10 1 ? ?\n")
    with pytest.raises(UsageError, match=r"a\.txt:2: x is '\?', not a number"):
        TrackFiles(tmp_path / "a.txt")


def test_folders_of_a_split_are_kept_apart(tmp_path: Path) -> None:
    for part, agents in (("train", 30), ("test", 4)):
        (tmp_path / part).mkdir()
        write(tmp_path / part / "a.txt", rows(agents=agents))
    found = TrackFiles(tmp_path, select="none")
    assert len(found) == 5 * 30
    assert len(found.split("test")) == 5 * 4


def test_windows_of_one_agent_are_on_one_side_only(tmp_path: Path) -> None:
    found = TrackFiles(write(tmp_path / "a.txt", rows(agents=50)))
    held_out = {tuple(track[0].tolist()) for track in found.context()["held_out"]}
    test = found.split("test")
    sides = [set(part.windows.agent.tolist()) for part in (found, test)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 10
    assert held_out
    assert len(found) + len(test) + len(found.context()["held_out"]) == 5 * 50


def test_a_file_that_did_not_change_is_read_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", rows())
    first = cut_file(path, 20, scene="a", unit="m")
    assert cut_file(path, 20, scene="a", unit="m") is first
    write(path, rows(agents=13))
    assert len(cut_file(path, 20, scene="a", unit="m")) == 65


@pytest.mark.parametrize(
    ("line", "claimed"), [("0 1 2 3", True), ("t,id,x,y", True), ("a story", False), ("1 2", False), ("", False)]
)
def test_only_rows_of_tracks_are_claimed(tmp_path: Path, line: str, claimed: bool) -> None:
    (tmp_path / "a.txt").write_text(line + "\n")
    assert TrackFiles.claims(tmp_path / "a.txt") is claimed
    assert TrackFiles.claims(tmp_path) is claimed
    assert reading.looks_like_rows(line) is claimed
