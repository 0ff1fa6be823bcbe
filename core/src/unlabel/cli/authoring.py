"""For authors of plugins: ``check``, ``new-plugin``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unlabel.cli.options import Json, installed

__all__ = ["check", "new_plugin"]


def check(
    plugin: Annotated[str, typer.Argument(metavar="PLUGIN", help="Name of a plugin; `unlabel plugins` names them.")],
    only: Annotated[
        list[str] | None,
        typer.Option("--only", "-k", metavar="TEXT", help="Only checks whose id holds this text. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """The contract: whether a plugin's components do what every task, encoder, dataset and so on must."""
    from unlabel.testing.table import check_plugin

    if check_plugin(plugin, only or [], installed(), as_json):
        raise typer.Exit(1)


def new_plugin(
    name: Annotated[str, typer.Argument(help="What your plugin's names will begin with, e.g. sonar for sonar/order.")],
    into: Annotated[Path, typer.Option(metavar="DIR", help="Existing folder to write it into.")] = Path(),
) -> None:
    """A first plugin of your own, written to unlabel-NAME: it installs, trains and passes its tests."""
    from unlabel.scaffold import plugin

    folder = plugin.write(name, into, installed())
    print(f"{folder}/")
    for path in plugin.files(name):
        print(f"  {path}")
    print("\nNext:")
    for command in plugin.commands(name, folder):
        print(f"  {command}")
