"""Stanford Drone Dataset in the TrajNet split: tracks of exactly 20 positions, seen from above, in pixels.

Robicquet et al. 2016. Text files ``frame id x y`` below ``train/`` and ``test/`` (at any depth), in metres; with the
scenes' scales in ``H_SDD.txt`` they become pixels of the original frame, which published figures are in.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from unlabel.errors import UsageError
from unlabel_trajectory import windows
from unlabel_trajectory.datasets import tracks
from unlabel_trajectory.datasets.tracks import Select, TrackDataset
from unlabel_trajectory.windows import Unit, Windows

__all__ = ["SDD", "scales"]

_SCENE = re.compile(r"(bookstore|coupa|deathCircle|gates|hyang|little|nexus|quad)_\d+")


class SDD(TrackDataset):
    """The Stanford drone tracks.

    Args:
        path: folder that holds ``train/`` and ``test/``, and ``H_SDD.txt`` for pixels.
        unit: "px" divides by the scenes' metres per pixel; "m" leaves positions as they are in the files.
        observed: positions that are observed.
        future: positions that are forecast.
        select: what a task may select its weights by; "test" is the authors' protocol.

    Raises:
        UsageError: a folder, a file or a scene's scale is missing or broken.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        unit: Unit = "px",
        observed: int = 8,
        future: int = 12,
        select: Select = "held-out",
    ):
        tracks.check_lengths(observed, future, 1)
        folder = Path(path).expanduser()
        known = scales(folder / "H_SDD.txt") if unit == "px" else {}
        parts = {name: _part(folder / name, observed + future, unit, known) for name in ("train", "test")}
        super().__init__(parts["train"], parts["test"], observed=observed, select=select)

    @classmethod
    def claims(cls, path: Path) -> bool:
        if not all((path / part).is_dir() for part in ("train", "test")):
            return False
        return any(_SCENE.fullmatch(file.stem) for file in (path / "train").rglob("*.txt"))


def scales(path: Path) -> dict[str, float]:
    """Metres per pixel of each scene: the last column of the rows of version A.

    Raises:
        UsageError: the table is missing or is none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read ({error}); it holds the metres per pixel of each scene; "
            "without it, --set dataset.unit=m keeps metres"
        ) from error
    metres_per_pixel = {}
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if not line.strip() or (len(cells) > 3 and cells[3] != "A"):
            continue
        try:
            metres_per_pixel[cells[0].removesuffix(".jpg")] = float(cells[-1])
        except ValueError:
            raise UsageError(f"{path}:{number}: the last column is {cells[-1]!r}, not metres per pixel") from None
    return metres_per_pixel


def _part(folder: Path, length: int, unit: Unit, known: dict[str, float]) -> Windows:
    files = sorted(folder.rglob("*.txt"))
    if not files:
        raise UsageError(f"{folder} holds no .txt files: expected train/ and test/ with one file a scene")
    parts = []
    for file in files:
        cut = tracks.cut_file(file, length, scene=file.stem, unit="m", stride=length)
        if unit == "px":
            if file.stem not in known:
                raise UsageError(f"{file}: H_SDD.txt has no scale for the scene {file.stem!r}")
            cut = replace(cut, positions=cut.positions / known[file.stem], unit="px")
        parts.append(cut)
    return windows.join(parts)
