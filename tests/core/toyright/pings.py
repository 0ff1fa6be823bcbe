"""Pings of two kinds: read one by one, as a table with what they share, or from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from unlabel import Dataset, seeds
from unlabel.data import Subset, holdout

LENGTH = 8


class Pings(Dataset):
    """Slow and fast pings with noise.

    Args:
        count: how many.
    """

    classes = ("slow", "fast")

    def __init__(self, *, count: int = 48):
        self.count = count
        self.labels: np.ndarray = np.arange(count, dtype=np.int64) % 2

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        noise = seeds.generator(index).normal(0, 0.2, LENGTH)
        wave = np.sin(np.arange(LENGTH) * (0.4 + index % 2) + index) + noise
        return {"wave": wave.astype(np.float32), "label": index % 2}

    def split(self, name: str) -> Dataset | None:
        train, test = holdout(self.labels, len(self), 0.25)
        return Subset(self, train if name == "train" else test)


class Crowd(Pings):
    """The same pings all at once, with the mean that they share.

    Args:
        count: how many.
    """

    full_batch: ClassVar[bool] = True

    def table(self) -> dict[str, Tensor]:
        return {"wave": torch.stack([torch.from_numpy(self[index]["wave"]) for index in range(self.count)])}

    def context(self) -> dict[str, Tensor]:
        return {"mean": self.table()["wave"].mean(0)}

    def implies(self) -> dict[str, Any]:
        return {"length": LENGTH}


class Files(Pings):
    """Pings in the ``.npy`` files of a folder.

    Args:
        path: the folder.
    """

    def __init__(self, path: str | Path):
        self.files = sorted(Path(path).glob("*.npy"))
        super().__init__(count=len(self.files))

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"wave": np.load(self.files[index])}

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_dir() and any(path.glob("*.npy"))
