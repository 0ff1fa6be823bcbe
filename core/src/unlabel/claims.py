"""Which dataset a user means: one by name, or the one that claims a path for what it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from unlabel import signature
from unlabel.errors import UsageError, nearest
from unlabel.recipe import Recipe, Ref

if TYPE_CHECKING:
    from unlabel.catalog.plugins import Catalog, Offer

__all__ = ["claimant", "dataset_ref"]


def dataset_ref(data: str, recipe: Recipe, catalog: Catalog) -> Ref:
    """The dataset a user means: a catalog name, or a path that a dataset of the task's plugin claims.

    Args:
        data: what was typed.
        recipe: whose dataset is replaced; if it is of the same kind, its keywords are kept.
        catalog: what is installed.

    Raises:
        UsageError: neither a name nor a path, or no dataset knows what to do with the path.
    """
    names, data = catalog.names("datasets"), catalog.current("datasets", data)
    if data in names:
        return recipe.dataset if recipe.dataset.name == data else Ref(data)
    path = Path(data).expanduser()
    if "{" in data or path.exists():
        # the tasks' own plugins' datasets first; then those of the plugin whose data the recipe borrows
        owners = dict.fromkeys(ref.name.partition("/")[0] for ref in (*recipe.tasks, recipe.dataset))
        offers = catalog.offers("datasets")
        candidates = [offer for owner in owners for offer in offers if offer.name.startswith(f"{owner}/")]
        name = claimant(path, candidates).name
        options = recipe.dataset.options if recipe.dataset.name == name else {}
        return Ref(name, **{**options, "path": str(path.absolute())})  # a run may be resumed from another folder
    beside = [str(entry) for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UsageError(
        f"--data {data}: there is no such path, and no dataset of that name{nearest(data, [*names, *beside])}"
    )


def claimant(path: Path, candidates: Iterable[Offer]) -> Offer:
    """The first of these datasets that claims a path; one that claims anything alike only if no other does.

    Raises:
        UsageError: none does; says what is there, and which datasets could not be asked.
    """
    datasets, unloadable, fallback = [], [], None
    for offer in candidates:
        try:
            kind = offer.load()
        except UsageError as error:  # one that lacks a library must not hide the others
            unloadable.append(str(error))
            continue
        if (fallback is None or not kind.fallback) and kind.claims(path):
            if not kind.fallback:
                return offer
            fallback = offer
        if "path" in signature.parameters(kind):
            datasets.append(offer.name)
    if fallback is not None:
        return fallback
    raise UsageError(
        "; ".join([f"{path} is none of {', '.join(datasets) or 'any dataset'}: {_content(path)}", *unloadable])
    )


def _content(path: Path) -> str:
    """What lies at a path no dataset wants, in a few words."""
    if not path.exists():
        return "no file matches"
    if path.is_file():
        return f"it is a {path.suffix or 'nameless'} file of {max(1, path.stat().st_size // 1000):,} kB"
    files = (entry for entry in path.rglob("*") if entry.is_file())
    endings = Counter(file.suffix.lower() or "nameless" for file in islice(files, 10_000))
    listing = ", ".join(f"{ending} ({count})" for ending, count in endings.most_common(5))
    return f"the folder holds {listing}" if endings else "the folder is empty"
