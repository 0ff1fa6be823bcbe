"""The application that commands are added to, and what stands before any of them."""

from __future__ import annotations

from typing import Annotated

import typer

from unlabel import __version__

__all__ = ["app"]

app = typer.Typer(
    name="unlabel",
    help="Self-supervised pretext tasks in every modality, under one trainer.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Self-supervised pretext tasks in every modality, under one trainer."""
    if version:
        print(f"unlabel {__version__}")
        raise typer.Exit
