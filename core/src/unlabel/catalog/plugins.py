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

import contextlib
import importlib
import importlib.metadata
import os
import re
import site
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint
from types import ModuleType
from typing import Any

import pluggy

from unlabel import __version__
from unlabel.catalog import deprecation, hookspecs
from unlabel.catalog.confine import Listener
from unlabel.catalog.deprecation import Moved
from unlabel.catalog.hookspecs import HOOKS
from unlabel.catalog.importing import uncollected
from unlabel.errors import UsageError, nearest, one_line

__all__ = ["Catalog", "Offer", "Plugin"]

GROUP = "unlabel"
BUILT_IN = "core"
SECONDS = 5.0

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_PREFIXED = ("tasks", "encoders", "datasets", "optimizers")
_HEAVY = ("torch", "numpy", "scipy", "sklearn", "pandas")


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
        self._moved: dict[tuple[str, str], tuple[Plugin, Moved]] = {}
        for kind, name, claims in _claims(self.plugins):
            self._settle(kind, name, claims)
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
        found = sorted(_found(), key=lambda entry: entry.plugin.name)
        only = os.environ.get("UNLABEL_PLUGINS")
        if only is not None:
            wanted = {name.strip() for name in only.split(",") if name.strip()} - {BUILT_IN}
            known = {entry.plugin.name for entry in found}
            for name in sorted(wanted - known):
                raise UsageError(f"UNLABEL_PLUGINS names {name!r}, which is not installed{nearest(name, known)}")
            found = [entry for entry in found if entry.plugin.name in wanted]
        core = _Found(Plugin(BUILT_IN, "unlabel", __version__), "unlabel.catalog.builtin")
        seconds = _seconds()
        with Listener() as listener:
            for entry in (core, *found):
                _load(entry, listener, seconds)
        return cls(entry.plugin for entry in (core, *found))

    def names(self, kind: str) -> list[str]:
        """All usable names of a kind, sorted; old names of what has moved are not among them."""
        return sorted(name for (of, name) in self._offers if of == kind)

    def current(self, kind: str, name: str, *, stacklevel: int = 2) -> str:
        """The name as it is now: an old one is replaced, with a warning; any other is returned as it is."""
        if (kind, name) in self._offers or (kind, name) not in self._moved:
            return name
        plugin, moved = self._moved[kind, name]
        removed_in = f"{plugin.distribution} {moved.removed_in}"
        deprecation.warn(f"{_one(kind)} {name}", moved.to, removed_in, stacklevel=stacklevel)
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
        raise UsageError(f"no {_one(kind)} is called {name!r}{hint}")

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
            self._refused[kind, name] = f"{_one(kind)} {name!r} is claimed by {owners}: uninstall one of them"
        for plugin, offer in claims:
            if (plugin, offer) not in winners:
                plugin.problems.append(f"{_one(kind)} {name!r} is claimed by {owners}; not used from here")


def _claims(plugins: list[Plugin]) -> Iterable[tuple[str, str, list[tuple[Plugin, Offer]]]]:
    grouped: dict[tuple[str, str], list[tuple[Plugin, Offer]]] = {}
    for plugin in plugins:
        for offer in plugin.offers:
            grouped.setdefault((offer.kind, offer.name), []).append((plugin, offer))
    return [(kind, name, claims) for (kind, name), claims in grouped.items()]


@dataclass
class _Found:
    """A plugin that is installed and not loaded yet, and where its module is."""

    plugin: Plugin
    target: str


def _found() -> Iterator[_Found]:
    """What the metadata of installed distributions name; damaged metadata hides no other distribution."""
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions(path=_places()):
        try:
            text = distribution.read_text("entry_points.txt") or ""
        except ValueError:  # not even text
            continue
        if f"[{GROUP}]" not in text.replace(" ", ""):
            continue
        name, version, requires = _metadata(distribution)
        if _normal(name) in seen:  # what comes first on the path is what an import would find
            continue
        seen.add(_normal(name))
        try:
            entries = list(distribution.entry_points.select(group=GROUP))
        except Exception as error:
            problem = f"its entry_points.txt cannot be read ({one_line(error)})"
            yield _Found(Plugin(name, name, version, problems=[problem]), "")
            continue
        yield from _of_entries(entries, name, version, requires)


def _of_entries(
    entries: list[EntryPoint], distribution: str, version: str, requires: tuple[str, ...]
) -> Iterator[_Found]:
    """One plugin for each name; a name that stands twice goes to the first."""
    plugins: dict[str, Plugin] = {}
    for entry in entries:
        if entry.name not in plugins:
            plugins[entry.name] = Plugin(entry.name, distribution, version, requires=requires)
            yield _Found(plugins[entry.name], re.sub(r"\s*\[.*\]\s*$", "", entry.value))  # without extras
        else:
            plugins[entry.name].problems.append(
                f"entry point {entry.name!r} stands twice in {distribution}; {entry.value} is not used"
            )


def _places() -> list[str]:
    """Where distributions are looked for: the import path without the current folder, unless packages belong there."""
    try:
        here = os.path.realpath(os.getcwd())
    except FileNotFoundError:  # it has been removed
        return sys.path
    if here in map(os.path.realpath, [*site.getsitepackages(), site.getusersitepackages()]):
        return sys.path
    return [place for place in sys.path if os.path.realpath(place) != here]


def _metadata(distribution: Distribution) -> tuple[str, str, tuple[str, ...]]:
    """Name, version and requirements, read from the headers alone: parsing a README for each would take longer."""
    text = requires = None
    with contextlib.suppress(ValueError):
        text = distribution.read_text("METADATA")
    if text is None:  # an older format
        with contextlib.suppress(Exception):
            text, requires = distribution.read_text("PKG-INFO"), distribution.requires
    header = re.split(r"\n\s*\n", text or "", maxsplit=1)[0]
    fields = re.findall(r"^(Name|Version|Requires-Dist):[ \t]*(.*?)[ \t\r]*$", header, re.MULTILINE)
    known = dict(fields)
    if requires is None:
        requires = [value for name, value in fields if name == "Requires-Dist"]
    return known.get("Name") or "a distribution without a name", known.get("Version") or "?", tuple(requires)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _one(kind: str) -> str:
    return kind.removesuffix("s")


def _seconds() -> float:
    text = os.environ.get("UNLABEL_PLUGIN_SECONDS", "")
    try:
        seconds = float(text or SECONDS)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e6:
        raise UsageError(f"UNLABEL_PLUGIN_SECONDS is {text!r}; expected seconds, e.g. 5, or 0 for no limit")
    return seconds


def _load(found: _Found, listener: Listener, seconds: float) -> None:
    """Load one plugin; whatever goes wrong becomes a problem of that plugin, with nothing offered."""
    plugin, before = found.plugin, set(_HEAVY) & sys.modules.keys()
    if not found.target:
        return
    if plugin.name == BUILT_IN and plugin.distribution != "unlabel":
        plugin.problems.append(f"no plugin may be called {BUILT_IN!r}, which is what the core's own names go by")
        return
    outcome = listener.run(lambda: _imported(found), seconds)
    plugin.offers, plugin.moved, problems, notes = outcome.result or ([], {}, [], [])
    if outcome.failure:
        limit = "; UNLABEL_PLUGIN_SECONDS sets the limit" if outcome.failure.startswith("is not done") else ""
        problems = [outcome.failure + limit]
    if outcome.printed:
        problems.append(f"prints while being imported: {outcome.printed.strip()[:60]!r}")
    if outcome.warned:
        notes.append(f"warns while being imported: {outcome.warned[0]}")
    if heavy := [name for name in _HEAVY if name in sys.modules and name not in before]:
        notes.append(f"imports {' and '.join(heavy)} to be listed, which slows every command")
    plugin.problems += problems
    plugin.notes += notes


_Contents = tuple[list[Offer], dict[tuple[str, str], Moved], list[str], list[str]]


def _imported(found: _Found) -> _Contents:
    """Import a plugin's table of contents and read it: offers, old names, problems and notes."""
    if mismatch := _mismatch(found.plugin.requires):
        return [], {}, [mismatch], []
    name, _, attribute = found.target.partition(":")
    try:
        module: Any = importlib.import_module(name.strip())
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f"its entry point names {found.target}, and there is no module {error.name}"
        ) from None
    if attribute or not isinstance(module, ModuleType):
        raise TypeError(f"its entry point must name a module, e.g. package.plugin; got {found.target}")
    return _contents(found.plugin.name, module)


def _mismatch(requires: Iterable[str]) -> str:
    """Why these requirements do not admit this version of the core, or an empty string."""
    for line in requires:
        name = re.match(r"\s*([\w.-]*)", line)
        if name is None or _normal(name.group(1)) != "unlabel":
            continue
        wanted = line[name.end() :].strip().strip("()")
        admitted = _admits(wanted)
        if admitted is None:
            from packaging.requirements import Requirement  # takes a while to import

            requirement = Requirement(line)
            wanted = str(requirement.specifier)
            applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            admitted = not applies or requirement.specifier.contains(__version__, prereleases=True)
        if not admitted:
            return f"needs unlabel{wanted}, but unlabel {__version__} is installed: upgrade one of them"
    return ""


def _admits(wanted: str) -> bool | None:
    """Whether ``>=1.2,<1.3`` and the like admit this version of the core; None for anything less plain."""
    here = _numbers(__version__)
    for clause in wanted.split(",") if wanted else ():
        plain = re.fullmatch(r"\s*(>=|<=|>|<)\s*([\d.]+)\s*", clause)
        there = _numbers(plain.group(2)) if plain else None
        if plain is None or there is None or here is None:
            return None
        length = max(len(here), len(there))
        left, right = (numbers + (0,) * (length - len(numbers)) for numbers in (here, there))
        if not {">=": left >= right, "<=": left <= right, ">": left > right, "<": left < right}[plain.group(1)]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...] | None:
    return tuple(map(int, version.split("."))) if re.fullmatch(r"\d+(\.\d+)*", version) else None


def _contents(plugin: str, module: ModuleType) -> _Contents:
    """Ask one plugin's hooks, in a manager of its own so that a misspelt hook is caught and attributed."""
    manager = pluggy.PluginManager("unlabel")
    manager.add_hookspecs(hookspecs)
    manager.register(module, name=plugin)
    for hook, caller in vars(manager.hook).items():
        if hook not in HOOKS and not all(implementation.optionalhook for implementation in caller.get_hookimpls()):
            raise AttributeError(f"there is no hook {hook!r}{nearest(hook, HOOKS)}; the hooks are {', '.join(HOOKS)}")
    offers: dict[tuple[str, str], Offer] = {}
    moved: dict[tuple[str, str], Moved] = {}
    problems: list[str] = []
    for kind in HOOKS:
        for implementation in getattr(manager.hook, kind).get_hookimpls():
            for name, target in _table(kind, implementation.function()).items():
                if isinstance(target, Moved):
                    moved[kind, name] = target
                    continue
                offer = _checked(kind, name, target, plugin)
                if problem := _out_of_place(offer, offers.get((kind, name))):
                    problems.append(problem)
                else:
                    offers[kind, name] = offer
    if not offers and not problems:
        raise ValueError(f"offers nothing: does {module.__name__} mark its functions with @hookimpl?")
    for (kind, name), target in moved.items():
        if (kind, target.to) not in offers:
            problems.append(f"{_one(kind)} {name!r} has moved to {target.to!r}, which the plugin does not offer")
    known = {old: target for old, target in moved.items() if (old[0], target.to) in offers}
    return list(offers.values()), known, problems, _ambiguous(offers)


def _out_of_place(offer: Offer, other: Offer | None) -> str:
    """Why a plugin's own name cannot be used, or an empty string."""
    what = f"{_one(offer.kind)} {offer.name!r}"
    prefix, slash, _ = offer.name.rpartition("/")
    if other is not None and other.target != offer.target:
        return f"{what} is offered twice, as {other.target} and as {offer.target}; the second is not used"
    if offer.plugin == BUILT_IN or (slash and prefix == offer.plugin):
        return ""
    if offer.kind in _PREFIXED or slash:
        return f"{what} does not begin with the plugin's own {offer.plugin + '/'!r}; not used"
    return ""


def _ambiguous(offers: Iterable[tuple[str, str]]) -> list[str]:
    """A name that means two things works, but `unlabel show` shows one of them."""
    kinds: dict[str, list[str]] = {}
    for kind, name in offers:
        if kind not in ("commands", "observers"):
            kinds.setdefault(name, []).append(_one(kind))
    return [
        f"{name!r} means several things: {', '.join(of)}; `unlabel show` shows the {of[0]}"
        for name, of in kinds.items()
        if len(of) > 1
    ]


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
