"""The use of an old name is blamed on who uses it."""

from __future__ import annotations

import linecache
import warnings

import pytest

from unlabel.catalog import deprecation


def renamed(*, width: int = 1, size: int | None = None) -> int:
    """As a function with a renamed keyword would be."""
    if size is not None:
        deprecation.warn("keyword size", "width", "unlabel 0.3")
        width = size
    return width


def test_a_deprecation_names_replacement_and_version_and_blames_the_caller() -> None:
    with pytest.warns(deprecation.Deprecated) as caught:
        assert renamed(size=3) == 3

    [warning] = caught
    assert str(warning.message) == "keyword size is now called width; unlabel 0.3 will not know the old name"
    assert warning.filename == __file__
    assert "renamed(size=3)" in linecache.getline(__file__, warning.lineno)


def test_users_see_it_and_not_only_developers() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.resetwarnings()
        warnings.simplefilter("ignore", DeprecationWarning)  # as Python does for code that is no script
        renamed(size=3)
    assert [warning.category for warning in shown] == [deprecation.Deprecated]
