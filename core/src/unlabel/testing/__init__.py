"""The kit that plugin authors run: the contract as tests, and fixtures that pytest offers once `unlabel` is installed.

A whole test file for a plugin called ``sonar``::

    from unlabel.testing import contract

    @contract("sonar")
    def test_contract(check):
        check()

The same outside pytest: ``unlabel check sonar``. What is checked: `unlabel.testing.checks.CHECKS`.
"""

from __future__ import annotations

from unlabel.testing.contract import contract

__all__ = ["contract"]
