"""Your own tracks: text, CSV or Parquet files with a frame (or time), an agent, x and y in each row.

A file is a scene. A folder with ``train/`` and ``test/`` is split by them; otherwise all windows of a share of the
agents are held out for the test.
"""

from __future__ import annotations

from pathlib import Path

from unlabel.errors import UsageError
from unlabel_trajectory import reading, windows
from unlabel_trajectory.datasets import tracks
from unlabel_trajectory.datasets.tracks import Select, TrackDataset
from unlabel_trajectory.windows import Unit, Windows

__all__ = ["TrackFiles"]

_ENDINGS = (".txt", ".csv", ".tsv", ".parquet")


class TrackFiles(TrackDataset):
    """Tracks from files of your own.

    Args:
        path: a file, or a folder of files at any depth.
        frame: column of the frame number or time; None looks for the usual names, or takes the first of four.
        agent: column of the agent's id; likewise.
        x: column of the first coordinate; likewise.
        y: column of the second coordinate; likewise.
        unit: what positions are measured in; metrics carry it in their names.
        step: frames (or seconds) between positions; None takes each file's most frequent difference.
        observed: positions that are observed.
        future: positions that are forecast.
        stride: steps between the beginnings of an agent's windows.
        holdout: share of the agents held out for the test, unless there are folders train/ and test/.
        select: what a task may select its weights by.

    Raises:
        UsageError: a file or column is missing or broken; the message names file and line.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        frame: str | None = None,
        agent: str | None = None,
        x: str | None = None,
        y: str | None = None,
        unit: Unit = "m",
        step: float | None = None,
        observed: int = 8,
        future: int = 12,
        stride: int = 1,
        holdout: float = 0.2,
        select: Select = "held-out",
    ):
        tracks.check_lengths(observed, future, stride)
        if not 0 <= holdout < 1:
            raise UsageError(f"dataset.holdout={holdout} is outside [0, 1); 0.2 holds a fifth of the agents out")
        place = Path(path).expanduser()

        def read(folder: Path) -> Windows:
            return windows.join(
                [
                    tracks.cut_file(
                        file,
                        observed + future,
                        scene=file.stem,
                        unit=unit,
                        stride=stride,
                        step=step,
                        columns=(frame, agent, x, y),
                    )
                    for file in _files(folder)
                ]
            )

        if (place / "train").is_dir() and (place / "test").is_dir():
            super().__init__(read(place / "train"), read(place / "test"), observed=observed, select=select)
            return
        annotated = read(place)
        keep, out = windows.by_agent(annotated, holdout, 0xE0)
        if holdout and not out.any():
            reading.warn(f"{place}: a share of {holdout:g} of its agents is none: there is no test part")
        test = annotated.take(out) if out.any() else None
        super().__init__(annotated.take(keep), test, observed=observed, select=select)

    @classmethod
    def claims(cls, path: Path) -> bool:
        """A file, or a folder whose first file, has rows that start with frame, agent, x and y."""
        files = [path] if path.is_file() else _listed(path)[:1] if path.is_dir() else []
        return any(_looks_like_tracks(file) for file in files if file.suffix.lower() in _ENDINGS)


def _listed(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix.lower() in _ENDINGS)


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise UsageError(f"{place} does not exist; expected a file or folder of {', '.join(_ENDINGS)}")
    files = _listed(place)
    if not files:
        raise UsageError(f"{place} holds no {', '.join(_ENDINGS)} files")
    return files


def _looks_like_tracks(path: Path) -> bool:
    if path.suffix.lower() == ".parquet":
        try:
            from pyarrow import parquet

            header = [name.lower() for name in parquet.read_schema(path).names]
        except (ImportError, OSError, ValueError):
            return False
        return reading.are_columns(header)
    try:
        with path.open(encoding="utf-8-sig") as file:
            line = next((line for line in file if line.strip() and not line.startswith("#")), "")
    except (OSError, UnicodeDecodeError):
        return False
    return reading.looks_like_rows(line)
