"""What is installed: ``list``, ``plugins``, ``show``."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from unlabel.cli.options import Json, installed
from unlabel.errors import UsageError, nearest

__all__ = ["list_", "plugins", "show"]


class Kind(StrEnum):
    """What a name can be."""

    tasks = "tasks"
    encoders = "encoders"
    datasets = "datasets"
    evaluations = "evaluations"
    optimizers = "optimizers"


def list_(
    kind: Annotated[Kind | None, typer.Argument(help="Only one kind of thing.")] = None,
    as_json: Json = False,
) -> None:
    """What is installed: tasks, encoders, datasets, evaluations."""
    from unlabel.catalog.summary import summary

    catalog = installed()
    kinds = [kind.value] if kind else [entry.value for entry in Kind]
    summaries = {name: [summary(offer) for offer in catalog.offers(name)] for name in kinds}
    for plugin in catalog.plugins:
        for problem in plugin.problems:
            print(f"warning: plugin {plugin.name} ({plugin.distribution}): {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps(summaries, indent=2))
        return
    for name, entries in summaries.items():
        print(f"{name}" if entries else f"{name}  (none)")
        for entry in entries:
            paper = f"  [arXiv {entry['arxiv']}]" if entry["arxiv"] else ""
            print(f"  {entry['name']:<22} {entry['summary']}{paper}")
    if len(catalog.plugins) == 1:
        print(f"\nNo plugin is installed. Plugins bring the tasks; install one for your data:\n{_plugins_to_install()}")


def _plugins_to_install() -> str:
    """The plugins that the core's own metadata knows, as commands."""
    from importlib import metadata

    lines = metadata.requires("unlabel") or []
    names = sorted(
        {line.split(">")[0].split(";")[0].split("<")[0].strip() for line in lines if line.startswith("unlabel-")}
    )
    return "\n".join(f"  pip install {name}" for name in names)


def plugins(as_json: Json = False) -> None:
    """Which plugins are installed, what they offer, and what is wrong with broken ones."""
    from unlabel.catalog.builtin import COMMANDS

    listing: list[dict[str, Any]] = [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "offers": {kind: sorted(o.name for o in plugin.offers if o.kind == kind) for kind in _kinds(plugin)},
            "problems": [
                *plugin.problems,
                *(
                    f"command {o.name!r} is the core's; not used from here"
                    for o in plugin.offers
                    if o.kind == "commands" and o.name in COMMANDS
                ),
            ],
            "notes": plugin.notes,
        }
        for plugin in installed().plugins
    ]
    if as_json:
        print(json.dumps(listing, indent=2))
        return
    for entry in listing:
        offers = (
            ", ".join(
                f"{len(names)} {kind[: -1 if len(names) == 1 else None]}" for kind, names in entry["offers"].items()
            )
            or "nothing"
        )
        print(f"{entry['name']}  {entry['distribution']} {entry['version']}: {offers}")
        for problem in entry["problems"]:
            print(f"  problem: {problem}")
        for note in entry["notes"]:
            print(f"  note: {note}")


def _kinds(plugin: Any) -> list[str]:
    return list(dict.fromkeys(offer.kind for offer in plugin.offers))


def show(
    name: Annotated[str, typer.Argument(help="Name of a task, encoder, dataset, evaluation or optimizer.")],
    as_json: Json = False,
) -> None:
    """Everything about one component: paper, idea, keywords, encoders, recipes."""
    from unlabel.describe import component

    catalog = installed()
    for kind in Kind:
        name = catalog.current(kind.value, name)
    kinds = [kind.value for kind in Kind if name in catalog.names(kind.value)]
    if not kinds:
        names = [known for kind in Kind for known in catalog.names(kind.value)]
        raise UsageError(f"nothing installed is called {name!r}{nearest(name, names)}")
    description = component(catalog.find(kinds[0], name), catalog)
    if as_json:
        print(json.dumps(description, indent=2, default=str))
        return
    idea = description["document"].partition("\nArgs:\n")[0].rstrip()  # the keywords follow anyway, with their types
    print(f"{description['name']}  ({description['kind']} of plugin {description['plugin']})\n\n{idea}\n\nkeywords")
    for entry in description["keywords"]:
        default = "required" if entry["required"] else f"= {entry['default']!r}"
        print(f"  {entry['name']}: {entry['type']} {default}\n      {entry['meaning']}")
    for label in ("encoders", "evaluations"):
        if label == "encoders" and "parts" in description:
            lines = [f"{part}: {', '.join(names)}" for part, names in description["parts"].items()]
            print("\nencoders\n  " + "\n  ".join(lines))
        elif label in description:
            print(f"\n{label}\n  {', '.join(description[label])}")
    for recipe, details in description.get("recipes", {}).items():
        print(f"\nrecipe {recipe}  (data: {details['dataset']})\n  " + details["document"].replace("\n", "\n  "))
