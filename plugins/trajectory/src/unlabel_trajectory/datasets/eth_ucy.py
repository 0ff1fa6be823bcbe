"""ETH/UCY: pedestrians in five scenes, metres, one position every 0.4 s; one scene is left out for the test.

Pellegrini et al. 2009 (ETH), Lerner et al. 2007 (UCY), in the eight text files that the usual leave-one-out protocol
is made of: rows ``frame id x y``, consecutive frames 10 apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unlabel.errors import UsageError, nearest
from unlabel_trajectory import windows
from unlabel_trajectory.datasets import tracks
from unlabel_trajectory.datasets.tracks import Select, TrackDataset

__all__ = ["FILES", "EthUcy"]

FILES = {
    "biwi_eth": "eth",
    "biwi_hotel": "hotel",
    "students001": "univ",
    "students003": "univ",
    "crowds_zara01": "zara1",
    "crowds_zara02": "zara2",
    "crowds_zara03": "zara3",
    "uni_examples": "examples",
}
"""File -> scene. The last two only train."""


class EthUcy(TrackDataset):
    """The ETH/UCY benchmark, one scene left out.

    Args:
        path: folder of the eight text files.
        scene: the scene that is left out for the test; the other files train.
        observed: positions that are observed.
        future: positions that are forecast.
        stride: steps between the beginnings of windows; 1 is the protocol's.
        select: what a task may select its weights by; "test" is the authors' protocol.

    Raises:
        UsageError: a file is missing or broken.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        scene: Literal["eth", "hotel", "univ", "zara1", "zara2"] = "zara1",
        observed: int = 8,
        future: int = 12,
        stride: int = 1,
        select: Select = "held-out",
    ):
        tracks.check_lengths(observed, future, stride)
        folder = Path(path).expanduser()
        parts = {name: [] for name in ("train", "test")}  # type: dict[str, list[windows.Windows]]
        for stem, name in FILES.items():
            file = folder / f"{stem}.txt"
            if not file.is_file():
                beside = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
                raise UsageError(
                    f"{file} is missing{nearest(file.name, beside)}; the leave-one-out protocol needs all of "
                    f"{', '.join(FILES)} (.txt); some of them alone are trajectory/tracks"
                )
            part = "test" if name == scene else "train"
            parts[part].append(tracks.cut_file(file, observed + future, scene=name, unit="m", stride=stride))
        super().__init__(windows.join(parts["train"]), windows.join(parts["test"]), observed=observed, select=select)

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_dir() and sum((path / f"{stem}.txt").is_file() for stem in FILES) >= 4
