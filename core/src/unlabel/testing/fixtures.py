"""Fixtures that pytest offers to every test suite beside an installed `unlabel`, by the entry point ``pytest11``.

pytest imports this module whenever it starts, so it imports neither torch nor numpy before a test asks for something.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from unlabel.run import Run

__all__ = ["TwoProcesses", "golden", "no_network", "tmp_run", "two_processes"]


def pytest_configure(config: pytest.Config) -> None:
    """The mark that checks of the contract carry."""
    config.addinivalue_line("markers", "slow: takes long; left out by -m 'not slow'")


class TwoProcesses:
    """Two processes that average and gather among themselves, as under ``torchrun --nproc-per-node 2`` (gloo, CPU)."""

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Both results of a function that can be imported by its name, with arguments that can be pickled.

        Raises:
            RunError: it raised in one of them; holds its traceback.
        """
        from unlabel.testing.processes import pair

        return pair()(function, *arguments)

    def command(self, *words: object) -> str:
        """What ``unlabel`` with these words says on standard error, run by two processes; RunError if it fails."""
        from multiprocessing.connection import Listener

        from unlabel.errors import RunError

        with Listener(("127.0.0.1", 0)) as free:
            port = str(free.address[1])
        both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "unlabel", *map(str, words)],
                env={**os.environ, "OMP_NUM_THREADS": "1", **both, "RANK": rank, "LOCAL_RANK": rank},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in ("0", "1")
        ]
        try:
            said = [process.communicate()[1] for process in started]
        finally:
            for process in started:
                process.kill()
        for rank, process in enumerate(started):
            if process.returncode:
                raise RunError(f"process {rank} of 2 ended with {process.returncode}: {said[rank].strip()}")
        return said[0]


@pytest.fixture(scope="session")
def two_processes() -> TwoProcesses:
    """Run a function, or a command of ``unlabel``, in two processes, to compare with one.

    ::

        def test_loss_gathers(two_processes):
            assert two_processes(gradient, batch)[0] == pytest.approx(gradient(batch))
    """
    return TwoProcesses()


@pytest.fixture
def no_network() -> Iterator[list[str]]:
    """Refuse connections to other machines during the test, and fail if one was tried, even if that went unnoticed.

    The value is the list of what was tried; see `unlabel.testing.network`.
    """
    from unlabel.testing import network

    with network.refused() as tried:
        yield tried
    if tried:
        pytest.fail(f"the test tried to {'; '.join(tried)}", pytrace=False)


@pytest.fixture(scope="session")
def tmp_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Train a tiny run of a task, once for all tests that ask for the same one: ``tmp_run("sonar/echo") -> Run``.

    Keywords are those of `unlabel.train` (``steps=5``, ``stages__0__lr=0.1``); evaluation is off unless asked for.
    """
    made: dict[str, Run] = {}

    def train(task: str, recipe: str = "tiny", **changes: Any) -> Run:
        from unlabel import Catalog, compose, launch

        key = json.dumps([task, recipe, changes], default=str, sort_keys=True)
        if key not in made:
            catalog = Catalog.installed()
            place = tmp_path_factory.mktemp("run") / task.replace("/", "-")
            chosen = compose.compose(task, catalog, name=recipe)
            made[key] = launch.train(chosen, out=place, catalog=catalog, **{"evaluate": False, **changes})
        return made[key]

    return train


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Read a reference case below the folder that the variable ``UNLABEL_SHARED`` names; without it, skip the test.

    ``golden("golden/echo/loss.npz")`` gives a dictionary of arrays, likewise for ``.safetensors``; ``.json`` gives
    what is in it; a folder gives all of its cases by name. Nothing is unpickled. A case that is missing is an error.
    """
    place = os.environ.get("UNLABEL_SHARED")
    if not place:
        pytest.skip("reference cases are read from the folder that UNLABEL_SHARED names, which is not set")

    def read(name: str) -> Any:
        path = Path(place) / name
        if path.is_dir():
            kinds = (".json", ".npz", ".safetensors")
            return {case.stem: _case(case) for case in sorted(path.iterdir()) if case.suffix in kinds}
        return _case(path)

    return read


def _case(path: Path) -> Any:
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".npz":
        import numpy as np

        with np.load(path, allow_pickle=False) as case:
            return dict(case)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    raise ValueError(f"reference case {path}: expected .json, .npz, .safetensors or a folder of them")
