"""The observer `csv`: ``metrics.csv`` in the run's folder, the same rows as ``metrics.jsonl``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from unlabel import Catalog, Observer, Progress, Run, Stage
from unlabel_spreadsheet import table

__all__ = ["CSV"]

PLACE = ["stage", "step", "epoch", "total_step"]


class CSV(Observer):
    """``metrics.csv``: a row for each logged interval and each online check, flushed at once; columns as they come up.

    It begins with what ``metrics.jsonl`` holds up to the update that the run begins or resumes at: rows after the
    checkpoint are gone, as they are there, and a row torn by a crash is whole again.
    """

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.path = folder / "metrics.csv"
        self.columns: list[str] = []
        self.file: IO[str] | None = None

    def stage(self, number: int, stage: Stage, start: int) -> None:
        if self.file is None:  # the first stage of this process; the later ones go on
            past = [
                row for row in Run(self.folder, Catalog([])).metrics if (row["stage"], row["step"]) <= (number, start)
            ]
            self.columns = list(dict.fromkeys([*PLACE, *(name for row in past for name in row)]))
            self._open(past)

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        row: dict[str, float] = {name: getattr(progress, name) for name in PLACE}
        row |= {name: float(f"{value:.7g}") for name, value in metrics.items()}  # as precise as metrics.jsonl
        new = [name for name in row if name not in self.columns]
        if new or self.file is None:
            self.columns += new
            self.close()
            self._open(table.read(self.path) if self.path.exists() else [])
        assert self.file is not None
        csv.DictWriter(self.file, self.columns, lineterminator="\n").writerow(row)
        self.file.flush()

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _open(self, rows: list[dict[str, float]] | list[dict[str, str]]) -> None:
        """Write these rows with all columns known by now, and go on after them."""
        table.write_aside(rows, self.columns, self.path)
        self.file = self.path.open("a", encoding="utf-8", newline="")
