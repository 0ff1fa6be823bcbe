"""What several tests of the plugin ask for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def plain() -> ModuleType:
    """The straightforward formulation that the benchmarks measure against; independent of the plugin."""
    path = Path(__file__).parents[2] / "benchmarks/trajectory_plain.py"
    spec = importlib.util.spec_from_file_location("trajectory_plain", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
