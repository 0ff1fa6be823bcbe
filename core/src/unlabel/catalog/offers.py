"""What a plugin is to the catalog, and the names that it offers."""

from __future__ import annotations

import contextlib
import importlib
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from unlabel.catalog.deprecation import Moved
from unlabel.catalog.importing import uncollected
from unlabel.errors import UsageError, one_line

__all__ = ["BUILT_IN", "Offer", "Plugin", "singular"]

BUILT_IN = "core"
"""The name that what the core itself offers goes by."""


@dataclass(frozen=True)
class Offer:
    """One name that a plugin offers: what kind of thing it is, where it lives, and whose it is."""

    kind: str
    name: str
    target: str
    plugin: str

    def load(self) -> Any:
        """Import and return the object; whatever goes wrong, the error names the plugin at fault.

        What the plugin prints meanwhile goes to standard error, so that results can be piped.
        """
        module, _, attribute = self.target.partition(":")
        try:
            with contextlib.redirect_stdout(sys.stderr), uncollected():
                return getattr(importlib.import_module(module), attribute)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            reason = str(error) if isinstance(error, ImportError | AttributeError) else one_line(error)
            raise UsageError(
                f"{self.name} of plugin {self.plugin!r} cannot be loaded from {self.target}: {reason}"
            ) from error

    def module(self) -> ModuleType:
        """The module the object lives in (a task's also holds its recipes)."""
        self.load()
        return importlib.import_module(self.target.partition(":")[0])


@dataclass
class Plugin:
    """One installed plugin: its distribution, what it offers, and what is wrong with it, if anything.

    Attributes:
        name: of its entry point.
        distribution: what an installer calls it.
        version: of the distribution.
        offers: the names it offers.
        moved: old names that still work, by kind and name.
        problems: why it, or a name of it, cannot be used.
        notes: what its author should know, and nobody else needs to.
        requires: requirement lines of the distribution.
    """

    name: str
    distribution: str
    version: str
    offers: list[Offer] = field(default_factory=list)
    moved: dict[tuple[str, str], Moved] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    requires: tuple[str, ...] = ()


def singular(kind: str) -> str:
    """What one of a kind is called: ``"task"`` of ``"tasks"``."""
    return kind.removesuffix("s")
