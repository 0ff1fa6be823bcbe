"""A plugin that is installed, by its name."""

from __future__ import annotations

import os

from unlabel.catalog.plugins import Catalog, Plugin
from unlabel.errors import UsageError, nearest

__all__ = ["find"]


def find(plugin: str, catalog: Catalog) -> Plugin:
    """The plugin of that name; UsageError with the nearest name otherwise."""
    known = {found.name: found for found in catalog.plugins}
    if plugin not in known:
        only = " (UNLABEL_PLUGINS restricts what is loaded)" if "UNLABEL_PLUGINS" in os.environ else ""
        raise UsageError(f"no plugin called {plugin!r} is installed{nearest(plugin, known)}{only}")
    return known[plugin]
