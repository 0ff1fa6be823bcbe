"""Old names: how something renamed keeps working for a release, and how its users are told.

A plugin that renames a task (or anything else it offers) keeps the old name among its names:

    {"sonar/echo_order": "unlabel_sonar.echo_order:EchoOrder",
     "sonar/order": Moved("sonar/echo_order", removed_in="0.3")}

Recipes, checkpoints and commands with the old name go on working, with one warning; listings show the
new name only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Deprecated", "Moved", "adopt", "warn"]


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


def adopt(kind: type, renamed: Mapping[str, str], removed_in: str) -> None:
    """Let a subclass that overrides a member by its old name override the one that is called otherwise now.

    Args:
        kind: the subclass, as its ``__init_subclass__`` sees it; changed in place.
        renamed: old name -> new name.
        removed_in: as in `warn`, which is called for each.
    """
    for old, new in renamed.items():
        owner = next((ancestor for ancestor in kind.__mro__ if {old, new} & vars(ancestor).keys()), object)
        if old in vars(owner) and new not in vars(owner):
            warn(f"{kind.__module__}.{kind.__qualname__}.{old}", new, removed_in, stacklevel=3)
            setattr(kind, new, vars(owner)[old])


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
