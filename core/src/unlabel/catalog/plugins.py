"""The Catalog: which names the installed plugins offer, and how a name becomes an object.

Plugins are found through the entry-point group ``unlabel`` of installed distributions, never because
of a file in the current folder, and loaded one by one, each in a plugin manager of its own: one that
raises, hangs, misspells a hook, was built for another version or claims somebody else's name is set
aside with a reason, and the rest work. There is no global state: a Catalog is a value, made when needed.

A name is ``PLUGIN/NAME`` with the name of the plugin's entry point; evaluations, commands and observers
may do without the prefix. Two variables of the shell are read: ``UNLABEL_PLUGINS=name,name`` restricts
which plugins are loaded, ``UNLABEL_PLUGIN_SECONDS`` sets how long one may take to be imported (5; 0 for
no limit). What no limit can interrupt, `unlabel.catalog.confine` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from unlabel import __version__
from unlabel.catalog import deprecation, distributions, loading
from unlabel.catalog.confine import Listener
from unlabel.catalog.deprecation import Moved
from unlabel.catalog.distributions import GROUP
from unlabel.catalog.hookspecs import HOOKS
from unlabel.catalog.offers import BUILT_IN, Offer, Plugin, singular
from unlabel.errors import UsageError, nearest

__all__ = ["BUILT_IN", "GROUP", "Catalog", "Offer", "Plugin"]

SECONDS = 5.0
"""How long a plugin may take to be imported."""


class Catalog:
    """What is installed, by kind and name.

    Args:
        plugins: the plugins to hold, in order; names claimed twice are resolved here.

    Attributes:
        trusted: ``package.module:factory`` names the user gave in this session; one that only stands in
            a file must look like a network before it is called, see `unlabel.recipe.factory`.
    """

    def __init__(self, plugins: Iterable[Plugin]):
        self.plugins = list(plugins)
        self.trusted: set[str] = set()
        self._offers: dict[tuple[str, str], Offer] = {}
        self._refused: dict[tuple[str, str], str] = {}
        self._moved: dict[tuple[str, str], tuple[Plugin, Moved]] = {}
        for kind, name, claims in _claims(self.plugins):
            self._resolve(kind, name, claims)
        for plugin in self.plugins:
            for old, moved in plugin.moved.items():
                self._moved.setdefault(old, (plugin, moved))

    @classmethod
    def installed(cls) -> Catalog:
        """Everything installed, as far as ``UNLABEL_PLUGINS`` admits it.

        What a plugin prints meanwhile is kept from standard output, also what other threads print.

        Raises:
            UsageError: ``UNLABEL_PLUGINS`` names a plugin that is not installed, or the time limit is no number.
        """
        plugins = sorted(distributions.installed(), key=lambda entry: entry.plugin.name)
        only = os.environ.get("UNLABEL_PLUGINS")
        if only is not None:
            wanted = {name.strip() for name in only.split(",") if name.strip()} - {BUILT_IN}
            known = {entry.plugin.name for entry in plugins}
            for name in sorted(wanted - known):
                raise UsageError(f"UNLABEL_PLUGINS names {name!r}, which is not installed{nearest(name, known)}")
            plugins = [entry for entry in plugins if entry.plugin.name in wanted]
        core = distributions.Installed(Plugin(BUILT_IN, "unlabel", __version__), "unlabel.catalog.builtin")
        seconds = _seconds()
        with Listener() as listener:
            for entry in (core, *plugins):
                loading.load(entry, listener, seconds)
        return cls(entry.plugin for entry in (core, *plugins))

    def names(self, kind: str) -> list[str]:
        """All usable names of a kind, sorted; old names of what has moved are not among them."""
        return sorted(name for (of, name) in self._offers if of == kind)

    def current(self, kind: str, name: str, *, stacklevel: int = 2) -> str:
        """The name as it is now: an old one is replaced, with a warning; any other is returned as it is."""
        if (kind, name) in self._offers or (kind, name) not in self._moved:
            return name
        plugin, moved = self._moved[kind, name]
        removed_in = f"{plugin.distribution} {moved.removed_in}"
        deprecation.warn(f"{singular(kind)} {name}", moved.to, removed_in, stacklevel=stacklevel)
        return moved.to

    def offers(self, kind: str) -> list[Offer]:
        """All usable offers of a kind, in the order of their names."""
        return [self._offers[kind, name] for name in self.names(kind)]

    def find(self, kind: str, name: str) -> Offer:
        """The offer of that kind and name; UsageError with the nearest names otherwise."""
        name = self.current(kind, name, stacklevel=3)
        if (kind, name) in self._offers:
            return self._offers[kind, name]
        if (kind, name) in self._refused:
            raise UsageError(self._refused[kind, name])
        for other in HOOKS:
            if other != kind and (other, name) in self._offers:
                raise UsageError(f"{name!r} is one of the {other}, not of the {kind}{nearest(name, self.names(kind))}")
        names = self.names(kind)
        listing = (
            f"there are {', '.join(names)}" if len(names) <= 10 else f"`unlabel list {kind}` names all {len(names)}"
        )
        hint = nearest(name, names) or f"; {listing}"
        if not names:
            hint = (
                f"; no installed plugin offers {kind}: install one, e.g. `pip install unlabel-{name.partition('/')[0]}`"
            )
        broken = [plugin.name for plugin in self.plugins if plugin.problems]
        hint += f" (with problems: {', '.join(broken)}; see `unlabel plugins`)" if broken else ""
        raise UsageError(f"no {singular(kind)} is called {name!r}{hint}")

    def load(self, kind: str, name: str) -> Any:
        """The object of that kind and name: a class or a function."""
        return self.find(kind, name).load()

    def _resolve(self, kind: str, name: str, claims: list[tuple[Plugin, Offer]]) -> None:
        """One claimant gets the name; of several, the core, or the plugin whose own prefix it bears, or nobody."""
        built_in = [(plugin, offer) for plugin, offer in claims if plugin.name == BUILT_IN]
        by_right = built_in or [(plugin, offer) for plugin, offer in claims if plugin.name == name.partition("/")[0]]
        winners = claims if len(claims) == 1 else by_right if len(by_right) == 1 else []
        for _, offer in winners:
            self._offers[kind, name] = offer
        owners = " and ".join(f"{plugin.distribution} ({plugin.name})" for plugin, _ in claims)
        if not winners:
            self._refused[kind, name] = f"{singular(kind)} {name!r} is claimed by {owners}: uninstall one of them"
        for plugin, offer in claims:
            if (plugin, offer) not in winners:
                plugin.problems.append(f"{singular(kind)} {name!r} is claimed by {owners}; not used from here")


def _claims(plugins: list[Plugin]) -> Iterable[tuple[str, str, list[tuple[Plugin, Offer]]]]:
    grouped: dict[tuple[str, str], list[tuple[Plugin, Offer]]] = {}
    for plugin in plugins:
        for offer in plugin.offers:
            grouped.setdefault((offer.kind, offer.name), []).append((plugin, offer))
    return [(kind, name, claims) for (kind, name), claims in grouped.items()]


def _seconds() -> float:
    text = os.environ.get("UNLABEL_PLUGIN_SECONDS", "")
    try:
        seconds = float(text or SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e6:
        raise UsageError(f"UNLABEL_PLUGIN_SECONDS is {text!r}; expected seconds, e.g. 5, or 0 for no limit")
    return seconds
