"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
