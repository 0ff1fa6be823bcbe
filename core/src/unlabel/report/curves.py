"""Curves of a report: which numbers were logged, in which order they are shown, and few enough points of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from unlabel.report.reading import RunFiles

__all__ = ["curves", "thinned"]

_POINTS = 60_000  # of all curves of a report together
_NOT_SHOWN = ("stage", "step", "epoch", "total_step", "seconds")
_MONITORS = ("knn", "rankme", "feature_std")
_COST = ("lr", "samples_per_second", "gradient_norm")
_LABELS = {
    "knn": "k-NN accuracy, online",
    "rankme": "RankMe of the features",
    "feature_std": "spread of the features",
    "lr": "learning rate",
    "samples_per_second": "samples a second",
    "gradient_norm": "gradient norm",
}


def curves(runs: Sequence[RunFiles]) -> list[dict[str, Any]]:
    """What the page draws: ``{"name", "label", "group", "series": [{"run", "x", "y"}]}``, losses first.

    ``x`` are updates of the whole run; a value that is not finite is None. Each series also has ``first``, ``lowest``,
    ``highest`` and ``last``, of its finite values.
    """
    series: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {}
    for place, run in enumerate(runs):
        names = dict.fromkeys(name for line in run.lines for name in line if name not in _NOT_SHOWN)
        for name in names:
            lines = [line for line in run.lines if name in line]
            x = np.array([line["total_step"] for line in lines])
            series.setdefault(name, []).append((place, x, np.array([line[name] for line in lines])))
    most = max(50, _POINTS // max(1, sum(map(len, series.values()))))
    return [
        {
            "name": name,
            "label": _LABELS.get(name, name.replace("_", " ")),
            "group": "checks" if name in _MONITORS else "course" if name in _COST else "training",
            "series": [_series(place, *thinned(x, y, most)) for place, x, y in series[name]],
        }
        for name in sorted(series, key=_order)
    ]


def _order(name: str) -> tuple[int, str]:
    if name == "loss":
        return 0, name
    if name in _MONITORS:
        return 3 + _MONITORS.index(name), name
    if name in _COST:
        return 8 + _COST.index(name), name
    return 1 if name.startswith("loss") else 2, name


def _series(place: int, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    finite = y[np.isfinite(y)]
    ends = (finite[0], finite.min(), finite.max(), finite[-1]) if len(finite) else (math.nan,) * 4
    return {
        "run": place,
        "x": [int(value) for value in x],
        "y": [float(f"{value:.5g}") if math.isfinite(value) else None for value in y],
        **{
            name: float(value) if math.isfinite(value) else None
            for name, value in zip(("first", "lowest", "highest", "last"), ends, strict=True)
        },
    }


def thinned(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` points: of every stretch the lowest and the highest, so that no peak is lost.

    Args:
        x: float, (N,), ascending; y: float, (N,), of any value.
        most: at least 4; first and last point are always kept.
    """
    if len(x) <= most:
        return x, y
    places = {0, len(x) - 1}
    places |= {int(place) for place in np.flatnonzero(~np.isfinite(y))[:most]}
    for part in np.array_split(np.arange(len(x)), max(1, (most - 2) // 2)):
        values = np.where(np.isfinite(y[part]), y[part], 0.0)
        places |= {int(part[values.argmin()]), int(part[values.argmax()])}
    order = np.array(sorted(places))
    return x[order], y[order]
