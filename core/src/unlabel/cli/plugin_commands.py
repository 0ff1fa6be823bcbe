"""Commands of plugins: named in the help, imported when asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import typer

from unlabel.cli.application import app
from unlabel.cli.errors import message
from unlabel.cli.options import installed
from unlabel.errors import UsageError

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Offer

__all__ = ["add"]


def add(own: Collection[str]) -> None:
    """Add the subcommands of plugins; looked up only when the first word is none of ours, or none: for the help.

    Args:
        own: names of the core's commands, which no plugin's can have.
    """
    app.registered_commands[:] = [entry for entry in app.registered_commands if entry.name in own]
    wanted = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if wanted in own or "--version" in sys.argv:
        return
    catalog = installed()
    offers = {offer.name: offer for offer in catalog.offers("commands") if offer.name not in own}
    if (name := catalog.current("commands", wanted)) in offers:
        app.command(wanted)(_loaded(offers[name]))
        return
    for offer in offers.values():  # named only, for the help and for "did you mean"; none is imported
        from unlabel.catalog.summary import summary

        panel = f"Commands of plugin {offer.plugin}"
        app.command(offer.name, help=summary(offer)["summary"], rich_help_panel=panel)(lambda: None)


def _loaded(offer: Offer) -> Callable[..., Any]:
    """A plugin's function, which typer can make a command of."""
    function: Callable[..., Any] = offer.load()
    try:
        trial = typer.Typer(add_completion=False)
        trial.command()(function)
        typer.main.get_command(trial)
    except Exception as error:
        raise UsageError(
            f"command {offer.name!r} of plugin {offer.plugin!r} cannot be used, "
            f"because {offer.target} is no typed function: {message(error)}"
        ) from error
    return function
