"""Hook of the site's builder: adds the pages that are written from the installed catalog and from the source.

``mkdocs build --strict`` calls `on_files`. Nothing is written into the documents' folder; the same installation
gives the same pages.
"""

from __future__ import annotations

import ast
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import components
import reference
from components import Page
from docstrings import prose, table
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from unlabel import Catalog, UsageError

__all__ = ["generated", "on_files", "on_page_markdown", "warn_of_problems"]

ROOT = Path(__file__).resolve().parents[2]
LOG = logging.getLogger("mkdocs.hooks.unlabel")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and put them into the navigation where it names their group."""
    catalog = Catalog.installed()
    warn_of_problems(catalog, LOG.warning)
    try:
        groups = generated(catalog)
    except UsageError as error:  # a name that cannot be loaded: the message says whose
        raise PluginError(str(error)) from error
    for group in groups.values():
        for path, _, text in group:
            files.append(File.generated(config, path, content=text))
    config.nav = _filled(config.nav, groups)
    return files


def warn_of_problems(catalog: Catalog, warn: Callable[..., None]) -> None:
    """Say which plugins, or names of them, will be missing; in strict mode that fails the build."""
    for plugin in catalog.plugins:
        for problem in plugin.problems:
            warn("plugin %s (%s) has no pages: %s", plugin.name, plugin.distribution, problem)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill in the table of the contract's checks where a page asks for it."""
    return (
        markdown.replace("<!-- contract checks -->", _checks()) if "<!-- contract checks -->" in markdown else markdown
    )


def _checks() -> str:
    """Every check of the contract, by what it is about."""
    from unlabel.testing.checks import CHECKS, PLUGIN_CHECKS

    text = ""
    for kinds in dict.fromkeys(check.kinds for check in (*PLUGIN_CHECKS, *CHECKS)):
        found = [check for check in (*PLUGIN_CHECKS, *CHECKS) if check.kinds == kinds]
        rows = [(f"`{check.name}`", prose(check.summary)) for check in found]
        title = {"plugin": "the plugin as a whole"}.get(kinds[0], kinds[0]) if len(kinds) == 1 else ", ".join(kinds)
        text += f"### {title[0].upper()}{title[1:]}\n\n{table(('check', 'what it asks'), rows)}\n\n"
    return text


def generated(catalog: Catalog) -> dict[str, list[Page]]:
    """Every generated page by the group that the navigation names it by."""
    return {
        "tasks": list(components.tasks(catalog)),
        **{kind: [components.others(kind, catalog)] for kind in components.INTRODUCTION},
        "commands": [reference.commands(catalog)],
        "recipe fields": [reference.recipes()],
        "python": [reference.public()],
        "modules": list(reference.modules()),
        "results": list(_results()),
    }


def _results() -> Iterator[Page]:
    """What the benchmarks wrote, each with what its script says of itself; and an overview."""
    overview = (
        "# Benchmarks\n\nEvery published figure comes out of a script in `benchmarks/`, which writes its table, with"
        " the machine and the commands, to `benchmarks/results/`. These pages are those files.\n\n"
    )
    pages = []
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        title, _, body = text.removeprefix("# ").partition("\n")
        script = ROOT / "benchmarks" / f"{path.stem}.py"
        about = ""
        if script.exists():
            about = prose(
                (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n\n    ")[0]
            )
        pages.append((f"benchmarks/{path.stem}.md", title, f"# {title}\n\n{about}\n\n## Results\n{body}"))
        overview += f"- [{title}](benchmarks/{path.stem}.md)\n"
    yield "benchmarks.md", "Overview", overview
    yield from pages


def _filled(entry: object, groups: dict[str, list[Page]]) -> object:
    """The navigation with ``<name>`` replaced by the pages of that group; tasks are sorted by plugin."""
    if isinstance(entry, dict):
        return {title: _filled(value, groups) for title, value in entry.items()}
    if not isinstance(entry, list):
        name = str(entry).strip("<>")
        return groups[name][0][0] if entry == f"<{name}>" else entry
    filled: list[object] = []
    for item in entry:
        name = str(item).strip("<>")
        if item == f"<{name}>":
            filled += _entries(groups[name])
        else:
            filled.append(_filled(item, groups))
    return filled


def _entries(pages: list[Page]) -> list[object]:
    """Pages as entries of the navigation; those in a folder of a plugin stand under its name."""
    entries: list[object] = []
    sections: dict[str, list[object]] = {}
    for path, title, _ in pages:
        parts = Path(path).parts
        if len(parts) > 2 and parts[0] == "tasks":
            if parts[1] not in sections:
                sections[parts[1]] = []
                entries.append({parts[1]: sections[parts[1]]})
            sections[parts[1]].append({title: path})
        else:
            entries.append({title: path})
    return entries
