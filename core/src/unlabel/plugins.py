"""The Catalog: which names the installed plugins offer, and how a name becomes an object.

Plugins are found through the entry-point group ``unlabel`` of installed distributions, never because
of a file in the current folder, and loaded one by one, each in a plugin manager of its own: one that
raises, misspells a hook, was built for another version or claims somebody else's name is set aside
with a reason, and the rest work. There is no global state: a Catalog is a value, made when needed.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint
from types import ModuleType
from typing import Any

import pluggy

from unlabel import __version__, hookspecs
from unlabel.errors import UsageError, nearest
from unlabel.hookspecs import HOOKS

__all__ = ["Catalog", "Offer", "Plugin"]

GROUP = "unlabel"
BUILT_IN = "core"

_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


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
            with contextlib.redirect_stdout(sys.stderr):
                return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            reason = str(error) if isinstance(error, ImportError | AttributeError) else _words(error)
            raise UsageError(
                f"{self.name} of plugin {self.plugin!r} cannot be loaded from {self.target}: {reason}"
            ) from error

    def module(self) -> ModuleType:
        """The module the object lives in (a task's also holds its recipes)."""
        self.load()
        return importlib.import_module(self.target.partition(":")[0])


@dataclass
class Plugin:
    """One installed plugin: its distribution, what it offers, and what is wrong with it, if anything."""

    name: str
    distribution: str
    version: str
    offers: list[Offer] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class Catalog:
    """What is installed, by kind and name.

    Args:
        plugins: the plugins to hold, in order; names claimed twice are settled here.

    Attributes:
        trusted: ``package.module:factory`` names the user gave in this session; one that only stands in
            a file must look like a network before it is called, see `unlabel.recipe.factory`.
    """

    def __init__(self, plugins: Iterable[Plugin]):
        self.plugins = list(plugins)
        self.trusted: set[str] = set()
        self._offers: dict[tuple[str, str], Offer] = {}
        self._refused: dict[tuple[str, str], str] = {}
        for kind, name, claims in _claims(self.plugins):
            self._settle(kind, name, claims)

    @classmethod
    def installed(cls) -> Catalog:
        """Everything installed; the variable ``UNLABEL_PLUGINS=name,name`` restricts which plugins are loaded.

        Raises:
            UsageError: the variable names a plugin that is not installed.
        """
        entries = sorted(_entries(), key=lambda pair: pair[0].name)
        only = os.environ.get("UNLABEL_PLUGINS")
        if only is not None:
            wanted = {name.strip() for name in only.split(",") if name.strip()} - {BUILT_IN}
            known = {entry.name for entry, _ in entries}
            for name in sorted(wanted - known):
                raise UsageError(f"UNLABEL_PLUGINS names {name!r}, which is not installed{nearest(name, known)}")
            entries = [(entry, distribution) for entry, distribution in entries if entry.name in wanted]
        core = Plugin(BUILT_IN, "unlabel", __version__)
        _load(core, (), lambda: importlib.import_module("unlabel.builtin"))
        return cls([core, *(_load_entry(entry, distribution) for entry, distribution in entries)])

    def names(self, kind: str) -> list[str]:
        """All usable names of a kind, sorted."""
        return sorted(name for (of, name) in self._offers if of == kind)

    def offers(self, kind: str) -> list[Offer]:
        """All usable offers of a kind, in the order of their names."""
        return [self._offers[kind, name] for name in self.names(kind)]

    def find(self, kind: str, name: str) -> Offer:
        """The offer of that kind and name; UsageError with the nearest names otherwise."""
        if (kind, name) in self._offers:
            return self._offers[kind, name]
        if (kind, name) in self._refused:
            raise UsageError(self._refused[kind, name])
        singular = kind.removesuffix("s")
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
        raise UsageError(f"no {singular} is called {name!r}{hint}")

    def load(self, kind: str, name: str) -> Any:
        """The object of that kind and name: a class or a function."""
        return self.find(kind, name).load()

    def _settle(self, kind: str, name: str, claims: list[tuple[Plugin, Offer]]) -> None:
        """One claimant gets the name; of several, the core, or the plugin whose own prefix it bears, or nobody."""
        built_in = [(plugin, offer) for plugin, offer in claims if plugin.name == BUILT_IN]
        by_right = built_in or [(plugin, offer) for plugin, offer in claims if plugin.name == name.partition("/")[0]]
        winners = claims if len(claims) == 1 else by_right if len(by_right) == 1 else []
        for _, offer in winners:
            self._offers[kind, name] = offer
        owners = " and ".join(f"{plugin.distribution} ({plugin.name})" for plugin, _ in claims)
        if not winners:
            self._refused[kind, name] = (
                f"{kind.removesuffix('s')} {name!r} is claimed by {owners}: uninstall one of them"
            )
        for plugin, offer in claims:
            if (plugin, offer) not in winners:
                plugin.problems.append(f"{kind.removesuffix('s')} {name!r} is claimed by {owners}; not used from here")


def _claims(plugins: list[Plugin]) -> Iterable[tuple[str, str, list[tuple[Plugin, Offer]]]]:
    grouped: dict[tuple[str, str], list[tuple[Plugin, Offer]]] = {}
    for plugin in plugins:
        for offer in plugin.offers:
            grouped.setdefault((offer.kind, offer.name), []).append((plugin, offer))
    return [(kind, name, claims) for (kind, name), claims in grouped.items()]


def _entries() -> Iterator[tuple[EntryPoint, Distribution]]:
    """The plugins' entry points; distributions whose metadata cannot be read are passed over."""
    here = os.getcwd()
    places = [place for place in sys.path if os.path.abspath(place) != here]
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions(path=places):
        text = distribution.read_text("entry_points.txt") or ""
        if f"[{GROUP}]" not in text.replace(" ", ""):
            continue
        with contextlib.suppress(Exception):  # one damaged distribution must not hide the others
            found = list(distribution.entry_points.select(group=GROUP))
            name = _normal(distribution.name)
            if name not in seen:  # what comes first on the path is what an import would find
                yield from ((entry, distribution) for entry in found)
            seen.add(name)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _load_entry(entry: EntryPoint, distribution: Distribution) -> Plugin:
    plugin = Plugin(entry.name, distribution.name, distribution.version)
    _load(plugin, distribution.requires or (), entry.load)
    return plugin


def _load(plugin: Plugin, requires: Iterable[str], load: Callable[[], ModuleType]) -> None:
    """Load one plugin; whatever goes wrong becomes a problem of that plugin, with nothing offered."""
    printed = io.StringIO()
    try:
        mismatch = _mismatch(requires)
        if mismatch:
            plugin.problems.append(mismatch)
            return
        with contextlib.redirect_stdout(printed):
            plugin.offers = _offers(plugin.name, load())
    except SystemExit as error:
        plugin.problems.append(f"called sys.exit({error.code}) while being imported")
    except Exception as error:  # a stranger's import may raise anything, and must not take the host with it
        plugin.problems.append(_words(error))
    if printed.getvalue():
        plugin.problems.append(f"prints while being imported: {printed.getvalue().strip()[:60]!r}")


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _mismatch(requires: Iterable[str]) -> str:
    """Why these requirements do not admit this version of the core, or an empty string."""
    for line in requires:
        if not _normal(line).startswith("unlabel"):
            continue
        from packaging.requirements import Requirement  # imported only where a plugin is installed

        wanted = Requirement(line)
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if (
            _normal(wanted.name) == "unlabel"
            and applies
            and not wanted.specifier.contains(__version__, prereleases=True)
        ):
            return f"needs unlabel{wanted.specifier}, but unlabel {__version__} is installed: upgrade one of them"
    return ""


def _offers(name: str, module: ModuleType) -> list[Offer]:
    """Ask one plugin's hooks, in a manager of its own so that a misspelt hook is caught and attributed."""
    manager = pluggy.PluginManager("unlabel")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=name)
    for hook, caller in vars(manager.hook).items():
        if hook not in HOOKS and not all(implementation.optionalhook for implementation in caller.get_hookimpls()):
            raise AttributeError(f"there is no hook {hook!r}{nearest(hook, HOOKS)}; the hooks are {', '.join(HOOKS)}")
    offers = []
    for kind in HOOKS:
        for implementation in getattr(manager.hook, kind).get_hookimpls():
            table = _table(kind, implementation.function())
            offers += [_checked(kind, key, target, name) for key, target in table.items()]
    if not offers:
        raise ValueError(f"offers nothing: does {module.__name__} mark its functions with @hookimpl?")
    return offers


def _table(kind: str, table: object) -> Mapping[Any, Any]:
    if not isinstance(table, Mapping):
        raise TypeError(
            f"hook {kind}() must return a dictionary of name -> 'module:attribute', got {type(table).__name__}"
        )
    return table


def _checked(kind: str, name: object, target: object, plugin: str) -> Offer:
    if not isinstance(name, str) or not isinstance(target, str) or target.count(":") != 1:
        raise TypeError(f"hook {kind}() maps {name!r} to {target!r}; expected 'name': 'package.module:attribute'")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"hook {kind}() offers {name!r}; expected letters, digits, '_', '-' and '.', after one prefix: {plugin}/..."
        )
    return Offer(kind, name, target, plugin)
