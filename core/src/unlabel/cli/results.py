"""What comes of a run: ``report``, ``evaluate``, ``embed``, ``export``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from unlabel.cli.options import Device, Encoder, Json, RunFolder, Trust, installed, open_run

__all__ = ["embed", "evaluate", "export", "report"]


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs; the others are compared with the first.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Default: report.html in the run's folder; of several runs, in this one."),
    ] = None,
) -> None:
    """One HTML file of a run, or of several side by side: results, curves, pictures, how to reproduce it."""
    from unlabel import report as reports

    print(reports.write(folders, out, installed()))


def evaluate(
    folder: RunFolder,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[EVALUATION]...", help="Default: the task's own.")
    ] = None,
    data: Annotated[str | None, typer.Option(metavar="D", help="Another dataset, by name or path.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="K=V",
            help="Of an evaluation, the data or judging, as knn.k=5, judging.test=200. Repeatable.",
        ),
    ] = None,
    encoder: Encoder = None,
    trust: Trust = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Run the downstream evaluations of a run's encoder."""
    from unlabel.terminal import say

    run, options = open_run(folder, trust, encoder), settings or []
    results = run.evaluate(*(names or []), data=data, options=options, device=device, say=say)
    if as_json:
        print(json.dumps(results, indent=2))
        return
    for name, numbers in results.items():
        for measure, value in numbers.items():
            print(f"{name:<16} {measure:<20} {value:.4g}")


def embed(
    folder: RunFolder,
    data: Annotated[str, typer.Option(metavar="D", help="Dataset name or path.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="features.npz or features.parquet")],
    of: Annotated[str, typer.Option(metavar="NAME", help="Which output, of a task with several.")] = "",
    encoder: Encoder = None,
    trust: Trust = None,
    device: Device = "auto",
) -> None:
    """Features of every sample of a dataset, into a file."""
    from unlabel.embed import embed as write

    written = write(open_run(folder, trust, encoder), data, out, device, of)
    print(
        (f"{written['rows']} rows of " if written["rows"] != written["samples"] else "")
        + f"{written['samples']} samples, {written['dim']} numbers each: {out}"
        + (f"; {written['bad']} unreadable left out" if written["bad"] else "")
    )


def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; must not exist.")],
    format_: Annotated[
        str, typer.Option("--format", metavar="F", help="safetensors, onnx, torch-export, or what the encoder offers.")
    ] = "safetensors",
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Load it back as its README says, and compare.")
    ] = True,
    encoder: Encoder = None,
    trust: Trust = None,
) -> None:
    """The encoder alone, in its ecosystem's naming, with a README whose snippet loads it."""
    from unlabel import export as exporting

    exported = exporting.export(open_run(folder, trust, encoder), out, format_, check)
    checked = (
        ""
        if exported["difference"] is None
        else f"; loaded back as its README says, largest difference {exported['difference']:.2g}"
    )
    print(f"{out}: {', '.join(exported['files'])}{checked}")
