"""``unlabel inspect --speed``: which stage limits, and what is advised."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from commandline import install, unlabel

from unlabel.inspection.speed import recommendation


@pytest.fixture(scope="module", autouse=True)
def _toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The toy plugin is installed, and nothing else."""
    site = tmp_path_factory.mktemp("site")
    install(site, "toy", "toysonar.plugin")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("UNLABEL_PLUGINS", "toy")
        yield


@pytest.mark.parametrize(
    ("stages", "limits", "workers", "words"),
    [
        ({"read": 1e5, "decode": 2000.0, "collate": 1e6, "model": 30.0}, "model", 0, "2% of the model's time"),
        ({"read": 1e5, "decode": 100.0, "collate": 1e6, "model": 80.0}, "model", 1, "one loader process hides it"),
        ({"read": 1e5, "decode": 100.0, "collate": 1e6, "model": 900.0}, "data", 10, "most of it is decode (100%)"),
        ({"read": 50.0, "decode": 1e4, "collate": 1e6, "model": 900.0}, "data", 19, "copy the data to a local disk"),
        ({"gather": 1e6, "model": 900.0}, "model", 0, "loader processes have nothing to do"),
    ],
)
def test_the_slower_part_is_named_with_what_helps(
    stages: dict[str, float], limits: str, workers: int, words: str
) -> None:
    found = recommendation(stages)
    assert (found["limits"], found["workers"]) == (limits, workers)
    assert words in found["advice"]
    expected = 1 / sum(1 / speed for name, speed in stages.items() if name != "model")
    assert found["samples_per_second"]["all data stages"] == pytest.approx(expected, abs=0.06)


def test_every_stage_of_a_folder_is_timed(tmp_path: Path) -> None:
    for number in range(16):
        np.save(tmp_path / f"{'fast' if number % 2 else 'slow'}{number:02}.npy", np.full(16, number, np.float32))
    (tmp_path / "slow00.npy").write_bytes(b"torn")
    answer = unlabel("inspect", tmp_path, "--speed", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["task"] == "toy/echo"
    assert list(found["samples_per_second"]) == ["read and decode", "collate", "all data stages", "model"]
    assert min(found["samples_per_second"].values()) > 0


def test_wrong_words_are_usage_errors(tmp_path: Path) -> None:
    assert unlabel("inspect", "toy/pings", "--task", "toy/echo").code == 2
    assert "did you mean toy/echo" in unlabel("inspect", "toy/pings", "--speed", "--task", "toy/ecko").err
    answer = unlabel("inspect", tmp_path / "none", "--speed")
    assert answer.code == 2
    assert "there is no path" in answer.err
