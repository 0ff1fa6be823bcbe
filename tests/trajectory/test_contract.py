"""What every plugin promises."""

from __future__ import annotations

from collections.abc import Callable

from unlabel.testing import contract


@contract("trajectory")
def test_contract(check: Callable[[], None]) -> None:
    check()
