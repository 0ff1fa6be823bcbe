"""``unlabel inspect``: what a folder or archive holds, before training on it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from unlabel import data
from unlabel.data import Dataset
from unlabel.errors import UsageError, nearest
from unlabel.plugins import Catalog

__all__ = ["inspect", "read_through"]


def inspect(path: str, catalog: Catalog, verify: bool = True) -> dict[str, Any]:
    """Facts about a path (or the name of a dataset), from the first installed dataset that claims it.

    Args:
        path: as given to ``--data``.
        catalog: what is installed.
        verify: read every sample; slower, and the only way to find the broken ones.

    Raises:
        UsageError: no such path, or no dataset knows what to do with it.
    """
    place = Path(path).expanduser()
    if path in catalog.names("datasets"):
        dataset: Dataset = catalog.load("datasets", path)()
        return {"dataset": path, **dataset.inspect(verify)}
    if not place.exists() and "{" not in path:
        beside = [str(entry) for entry in place.parent.iterdir()] if place.parent.is_dir() else []
        raise UsageError(f"there is no {path}{nearest(path, [*beside, *catalog.names('datasets')])}")
    for offer in catalog.offers("datasets"):
        kind = offer.load()
        if kind.claims(place):
            return {"dataset": offer.name, **kind(path=place).inspect(verify)}
    raise UsageError(f"{path}: no installed dataset knows what to do with it; `unlabel list datasets` names them")


def read_through(dataset: Dataset) -> dict[str, Any]:
    """Read every sample once: how fast, and which cannot be used."""
    broken, begun = [], time.perf_counter()
    for index in range(len(dataset)):
        try:
            dataset[index]
        except data.UNREADABLE as error:
            broken.append({"path": dataset.name_of(index), "reason": data.reason(error)})
    seconds = max(1e-9, time.perf_counter() - begun)
    return {"samples_per_second": round(len(dataset) / seconds, 1), "seconds_per_epoch_reading": round(seconds, 2), "broken": broken}
