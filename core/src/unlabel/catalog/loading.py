"""A plugin is loaded: its table of contents is imported and read, and what is wrong with it becomes a sentence."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import pluggy

from unlabel.catalog import hookspecs, requirements
from unlabel.catalog.confine import Listener
from unlabel.catalog.deprecation import Moved
from unlabel.catalog.distributions import Installed
from unlabel.catalog.hookspecs import HOOKS
from unlabel.catalog.offers import BUILT_IN, Offer, singular
from unlabel.errors import nearest

__all__ = ["load"]

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_PREFIXED = ("tasks", "encoders", "datasets", "optimizers")
_HEAVY = ("torch", "numpy", "scipy", "sklearn", "pandas")


def load(entry: Installed, listener: Listener, seconds: float) -> None:
    """Load one plugin; whatever goes wrong becomes a problem of that plugin, with nothing offered."""
    plugin, before = entry.plugin, set(_HEAVY) & sys.modules.keys()
    if not entry.target:
        return
    if plugin.name == BUILT_IN and plugin.distribution != "unlabel":
        plugin.problems.append(f"no plugin may be called {BUILT_IN!r}, which is what the core's own names go by")
        return
    outcome = listener.run(lambda: _imported(entry), seconds)
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


def _imported(entry: Installed) -> _Contents:
    """Import a plugin's table of contents and read it: offers, old names, problems and notes."""
    if mismatch := requirements.mismatch(entry.plugin.requires):
        return [], {}, [mismatch], []
    name, _, attribute = entry.target.partition(":")
    try:
        module: Any = importlib.import_module(name.strip())
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise ModuleNotFoundError(
            f"its entry point names {entry.target}, and there is no module {error.name}"
        ) from None
    if attribute or not isinstance(module, ModuleType):
        raise TypeError(f"its entry point must name a module, e.g. package.plugin; got {entry.target}")
    return _contents(entry.plugin.name, module)


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
            problems.append(f"{singular(kind)} {name!r} has moved to {target.to!r}, which the plugin does not offer")
    known = {old: target for old, target in moved.items() if (old[0], target.to) in offers}
    return list(offers.values()), known, problems, _ambiguous(offers)


def _out_of_place(offer: Offer, other: Offer | None) -> str:
    """Why a plugin's own name cannot be used, or an empty string."""
    what = f"{singular(offer.kind)} {offer.name!r}"
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
            kinds.setdefault(name, []).append(singular(kind))
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
