"""Old names: how something renamed keeps working for a release, and how its users are told.

A plugin that renames a task (or anything else it offers) keeps the old name among its names:

    {"sonar/echo_order": "unlabel_sonar.echo_order:EchoOrder",
     "sonar/order": Moved("sonar/echo_order", removed_in="0.3")}

Recipes, checkpoints and commands with the old name go on working, with one warning; listings show the
new name only.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

__all__ = ["Deprecated", "Moved", "warn"]


class Deprecated(FutureWarning):
    """Something works for now and will not later; shown to users, not to developers only."""


@dataclass(frozen=True)
class Moved:
    """In place of a target: this name has become another of the same kind and plugin.

    Args:
        to: the name now.
        removed_in: version of the plugin's distribution that will no longer know the old name.
    """

    to: str
    removed_in: str


def warn(old: str, new: str, removed_in: str, *, stacklevel: int = 2) -> None:
    """Warn that something goes by another name now.

    Args:
        old: what was used, e.g. ``"keyword mask"``.
        new: what to use instead.
        removed_in: distribution and version without the old one, e.g. ``"unlabel 0.3"``.
        stacklevel: 2 blames the line that calls the function that warns.
    """
    warnings.warn(
        f"{old} is now called {new}; {removed_in} will not know the old name", Deprecated, stacklevel=stacklevel + 1
    )
