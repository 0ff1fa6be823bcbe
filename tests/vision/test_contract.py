"""The plugin keeps the contract of `unlabel.testing`."""

from __future__ import annotations

from collections.abc import Callable

from unlabel.testing import contract


@contract("vision")
def test_contract(check: Callable[[], None]) -> None:
    check()
