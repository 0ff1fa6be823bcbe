"""``unlabel inspect``: what a folder or archive holds, before training on it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlabel import build, claims, data
from unlabel.catalog.plugins import Catalog
from unlabel.data import Dataset
from unlabel.errors import UsageError, nearest
from unlabel.recipe import Ref

__all__ = ["inspect", "open_dataset", "read_through"]


def inspect(path: str, catalog: Catalog, verify: bool = True) -> dict[str, Any]:
    """Facts about a path (or the name of a dataset), from the first installed dataset that claims it.

    Args:
        path: as given to ``--data``.
        catalog: what is installed.
        verify: read every sample; slower, and the only way to find the broken ones.

    Raises:
        UsageError: no such path, or no dataset knows what to do with it.
    """
    name, dataset = open_dataset(path, catalog)
    facts = {"dataset": name, **(dataset.inspect(verify) or _facts(dataset, verify))}
    if "samples_per_second" in facts:
        facts["seconds_per_epoch_reading"] = round(facts["samples"] / max(1e-9, facts["samples_per_second"]), 2)
    return facts


def _facts(dataset: Dataset, verify: bool) -> dict[str, Any]:
    """What a dataset says of itself, and with `verify` what reading it shows."""
    return {**dataset.info(), **(read_through(dataset) if verify else {})}


def open_dataset(path: str, catalog: Catalog, options: Mapping[str, Any] | None = None) -> tuple[str, Dataset]:
    """Name and dataset of what a user calls by name or path.

    Args:
        path: either.
        catalog: what is installed.
        options: further keywords of the dataset.

    Raises:
        UsageError: no such path, or no dataset knows what to do with it.
    """
    path = catalog.current("datasets", path)
    if path in catalog.names("datasets"):
        return path, build.build_dataset(Ref(path, **(options or {})), catalog)
    place = Path(path).expanduser()
    if not place.exists() and "{" not in path:
        beside = [str(entry) for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        raise UsageError(
            f"there is no path and no dataset called {path!r}{nearest(path, [*beside, *catalog.names('datasets')])}"
        )
    offer = claims.claimant(place, catalog.offers("datasets"))
    return offer.name, build.build_dataset(Ref(offer.name, **{**(options or {}), "path": str(place)}), catalog)


def read_through(dataset: Dataset) -> dict[str, Any]:
    """Read every sample once: how fast, and which cannot be used."""
    broken, begun = [], time.perf_counter()
    for index in range(len(dataset)):
        try:
            dataset[index]
        except data.UNREADABLE as error:
            broken.append({"path": dataset.name_of(index), "reason": data.reason(error)})
    seconds = max(1e-9, time.perf_counter() - begun)
    return {
        "samples_per_second": round(len(dataset) / seconds, 1),
        "broken": broken,
    }
