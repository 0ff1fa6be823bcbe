"""Writes a complete plugin: a distribution that installs, trains, resumes, evaluates and passes its own tests.

What is written lies under ``template/`` as it will be, with three differences: every file ends in ``.txt``, a leading
dot is written ``dot-``, and ``NAME`` stands for the plugin's name, ``CORE`` and ``NEXT`` for the versions of the core
that it is made for.
"""

from __future__ import annotations

import contextlib
import importlib.util
import keyword
import os
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from unlabel import __version__
from unlabel.catalog.plugins import BUILT_IN, GROUP, Catalog
from unlabel.errors import RunError, UsageError
from unlabel.storage.files import writing_folder

__all__ = ["commands", "files", "write"]

_LONGEST = 30  # the longest for which every line that is written has at most 120 characters
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_RESERVED = {BUILT_IN, "unlabel", "test", "tests", "plugin", "plugins"}


def write(name: str, into: Path, catalog: Catalog) -> Path:
    """Write the plugin `name` to the new folder ``into/unlabel-<name>``.

    It is written aside and renamed, so that what is there under its name is always whole.

    Args:
        name: of the plugin, the prefix of everything it offers.
        into: an existing folder.
        catalog: what is installed; `name` must not be among it.

    Returns:
        The plugin's folder.

    Raises:
        UsageError: the name cannot be used, `into` is no folder that can be written to, or the plugin's is taken.
        RunError: it could not be written (a full disk, say); nothing is left of it.
    """
    _check_name(name)
    _check_free(name, catalog)
    if not into.is_dir():
        what = "is a file" if into.exists() else "does not exist"
        raise UsageError(f"--into {into} {what}; give an existing folder")
    folder = into / f"unlabel-{name}"
    if os.path.lexists(folder):
        raise UsageError(f"{folder} already exists and is never overwritten: give another name, or another --into")
    try:
        with contextlib.ExitStack() as stack:
            try:
                aside = stack.enter_context(writing_folder(folder))
            except OSError as error:
                raise UsageError(f"--into {into} cannot be written to: {error.strerror}") from error
            for path, text in files(name).items():
                place = aside / path
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"{folder} could not be written, and nothing is left of it: {error}") from error
    return folder


def files(name: str) -> dict[PurePosixPath, str]:
    """What the plugin `name` consists of: path within its folder -> text."""
    major, minor = (int(part) for part in __version__.split(".")[:2])
    values = {"NAME": name, "CORE": f"{major}.{minor}", "NEXT": f"{major}.{minor + 1}"}

    def filled(text: str) -> str:
        return re.sub("|".join(values), lambda match: values[match[0]], text)

    template = resources.files("unlabel.scaffold") / "template"
    contents = {
        PurePosixPath(filled(re.sub(r"(^|/)dot-", r"\1.", path.removesuffix(".txt")))): filled(entry.read_text("utf-8"))
        for path, entry in _entries(template, "")
    }
    return dict(sorted(contents.items()))


def commands(name: str, folder: Path) -> list[str]:
    """What its author types next, in this order, in a shell: install it, test it, train, evaluate."""
    path = str(folder) if folder.is_absolute() else f"./{folder}"  # pip takes only a path with a slash for a path
    return [
        f"pip install -e {shlex.quote(f'{path}[test]')}",
        f"pytest {shlex.quote(path)}",
        f"unlabel train {name}/order --recipe quick --out runs/{name}",
        f"unlabel evaluate runs/{name}",
    ]


def _entries(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    """The template's files below `folder`, with their paths."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _entries(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".txt"):  # an editor's backup is not ours
            yield prefix + entry.name, entry


def _check_name(name: str) -> None:
    """UsageError if no plugin may be called so, whatever is installed."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST or name.startswith("unlabel"):
        likely = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_").removeprefix("unlabel_")[:_LONGEST].strip("_")
        hint = f"; did you mean {likely}?" if likely != name and _NAME.fullmatch(likely) else ""
        raise UsageError(
            f"{name!r} cannot be a plugin's name: expected at most {_LONGEST} lower-case letters, digits and single "
            f"underscores, beginning with a letter, without 'unlabel'{hint}"
        )
    taken = {
        "one of Python's keywords": keyword.iskeyword(name),
        "kept for unlabel itself": name in _RESERVED,
        "a module of Python's standard library": name in sys.stdlib_module_names,
    }
    for what, is_so in taken.items():
        if is_so:
            raise UsageError(f"{name!r} cannot be a plugin's name, because it is {what}: give another one")


def _check_free(name: str, catalog: Catalog) -> None:
    """UsageError if something that is installed, or published with the core, goes by that name already."""
    another = "give another name"
    for plugin in catalog.plugins:
        if name == plugin.name or name in {offer.name.partition("/")[0] for offer in plugin.offers}:
            raise UsageError(f"plugin {plugin.name!r} of {plugin.distribution} already goes by {name!r}: {another}")
    for entry in metadata.entry_points(group=GROUP):  # those that UNLABEL_PLUGINS keeps from being loaded, too
        if name == entry.name:
            raise UsageError(f"a plugin {name!r} is already installed ({entry.value}): {another}")
    if name in _published():
        raise UsageError(f"{name!r} is a plugin of unlabel's own, unlabel-{name}: install that one, or {another}")
    for distribution in metadata.distributions(name=f"unlabel-{name}"):
        raise UsageError(f"a distribution {distribution.name} is already installed: {another}, or uninstall it")
    spec = importlib.util.find_spec(f"unlabel_{name}")
    if spec is not None:
        where = f" from {spec.origin}" if spec.origin else ""
        raise UsageError(f"a package unlabel_{name} can already be imported{where}: {another}")


def _published() -> set[str]:
    """Names of the plugins that the core's own metadata knows."""
    requirements = metadata.requires("unlabel") or []
    matches = (re.match(r"unlabel-([\w-]+)", requirement) for requirement in requirements)
    return {match[1].replace("-", "_") for match in matches if match}
