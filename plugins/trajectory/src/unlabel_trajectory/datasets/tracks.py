"""What every data set of tracks offers: one table on the device, honest selection, units."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unlabel import seeds
from unlabel.data import Dataset
from unlabel.errors import UsageError
from unlabel.task import Batch, Sample
from unlabel_trajectory import reading, windows
from unlabel_trajectory.windows import Unit, Windows

__all__ = ["Select", "TrackDataset", "check_lengths", "cut_file"]

Select = Literal["held-out", "test", "none"]
"""By which windows a task may choose among its own weights: a tenth of the training agents; the test windows, as
the authors of published tables mostly do (their figures are optimistic); or not at all: the last weights count."""

_HELD_OUT = 0.1
_SELECTION = 1024  # windows; more would cost time and decide nothing else


class TrackDataset(Dataset):
    """Windows of tracks, with those a task may select by.

    Fields of a sample: ``track``, float32 (T, 2), relative to the last observed position; ``origin``, float32 (2,),
    that position; ``scene``, an index into `scenes`; ``row``, the sample's row in the context's ``tracks``. The
    context holds ``tracks``, float32 (N, T, 2), all training windows, and ``held_out``, (M, T, 2), unless there is
    nothing to select by.

    Args:
        train: training windows, held-out ones included.
        test: held out for evaluations, or None.
        observed: positions that a forecast may see.
        select: see `Select`.
        labels: int64 of the training windows and of the test windows; None where nobody says what the agents are.
        classes: names of the labels.

    Attributes:
        unit: "m" or "px". scenes: names. observed, future: positions of a window. selected_on_test: whether weights
            are chosen by the test windows. windows: the part's own.
    """

    def __init__(
        self,
        train: Windows,
        test: Windows | None,
        *,
        observed: int,
        select: Select,
        labels: tuple[np.ndarray, np.ndarray] | None = None,
        classes: tuple[str, ...] | None = None,
    ):
        self.observed = observed
        self.selected_on_test = select == "test"
        if select == "test" and test is None:
            raise UsageError("dataset.select=test: these data have no test part to select by; use held-out or none")
        keep = out = np.zeros(len(train), dtype=bool)
        if select == "held-out":
            keep, out = windows.by_agent(train, _HELD_OUT, 0xE1)
            if not out.any() or not keep.any():
                reading.warn(
                    f"{train.scenes[0]}: {len(np.unique(train.agent))} agent(s) are too few to hold any out for "
                    "selection: the last weights will be used"
                )
                keep, out = np.ones_like(keep), np.zeros_like(out)
        else:
            keep = np.ones_like(keep)
        selection = test if select == "test" else train.take(out)
        assert selection is not None
        drawn = np.sort(seeds.permutation(len(selection), 0xE2)[:_SELECTION])
        self._selection = self._relative(selection.take(drawn))[0]
        self._test = test
        self._test_labels = None if labels is None else labels[1]
        self.classes = classes
        self._hold(train.take(keep), None if labels is None else labels[0][keep])
        self._part = "train"

    def _hold(self, held: Windows, labels: np.ndarray | None) -> None:
        self.windows, self.labels = held, labels
        self.unit: Unit = held.unit
        self.scenes = held.scenes
        self.future = held.positions.shape[1] - self.observed
        track, origin = self._relative(held)
        # arrays, not tensors, which other processes would have to fetch one by one instead of getting a copy
        self._columns: dict[str, np.ndarray] = {
            "track": track,
            "origin": origin,
            "scene": held.scene.astype(np.int64),
            "row": np.arange(len(held)),
        }

    def _relative(self, held: Windows) -> tuple[np.ndarray, np.ndarray]:
        """Tracks relative to their last observed position, subtracted in float64, and that position; float32."""
        origin = held.positions[:, self.observed - 1]
        track = held.positions - origin[:, None]
        return track.astype(np.float32), origin.astype(np.float32)

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = {name: self._columns[name][index].copy() for name in ("track", "origin")}
        numbers = {name: int(self._columns[name][index]) for name in ("scene", "row")}
        label = {} if self.labels is None else {"label": int(self.labels[index])}
        return {**sample, **numbers, **label}

    def table(self) -> Batch:
        return {name: torch.from_numpy(column) for name, column in self._columns.items()}

    def context(self) -> Batch:
        if self._part != "train":
            return {}
        held_out = {"held_out": torch.from_numpy(self._selection)} if len(self._selection) else {}
        return {"tracks": torch.from_numpy(self._columns["track"]), **held_out}

    def name_of(self, index: int) -> str:
        return self.windows.name_of(index)

    def split(self, name: str) -> Dataset | None:
        if name == "train":
            return self
        if name != "test" or self._test is None or not len(self._test):
            return None
        other = object.__new__(type(self))
        other.__dict__ |= self.__dict__
        other._hold(self._test, self._test_labels)
        other._part = "test"
        return other

    def info(self) -> dict[str, Any]:
        classes = {}
        if self.classes is not None and self.labels is not None:
            counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
            classes = {"classes": dict(zip(self.classes, counts, strict=True))}
        step = np.linalg.norm(np.diff(self.windows.positions, axis=1), axis=2)
        return {
            "kind": "tracks",
            "samples": len(self),
            "splits": {"train": len(self), "test": 0 if self._test is None else len(self._test)},
            "held_out_for_selection": 0 if self.selected_on_test else len(self._selection),
            "selected_on": "test" if self.selected_on_test else "held-out" if len(self._selection) else "nothing",
            "scenes": dict(
                zip(self.scenes, np.bincount(self.windows.scene, minlength=len(self.scenes)).tolist(), strict=True)
            ),
            "agents": len(np.unique(self.windows.agent)),
            "window": {"observed": self.observed, "future": self.future},
            "unit": self.unit,
            f"step_{self.unit}": [round(float(value), 4) for value in np.quantile(step, (0.0, 0.5, 1.0))],
            **classes,
        }


def check_lengths(observed: int, future: int, stride: int) -> None:
    """UsageError if a window's lengths make no sense."""
    for name, value, least in (("observed", observed, 2), ("future", future, 1), ("stride", stride, 1)):
        if value < least:
            raise UsageError(f"dataset.{name}={value} is too small: expected at least {least}")


def cut_file(
    path: Path,
    length: int,
    *,
    scene: str,
    unit: Unit,
    stride: int = 1,
    step: float | None = None,
    columns: tuple[str | None, ...] = (None, None, None, None),
) -> Windows:
    """The windows of one file, warning about what looks wrong in it; files that did not change are read once.

    Args:
        path: the file.
        length, scene, unit, stride, step: as in `windows.cut`.
        columns: names of the columns of frame, agent, x and y; see `reading.read`.

    Raises:
        UsageError: see `reading.read`; or no track in the file is long enough.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    cut, messages = _cut(path, state.st_mtime_ns, state.st_size, length, scene, unit, stride, step, columns)
    for message in messages:
        reading.warn(message)
    return cut


@functools.lru_cache(maxsize=128)
def _cut(
    path: Path,
    modified: int,
    size: int,
    length: int,
    scene: str,
    unit: Unit,
    stride: int,
    step: float | None,
    columns: tuple[str | None, ...],
) -> tuple[Windows, list[str]]:
    rows = reading.read(path, dict(zip(reading.COLUMNS, columns, strict=True)))
    cut, messages = windows.cut(rows, length, scene=scene, unit=unit, stride=stride, step=step)
    if not len(cut):
        raise UsageError(
            f"{windows.longest(rows, step)}; a window needs {length}: shorten it (--set dataset.observed=... "
            "--set dataset.future=...) or give the frames between positions (--set dataset.step=...)"
        )
    return cut, messages
