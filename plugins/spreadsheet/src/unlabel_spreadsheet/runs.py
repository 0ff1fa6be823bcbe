"""The command ``unlabel spreadsheet``: several runs side by side, one row each."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unlabel import RunError, UsageError
from unlabel_spreadsheet import table

if TYPE_CHECKING:
    from unlabel import Run

__all__ = ["differing", "fields", "flat", "row", "spreadsheet"]


def spreadsheet(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Where to write; default: standard output.")
    ] = None,
    all_fields: Annotated[
        bool, typer.Option("--all-fields", help="Also recipe fields that are equal in all runs.")
    ] = False,
) -> None:
    """One row a run: what differs between the recipes, final metrics, evaluations before and after."""
    if out is not None and out.suffix != ".csv":
        raise UsageError(f"--out {out}: expected a file ending in .csv")
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}")
    from unlabel import Catalog, Run  # here: it imports torch, which --help can do without

    catalog = Catalog.installed()
    opened = [Run(folder, catalog) for folder in dict.fromkeys(runs)]
    recipes = [flat(run.recipe.model_dump(mode="json")) for run in opened]
    shown = fields(recipes) if all_fields else differing(recipes)
    rows = [row(run, {name: recipe.get(name) for name in shown}) for run, recipe in zip(opened, recipes, strict=True)]
    columns = list(dict.fromkeys(name for cells in rows for name in cells))
    grouped = sorted(columns, key=_group)  # stable: within a group as they came up
    if out is None:
        text = io.StringIO()
        table.write(rows, grouped, text)
        print(text.getvalue(), end="")
        return
    try:
        table.write_aside(rows, grouped, out)
    except OSError as error:
        raise RunError(f"--out {out} cannot be written: {error.strerror or error}") from error
    print(f"{out}: {len(rows)} run{'s' * (len(rows) > 1)}, {len(grouped)} columns")


def row(run: Run, recipe_fields: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run.

    Args:
        run: finished or not; what it does not have is left out.
        recipe_fields: fields of its recipe, to be shown.

    Returns:
        column -> value.
    """
    metrics, results = run.metrics, run.evaluations
    final = {name: value for record in metrics for name, value in record.items()}  # the last one that was logged
    place = {"stage", "step", "epoch", "total_step"}
    cells: dict[str, Any] = {"run": str(run.folder), "task": run.recipe.task.name}
    cells |= recipe_fields
    cells |= {"updates": final.get("total_step", 0), "finished": "yes" if results else "no"}
    cells |= {f"final.{name}": value for name, value in final.items() if name not in place}
    for when in ("before", "after"):
        cells |= {f"{when}.{name}": value for name, value in flat(results.get(when, {})).items()}
    if results:
        cells["seconds"] = results.get("seconds")
        cells["health"] = "; ".join(f"{level}: {sentence}" for level, sentence in results.get("health", []))
    return cells


def fields(recipes: list[dict[str, Any]]) -> list[str]:
    """All fields of these, in the order of a recipe: those of the task first, whichever run has them."""
    names = list(dict.fromkeys(name for recipe in recipes for name in recipe))
    parts = list(dict.fromkeys(name.partition(".")[0] for name in names))
    return sorted(names, key=lambda name: parts.index(name.partition(".")[0]))


def differing(recipes: list[dict[str, Any]]) -> list[str]:
    """Fields that are not the same in all of these."""
    missing = object()
    first = recipes[0]
    return [
        name
        for name in fields(recipes)
        if any(other.get(name, missing) != first.get(name, missing) for other in recipes)
    ]


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested values under the names that ``--set`` takes: ``stages.0.lr``; a list of numbers stays in one piece."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        pairs = list(enumerate(value))
    elif isinstance(value, list):
        return {prefix: " ".join(map(str, value))}
    else:
        return {prefix: value}
    start = f"{prefix}." if prefix else ""
    return {name: leaf for key, entry in pairs for name, leaf in flat(entry, f"{start}{key}").items()}


def _group(column: str) -> int:
    """The run, its recipe, how it went, evaluations."""
    order = {"run": 0, "updates": 2, "finished": 2, "final": 3, "before": 4, "after": 5, "seconds": 6, "health": 6}
    return order.get(column.partition(".")[0], 1)
