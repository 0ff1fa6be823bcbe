"""Options that several commands share, and what their values mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unlabel.errors import UsageError

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog
    from unlabel.run import Run

__all__ = [
    "Device",
    "Encoder",
    "Json",
    "Observe",
    "RunFolder",
    "Trust",
    "init_sources",
    "installed",
    "open_run",
    "separated",
    "trusting",
]


Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")]
Device = Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:N.")]
Encoder = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Encoder: a name, NAME:MODEL (PLUGIN/NAME:MODEL) or package.module:factory; of several, PART=NAME each.",
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A package.module:name that a file mentions and that may be imported."),
]

Observe = Annotated[str | None, typer.Option(metavar="NAMES", help="Further loggers: tensorboard,wandb or a plugin's.")]


def separated(text: str | None) -> tuple[str, ...]:
    """Names between commas, each once."""
    return tuple(dict.fromkeys(name.strip() for name in (text or "").split(",") if name.strip()))


def init_sources(sources: list[str] | None) -> str | dict[str, str] | None:
    """One source for the only encoder, or sources by the encoders' names."""
    if not sources:
        return None
    parted = [(part, source) for part, equals, source in (text.partition("=") for text in sources) if equals]
    named = {part: source for part, source in parted if part.isidentifier()}
    if len(named) == len(sources):
        return named
    if len(sources) > 1:
        raise UsageError(f"--init {' --init '.join(sources)}: give one, or PART=SOURCE for each encoder")
    return sources[0]


def installed() -> Catalog:
    """What is installed."""
    from unlabel.catalog.plugins import Catalog  # here, because --help needs none

    return Catalog.installed()


def trusting(*names: list[str] | None) -> Catalog:
    """The catalog, with what the user typed: those names may be imported although a file mentions them."""
    catalog = installed()
    for name in (name for several in names for name in several or ()):
        catalog.trusted.add(name.rpartition("=")[2])
    return catalog


def open_run(folder: Path, *trusted: list[str] | None) -> Run:
    """The run in a folder, with what the user typed for its encoder."""
    from unlabel.run import Run

    return Run(folder, trusting(*trusted))
