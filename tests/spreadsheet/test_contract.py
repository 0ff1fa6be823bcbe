"""What every plugin must do."""

from __future__ import annotations

from collections.abc import Callable

from unlabel.testing import contract


@contract("spreadsheet")
def test_contract(check: Callable[[], None]) -> None:
    check()
