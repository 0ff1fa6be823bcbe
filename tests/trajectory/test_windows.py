"""Windows: the counts and figures of the usual protocol, found again on the benchmark's own files."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from unlabel import Catalog, claims
from unlabel.errors import UsageError
from unlabel_trajectory import forecasting, windows
from unlabel_trajectory.datasets.eth_ucy import EthUcy
from unlabel_trajectory.datasets.files import TrackFiles
from unlabel_trajectory.datasets.sdd import SDD
from unlabel_trajectory.datasets.tracks import TrackDataset
from unlabel_trajectory.evaluations.forecast import measure
from unlabel_trajectory.windows import Windows

# scene -> test windows, training windows, constant velocity's ADE and FDE in metres
PROTOCOL = {
    "eth": (364, 36906, 1.076, 2.282),
    "hotel": (1197, 36073, 0.319, 0.614),
    "univ": (24334, 12936, 0.524, 1.165),
    "zara1": (2356, 34914, 0.427, 0.952),
    "zara2": (5910, 31360, 0.324, 0.724),
}


@cache
def drones(folder: Path) -> SDD:
    with warnings.catch_warnings(action="ignore"):  # a few annotations of it do jump
        return SDD(folder, select="none")


def still(test: TrackDataset) -> dict[str, float]:
    """Errors of the last step repeated."""
    track = test.table()["track"].double()
    return measure(forecasting.constant_velocity(track[:, :8], 12), track[:, 8:])


@pytest.mark.parametrize("scene", PROTOCOL)
def test_window_counts_and_constant_velocity_are_the_protocols(shared: Path, scene: str) -> None:
    testing, training, ade, fde = PROTOCOL[scene]
    data = EthUcy(shared / "data/eth_ucy", scene=scene, select="none")
    test = data.split("test")
    assert len(test) == testing
    assert len(data) == training
    found = still(test)
    assert found["min_ade"] == pytest.approx(ade, abs=6e-4)  # the figures have three digits
    assert found["min_fde"] == pytest.approx(fde, abs=6e-4)
    assert set(test.scenes) == {scene}
    assert scene not in data.scenes


def test_holding_out_takes_whole_agents_from_training_only(shared: Path) -> None:
    whole = EthUcy(shared / "data/eth_ucy", scene="hotel", select="none")
    held = EthUcy(shared / "data/eth_ucy", scene="hotel")
    chosen = EthUcy(shared / "data/eth_ucy", scene="hotel", select="test")
    assert 0.85 * len(whole) < len(held) < 0.95 * len(whole)
    assert len(whole) == len(chosen)
    assert len(held.split("test")) == len(chosen.split("test")) == 1197
    keep, out = windows.by_agent(whole.windows, 0.1, 0xE1)
    assert not set(whole.windows.agent[keep]) & set(whole.windows.agent[out])
    assert not held.selected_on_test
    assert chosen.split("test").selected_on_test
    test_tracks = {bytes(track.numpy()) for track in chosen.split("test").table()["track"]}
    assert {bytes(track.numpy()) for track in chosen.context()["held_out"]} <= test_tracks
    assert not {bytes(track.numpy()) for track in held.context()["held_out"] if track.abs().sum() > 1} & test_tracks


@pytest.mark.slow
def test_the_drones_tracks_are_pixels(shared: Path) -> None:
    data = drones(shared / "data/sdd")
    test = data.split("test")
    assert (len(data), len(test)) == (8494, 2829)
    found = still(test)
    assert found["min_ade"] == pytest.approx(19.74, abs=5e-3)
    assert found["min_fde"] == pytest.approx(40.05, abs=5e-3)
    doubled = 2 * data.windows.positions
    on_grid = np.abs(doubled - np.round(doubled)) < 1e-3
    assert on_grid.mean() > 0.9  # half pixels; a few positions were interpolated by those who made the split
    assert data.unit == test.unit == "px"
    assert np.abs(np.diff(data.windows.positions, axis=1)).mean() == pytest.approx(5.36, abs=5e-3)


def test_the_drones_without_their_scales(shared: Path, tmp_path: Path) -> None:
    for part in ("train", "test"):
        folder = tmp_path / part / "stanford"
        folder.mkdir(parents=True)
        (folder / "little_0.txt").write_bytes((shared / "data/sdd/test/little_0.txt").read_bytes())
    assert SDD.claims(tmp_path)
    with pytest.raises(UsageError, match=r"H_SDD\.txt cannot be read.*--set dataset\.unit=m keeps metres"):
        SDD(tmp_path)
    assert SDD(tmp_path, unit="m").unit == "m"
    (tmp_path / "H_SDD.txt").write_text("File\tVersion\tRatio\ngates_0.jpg\tx\tx\tA\t0.04\n")
    with pytest.raises(UsageError, match=r"little_0\.txt: H_SDD\.txt has no scale for the scene 'little_0'"):
        SDD(tmp_path)


def test_a_missing_file_is_named(shared: Path, tmp_path: Path) -> None:
    for path in sorted((shared / "data/eth_ucy").glob("*.txt"))[:-1]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert EthUcy.claims(tmp_path)
    with pytest.raises(UsageError, match=r"uni_examples\.txt is missing.*some of them alone are trajectory/tracks"):
        EthUcy(tmp_path)


@pytest.mark.parametrize(
    ("place", "name"), [("eth_ucy", "eth_ucy"), ("sdd", "sdd"), ("eth_ucy/crowds_zara01.txt", "tracks")]
)
def test_a_path_finds_its_data_set(shared: Path, place: str, name: str) -> None:
    offers = [offer for offer in Catalog.installed().offers("datasets") if offer.plugin == "trajectory"]
    assert claims.claimant(shared / "data" / place, offers).name == f"trajectory/{name}"


def reference(table: np.ndarray, length: int, step: float) -> list[tuple[float, float]]:
    """(frame, agent) of every window, by a loop over all frames and agents, from the definition."""
    seen = {(row[0], row[1]) for row in table}
    return sorted(
        (frame, agent) for frame, agent in seen if all((frame + step * k, agent) in seen for k in range(length))
    )


def test_windows_are_those_of_the_definition(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    table = np.array([[f * 10, a, draw.normal(), draw.normal()] for f in range(40) for a in range(7)])
    table = table[draw.random(len(table)) > 0.07]
    (tmp_path / "a.txt").write_text("\n".join(" ".join(map(str, row)) for row in table))
    found = TrackFiles(tmp_path / "a.txt", observed=3, future=4, holdout=0.0, select="none").windows
    names = [float(found.agents[agent]) for agent in found.agent]
    assert list(zip(found.frame, names, strict=True)) == reference(table, 7, 10)
    rows = {(row[0], row[1]): row[2:] for row in table}
    for window, frame, agent in zip(found.positions, found.frame, names, strict=True):
        assert np.array_equal(window, [rows[frame + 10 * k, agent] for k in range(7)])
    every_third = TrackFiles(tmp_path / "a.txt", observed=3, future=4, stride=3, holdout=0.0, select="none").windows
    assert set(zip(every_third.frame, every_third.agent, strict=True)) < set(zip(found.frame, found.agent, strict=True))


def test_coordinates_far_from_zero_keep_their_digits(tmp_path: Path) -> None:
    """UTM coordinates: half a million metres, of which float32 keeps three centimetres."""
    lines = [f"{s} {a} {500000 + 0.01 * s:.2f} {5000000 + a}" for s in range(20) for a in range(10)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    track = TrackFiles(tmp_path / "a.txt", holdout=0.0, select="none").table()["track"]
    expected = (torch.arange(20) - 7) * 0.01
    assert torch.allclose(track[:, :, 0], expected.expand(10, 20), atol=1e-6)


def test_tracks_of_a_file_have_no_labels(tmp_path: Path) -> None:
    """Nobody says what an agent is or wants; labels made up from where it goes would be the answer of a forecast."""
    lines = [f"{s} {a} {0.4 * s} {a}" for s in range(24) for a in range(10)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    dataset = TrackFiles(tmp_path / "a.txt", holdout=0.2)
    for part in (dataset, dataset.split("test")):
        assert part.labels is None
        assert part.classes is None
        assert "label" not in part[0]
        assert "classes" not in part.info()


def test_windows_of_two_units_are_not_joined() -> None:
    parts = [
        Windows(np.zeros((1, 2, 2)), np.zeros(1, int), np.zeros(1, int), np.zeros(1), (name,), ("a",), unit)
        for name, unit in (("s", "m"), ("t", "px"))
    ]
    with pytest.raises(UsageError, match="windows in m and px cannot be one data set"):
        windows.join(parts)
