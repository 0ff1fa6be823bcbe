"""The evaluation, the simulated crowd, and the command line from data to table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import unlabel
from torch import Tensor, nn

from unlabel import Frozen, Run, Task
from unlabel.engine import Engine
from unlabel.errors import UsageError
from unlabel_trajectory import forecasting
from unlabel_trajectory.datasets.crowd import BEHAVIOURS, Crowd, simulate
from unlabel_trajectory.datasets.eth_ucy import EthUcy
from unlabel_trajectory.datasets.files import TrackFiles
from unlabel_trajectory.encoders.gpt import TrackGPT
from unlabel_trajectory.evaluations.forecast import forecast
from unlabel_trajectory.tasks.destination import Destination
from unlabel_trajectory.tasks.next_position import NextPosition

CPU = Engine("cpu", "fp32")


class Straight(Task):
    """Forecasts with the last step repeated, and one candidate that is far off."""

    observed = 8

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Identity()

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        return batch["track"].flatten(1)

    def forecast(self, past: Tensor) -> Tensor:
        assert past.shape[1:] == (8, 2), "the future is not shown"
        straight = forecasting.constant_velocity(past, 12)
        return torch.cat([straight + 100, straight], dim=1)


def crowd() -> Crowd:
    return Crowd(scenes=6, agents=12, seconds=16.0)


@pytest.mark.slow
def test_figures_are_those_of_the_test_part_in_its_unit(shared: Path) -> None:
    data = EthUcy(shared / "data/eth_ucy", scene="zara1")
    found = forecast(Frozen(Straight(), data, CPU))
    assert found["min_ade_m"] == found["constant_velocity_ade_m"] == pytest.approx(0.427, abs=6e-4)
    assert found["min_fde_m"] == found["constant_velocity_fde_m"] == pytest.approx(0.952, abs=6e-4)
    assert found["ade_of_best_fde_m"] == pytest.approx(found["min_ade_m"])
    assert found["candidates"] == 2
    assert found["selected_on_test"] == 0
    assert not any("/" in name for name in found), "one scene needs no average"
    limited = forecast(Frozen(Straight(), data, CPU), limit=100)
    assert limited["min_ade_m"] != found["min_ade_m"]
    chosen = EthUcy(shared / "data/eth_ucy", scene="zara1", select="test")
    assert forecast(Frozen(Straight(), chosen, CPU), limit=10)["selected_on_test"] == 1


def test_scenes_are_averaged_as_scenes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        for name, agents, bend in (("a", 3, 0.0), ("b", 9, 0.05)):
            rows = [f"{s} {a} {0.4 * s} {a + bend * s * s}" for s in range(20) for a in range(agents)]
            (tmp_path / part / f"{name}.txt").write_text("\n".join(rows))
    found = forecast(Frozen(Straight(), TrackFiles(tmp_path, unit="px", select="none"), CPU))
    assert found["a/min_ade_px"] == pytest.approx(0, abs=1e-5)
    bent = found["b/min_ade_px"]
    assert found["min_ade_px"] == pytest.approx(bent * 9 / 12, rel=1e-5)
    assert found["scenes_average/min_ade_px"] == pytest.approx(bent / 2, rel=1e-5)
    assert bent == pytest.approx(np.mean([0.05 * (k * k + k) for k in range(1, 13)]), rel=1e-5)


def test_what_cannot_forecast_is_refused() -> None:
    class Silent(Task):
        def encode(self, batch: dict[str, Tensor]) -> Tensor:
            return batch["track"].flatten(1)

    with pytest.raises(UsageError, match="Silent cannot forecast; trajectory/ppt can"):
        forecast(Frozen(Silent(), crowd(), CPU))


def test_stages_alone_forecast_too() -> None:
    encoder = TrackGPT(dim=16, depth=1, hidden=24).eval()
    track = crowd().table()["track"][:7]
    rolled = NextPosition(encoder).eval().forecast(track[:, :8])
    assert rolled.shape == (7, 1, 12, 2)
    straight = Destination(encoder, head_dim=8).eval().forecast(track[:, :8])
    assert straight.shape == (7, 20, 12, 2)
    steps = torch.diff(torch.cat([track[:, None, 7:8].expand(-1, 20, -1, -1), straight], dim=2), dim=2)
    assert torch.allclose(steps, steps[:, :, :1].expand_as(steps), atol=1e-5)


def test_a_probe_sees_what_was_observed_and_nothing_after_it() -> None:
    data = crowd()
    sample = forecasting.Observed(8)(data[0], None)
    assert list(sample) == ["track"]
    assert np.array_equal(sample["track"], data.table()["track"][0, :8])
    frozen = Frozen(NextPosition(TrackGPT(dim=16, depth=1, hidden=24)), data, CPU)
    raw, _ = frozen.raw("test")
    assert raw.shape[1] == 16


# The crowd


def test_the_crowd_is_the_same_every_time_and_another_with_another_seed() -> None:
    positions, behaviour = simulate(2, 5, 12, 0)
    simulate.cache_clear()
    again, labels = simulate(2, 5, 12, 0)
    assert again is not positions
    assert np.array_equal(again, positions)
    assert np.array_equal(labels, behaviour)
    assert not np.array_equal(simulate(2, 5, 12, 1)[0], positions)


def test_people_behave_as_they_are_called_and_keep_apart() -> None:
    positions, behaviour = simulate(10, 24, 80, 0)
    step = np.diff(positions, axis=2)
    speed = np.linalg.norm(step, axis=-1) / 0.4
    assert speed.max() < 4  # m/s
    mean = {name: speed[behaviour == number].mean() for number, name in enumerate(BEHAVIOURS)}
    assert mean["hurries"] > 1.3 * mean["walks"] > 1.3 * mean["strolls"]
    slow = {name: (speed[behaviour == number] < 0.3).mean() for number, name in enumerate(BEHAVIOURS)}
    assert slow["stops"] > 0.15 > 4 * slow["walks"]
    heading = np.unwrap(np.arctan2(step[..., 1], step[..., 0]), axis=-1)
    turned = np.abs(heading[..., -1] - heading[..., 0])
    assert np.median(turned[behaviour == 4]) > 4 * np.median(turned[behaviour == 0])
    apart = positions[:, :, None] - positions[:, None]
    apart -= 24 * np.round(apart / 24)
    distance = np.linalg.norm(apart, axis=-1) + 1e9 * np.eye(24)[None, :, :, None]
    assert np.quantile(distance[..., 20:].min(2), 0.01) > 0.7  # metres; without forces it would be 0.28


def test_nobody_of_the_crowd_is_in_two_parts() -> None:
    data = crowd()
    tracks = {part.tobytes() for part in data.table()["track"].numpy()}
    test = {part.tobytes() for part in data.split("test").table()["track"].numpy()}
    held_out = {part.tobytes() for part in data.context()["held_out"].numpy()}
    assert not tracks & test
    assert not tracks & held_out
    assert not test & held_out
    assert data.split("test").context() == {}
    assert torch.equal(data.context()["tracks"], data.table()["track"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": 1}, "expected at least 2 scenes of 1 person"),
        ({"seconds": 4.0}, "dataset.seconds=4 is too short: 20 positions take 8 s"),
        ({"observed": 1}, "dataset.observed=1 is too small"),
        ({"stride": 0}, "dataset.stride=0 is too small"),
    ],
)
def test_a_crowd_that_cannot_be_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Crowd(**options)


# The command line


@pytest.mark.slow
def test_from_a_file_of_ones_own_to_a_table(shared: Path, tmp_path: Path) -> None:
    words = ["train", "trajectory/ppt", "--data", shared / "data/eth_ucy/crowds_zara01.txt", "--recipe", "tiny"]
    answer = unlabel(*words, "--steps", 2, "--out", tmp_path / "run", "--set", "dataset.stride=8")
    assert answer.code == 0, answer.err
    found = Run(tmp_path / "run").evaluate("trajectory/forecast")["trajectory/forecast"]
    assert found["min_ade_m"] > 0
    assert found["constant_velocity_ade_m"] == pytest.approx(0.43, abs=0.2)
    again = unlabel("evaluate", tmp_path / "run", "trajectory/forecast", "--data", shared / "data/eth_ucy", "--json")
    assert again.code == 0, again.err
    assert '"constant_velocity_ade_m": 0.427' in again.out


@pytest.mark.slow
def test_inspecting_says_what_is_there(shared: Path) -> None:
    answer = unlabel("inspect", shared / "data/eth_ucy", "--json", "--no-verify")
    assert answer.code == 0, answer.err
    for fact in ('"test": 2356', '"unit": "m"', '"selected_on": "held-out"'):
        assert fact in answer.out


def test_lengths_that_do_not_agree_are_named(tmp_path: Path) -> None:
    settings = ("--set", "dataset.observed=4", "--set", "dataset.future=3")
    answer = unlabel("train", "trajectory/ppt", "--recipe", "tiny", "--out", tmp_path / "run", *settings)
    assert answer.code == 2
    assert "task.observed and dataset.observed must be equal" in answer.err


@pytest.mark.slow
def test_a_run_of_two_processes_is_judged_by_the_first_when_the_other_has_left(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "unlabel"]
    settings = ["--recipe", "tiny", "--steps", "2", "--device", "cpu", "--out", str(tmp_path / "run")]
    answer = subprocess.run(
        [*command, "train", "trajectory/destination", *settings],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert answer.returncode == 0, answer.stderr
    results = json.loads((tmp_path / "run/evaluations.json").read_text(encoding="utf-8"))
    assert results["before"].keys() == results["after"].keys() >= {"trajectory/forecast"}
