"""Forecast: how far off is the best of the task's candidates, on the tracks of the test part?

The figures of the published tables, with both of their conventions, next to what needs no learning at all.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from unlabel import Frozen
from unlabel.errors import UsageError
from unlabel_trajectory import forecasting
from unlabel_trajectory.datasets.tracks import TrackDataset
from unlabel_trajectory.forecasting import Forecaster

__all__ = ["forecast", "measure"]


def measure(candidates: Tensor, future: Tensor) -> dict[str, float]:
    """Means over samples of `forecasting.best_of`: candidates (N, K, F, 2), truth (N, F, 2)."""
    return {name: errors.mean().item() for name, errors in forecasting.best_of(candidates, future).items()}


def forecast(frozen: Frozen, *, limit: int = 0, batch_size: int = 512) -> dict[str, float]:
    """Errors of the best of K forecasts on the test part, in the data's unit, which stands in each name.

    ``min_ade`` and ``min_fde``: mean error over the future, and error at its end, of the best candidate, each
    minimum taken by itself (the convention of Social-GAN and most after it). ``ade_of_best_fde``: mean error of the
    candidate that ends nearest (PECNet's convention; larger). Then the same of each scene, if there are several, and
    their plain average; of the last step repeated (``constant_velocity``) and of a straight line through the
    observed steps (``linear``); ``ms_per_sample``, the time of all K forecasts together; ``candidates``, K; and
    ``selected_on_test``, 1 if the weights were chosen by these very tracks (the authors' protocol).

    Args:
        frozen: a task that forecasts, with a data set of tracks.
        limit: use at most so many test tracks, drawn at random; 0 uses all.
        batch_size: tracks per pass.

    Raises:
        UsageError: the task cannot forecast, or the data are no tracks.
    """
    task = frozen.task
    if not isinstance(task, Forecaster):
        raise UsageError(f"trajectory/forecast: {type(task).__name__} cannot forecast; trajectory/ppt can")
    dataset = frozen.dataset("test")
    if not isinstance(dataset, TrackDataset):
        raise UsageError(f"trajectory/forecast needs tracks, and {type(dataset).__name__} holds none")
    order = np.arange(len(dataset))
    if limit and limit < len(order):
        order = np.sort(np.random.default_rng(frozen.seed).permutation(len(order))[:limit])

    parts_of: dict[str, list[Tensor]] = {}
    seconds, count = 0.0, 0
    with torch.inference_mode():
        for batch in frozen.batches("test", None, order=order, batch_size=batch_size):
            track = forecasting.relative(batch["track"], task.observed)
            past, future = track[:, : task.observed], track[:, task.observed :]
            begun = _now(past)
            candidates = task.forecast(past)
            seconds, count = seconds + _now(past) - begun, candidates.shape[1]
            for name, ways in {
                "": candidates,
                "constant_velocity_": forecasting.constant_velocity(past, future.shape[1]),
                "linear_": forecasting.linear_fit(past, future.shape[1]),
            }.items():
                for error, values in forecasting.best_of(ways, future).items():
                    parts_of.setdefault(f"{name}{error}", []).append(values.cpu())
    errors = {name: torch.cat(parts) for name, parts in parts_of.items()}
    return {
        **_summary(errors, dataset, order),
        "ms_per_sample": 1000 * seconds / len(order),
        "candidates": float(count),
        "selected_on_test": float(dataset.selected_on_test),
    }


def _summary(errors: dict[str, Tensor], dataset: TrackDataset, order: np.ndarray) -> dict[str, float]:
    """Means over all samples and over each scene's, the unit in each name."""
    unit = dataset.unit
    means = {
        f"{name}_{unit}": errors[name].double().mean().item() for name in ("min_ade", "min_fde", "ade_of_best_fde")
    }
    for way in ("constant_velocity", "linear"):
        means |= {f"{way}_{name}_{unit}": errors[f"{way}_min_{name}"].double().mean().item() for name in ("ade", "fde")}
    scene = torch.from_numpy(dataset.windows.scene[order])
    present = [number for number in range(len(dataset.scenes)) if bool((scene == number).any())]
    if len(present) > 1:
        each = {
            name: [errors[name][scene == number].double().mean().item() for number in present]
            for name in ("min_ade", "min_fde")
        }
        for name, values in each.items():
            means[f"scenes_average/{name}_{unit}"] = float(np.mean(values))
            means |= {
                f"{dataset.scenes[number]}/{name}_{unit}": value for number, value in zip(present, values, strict=True)
            }
    return means


def _now(tensor: Tensor) -> float:
    """The time, once the device has done its work."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
