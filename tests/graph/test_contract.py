"""The plugin keeps the contract of `unlabel.testing`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from unlabel.testing import contract


@pytest.mark.slow
@contract("graph")
def test_contract(check: Callable[[], None]) -> None:
    check()
