"""Pings of two kinds: a slow and a fast wave with noise, made up or read from .npy files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unlabel import BadSample, Dataset, UsageError, seeds
from unlabel.data import Subset, holdout

LENGTH = 16


class _Divided(Dataset):
    def split(self, name: str) -> Dataset | None:
        train, test = holdout(self.labels, len(self), 0.25)
        return Subset(self, train if name == "train" else test)


class Pings(_Divided):
    """Made-up pings, labelled slow and fast.

    Args:
        count: how many.
    """

    classes = ("slow", "fast")

    def __init__(self, *, count: int = 64):
        self.count = count
        self.labels = np.arange(count, dtype=np.int64) % 2

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, object]:
        noise = seeds.generator(index).normal(0, 0.1, LENGTH)
        wave = np.sin(np.arange(LENGTH) * (0.3 + index % 2)) + noise
        return {"wave": wave.astype(np.float32), "label": int(index % 2)}


class Files(_Divided):
    """Pings in the ``.npy`` files of a folder; a name that starts with ``fast`` is the label.

    Args:
        path: the folder.
    """

    classes = ("slow", "fast")

    def __init__(self, path: str | Path):
        self.files = sorted(Path(path).glob("*.npy"))
        if not self.files:
            raise UsageError(f"no .npy files in {path}")
        self.labels = np.array([file.name.startswith("fast") for file in self.files], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, object]:
        wave = np.load(self.files[index])
        if wave.shape != (LENGTH,):
            raise BadSample(f"a ping of {len(wave)} numbers, not {LENGTH}")
        return {"wave": wave, "label": int(self.labels[index])}

    def name_of(self, index: int) -> str:
        return str(self.files[index])

    @classmethod
    def claims(cls, path: Path) -> bool:
        return path.is_dir() and any(path.glob("*.npy"))


class Noise(Dataset):
    """Eight pings without labels or a held-out part."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, object]:
        return {"wave": seeds.generator(index).normal(size=LENGTH).astype(np.float32)}
