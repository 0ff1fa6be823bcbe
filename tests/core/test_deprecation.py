"""The use of an old name is blamed on who uses it."""

from __future__ import annotations

import linecache
import warnings

import pytest

from unlabel import Dataset, Task
from unlabel.catalog import deprecation
from unlabel.catalog.deprecation import Deprecated


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


def test_members_of_version_0_1_override_what_they_are_called_now() -> None:
    def suited(self: Dataset, transform: object) -> Dataset:
        return self

    def settled(self: Task) -> dict[str, object]:
        return {"teacher": "x"}

    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        Old = type("Old", (Dataset,), {"together": True, "general": True, "suited": suited})
        OldTask = type("OldTask", (Task,), {"settled": settled})
    assert all(message.category is Deprecated for message in messages)
    assert (Old.full_batch, Old.fallback, Old.for_transform) == (True, True, Old.suited)
    assert OldTask.provenance is OldTask.settled
    assert [str(warning.message).split(" is now called ")[1].split(";")[0] for warning in messages] == [
        "full_batch", "fallback", "for_transform", "provenance"
    ]  # fmt: skip
    assert all(message.filename == __file__ for message in messages)

    class Newer(Old):
        full_batch = False

    assert Newer.full_batch is False
