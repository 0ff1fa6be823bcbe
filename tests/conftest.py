"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from environments import Environment

SHARED = Path(os.environ.get("UNLABEL_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference cases and small real data; a user without it sees these tests skipped."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"no reference data at {SHARED}; set UNLABEL_SHARED to the folder that holds golden/ and data/")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Tests run beside each other: one thread each, or they wait for one another's spinning threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def environment(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A temporary environment of the test's own, with the core's wheel installed; see `environments`."""
    import environments

    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # the workers' folders lie in that of the session
        session = session.parent
    return environments.clone(environments.template(session), tmp_path)
