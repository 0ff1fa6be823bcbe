"""Starting a run from Python: ``unlabel.train("sonar/echo_order", data="recordings/")``."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from unlabel import compose
from unlabel.catalog.plugins import Catalog
from unlabel.errors import UsageError
from unlabel.recipe import Recipe
from unlabel.run import Run
from unlabel.session import Session

if TYPE_CHECKING:
    from unlabel.joint import Combine

__all__ = ["new_folder", "train"]


def train(
    what: Recipe | str,
    *,
    data: str | Path | None = None,
    encoder: str | list[str] | None = None,
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int | None = None,
    out: str | Path | None = None,
    catalog: Catalog | None = None,
    observe: Iterable[str] = (),
    overwrite: bool = False,
    evaluate: bool = True,
    quiet: bool = True,
    combine: Combine | None = None,
    **overrides: Any,
) -> Run:
    """Train, evaluate before and after, and write the report into the run's folder, as the command line does.

    Args:
        what: a recipe, or the name of a task (its `quick` recipe), or several joined by ``+``.
        data: dataset name or path; default: the recipe's.
        encoder: catalog name, ``NAME:MODEL`` or ``package.module:factory``, of several ``PART=NAME`` each; default:
            the recipe's.
        steps, epochs, batch_size: of every stage; default: the recipe's.
        out: folder of the run; default: a new one below ``runs/``.
        catalog: what is installed; default: looked up.
        observe: names of further observers.
        overwrite: replace a run that is already at `out`.
        evaluate: whether to run the downstream evaluations.
        quiet: no progress on the terminal.
        combine: how several tasks share encoders, ``sum`` or ``pareto``; see `unlabel.joint`.
        overrides: recipe fields, dots written as double underscores: ``stages__0__lr=3e-4``.

    Raises:
        UsageError: something asked for does not exist or does not fit.
        RunError: training failed; the message says what was saved.
    """
    catalog = catalog or Catalog.installed()
    settings = [f"{name.replace('__', '.')}={json.dumps(value, default=_plain)}" for name, value in overrides.items()]
    settings += [f"task.combine={combine}"] if combine else []
    source = None if data is None else str(data)
    if isinstance(what, str):
        what = compose.task_recipe(compose.current(what, catalog), catalog, "quick", encoder, source)
    length: Any = {"steps": steps, "epochs": epochs, "batch_size": batch_size}
    recipe = compose.adapt(what, catalog, data=source, encoder=encoder, settings=settings, **length)
    folder = new_folder(Path(out) if out else None, recipe, overwrite)
    Session(recipe, folder, catalog, observe=tuple(observe), evaluate=evaluate, quiet=quiet).run()
    return Run(folder, catalog)


def _plain(value: Any) -> Any:
    """Paths as text, and a Ref or Stage as what it is in a file."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)


def new_folder(out: Path | None, recipe: Recipe, overwrite: bool) -> Path:
    """Where the run goes: a folder that does not exist yet, or an old run to replace.

    Raises:
        UsageError: the folder is taken and `overwrite` is not given, or it is not a run at all.
    """
    if out is None:
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        out = Path("runs") / f"{recipe.name.replace('/', '-')}-{stamp}"
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; give a folder that does not exist yet")
    if out.is_dir() and any(out.iterdir()) and os.environ.get("RANK", "0") == "0":  # the others come later
        if not overwrite:
            raise UsageError(
                f"--out {out} already exists and is never overwritten: give another name, add --overwrite, "
                f"or continue it with `unlabel resume {out}`"
            )
        if not (out / "recipe.json").is_file():
            raise UsageError(f"--overwrite: {out} holds no run (no recipe.json), so it is left alone")
    return out
