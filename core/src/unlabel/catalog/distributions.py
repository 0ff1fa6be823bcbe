"""Plugins that are installed, out of the metadata of distributions: nothing of theirs is imported."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import site
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, EntryPoint

from unlabel.catalog.offers import Plugin
from unlabel.catalog.requirements import normalized
from unlabel.errors import one_line

__all__ = ["GROUP", "Installed", "installed"]

GROUP = "unlabel"
"""Entry points of this group are plugins."""


@dataclass
class Installed:
    """A plugin that is installed and not loaded yet, and where its module is."""

    plugin: Plugin
    target: str


def installed() -> Iterator[Installed]:
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
        if normalized(name) in seen:  # what comes first on the path is what an import would find
            continue
        seen.add(normalized(name))
        try:
            entries = list(distribution.entry_points.select(group=GROUP))
        except Exception as error:
            problem = f"its entry_points.txt cannot be read ({one_line(error)})"
            yield Installed(Plugin(name, name, version, problems=[problem]), "")
            continue
        yield from _of_entries(entries, name, version, requires)


def _of_entries(
    entries: list[EntryPoint], distribution: str, version: str, requires: tuple[str, ...]
) -> Iterator[Installed]:
    """One plugin for each name; a name that stands twice goes to the first."""
    plugins: dict[str, Plugin] = {}
    for entry in entries:
        if entry.name not in plugins:
            plugins[entry.name] = Plugin(entry.name, distribution, version, requires=requires)
            yield Installed(plugins[entry.name], re.sub(r"\s*\[.*\]\s*$", "", entry.value))  # without extras
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
