"""Names of files and members: kept small, printed safely, ordered, and which of them are the user's data."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

__all__ = ["Names", "counted", "ending", "is_hidden", "natural", "printable"]


class Names:
    """Many strings in one block of bytes; undecodable file names survive as Python's surrogates.

    A million ``str`` would take 120 MB, and be copied page by page as reference counts change in forked processes.
    """

    def __init__(self, names: Sequence[str]):
        encoded = [os.fsencode(name) for name in names]
        self.ends = np.cumsum([len(name) for name in encoded], dtype=np.int64)
        self.block = b"".join(encoded)

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> str:
        start = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.block[start : int(self.ends[index])])


def printable(name: str) -> str:
    """The name for messages and JSON: bytes that are no UTF-8 are written as ``\\xff``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_hidden(name: str) -> bool:
    """Whether a file or folder is none of the user's data: dot files and macOS's archive extras."""
    return name.startswith(".") or name == "__MACOSX"


def ending(name: str) -> str:
    """``".txt"`` of ``a/B.TXT``; empty if there is none."""
    return os.path.splitext(name)[1].lower()


def counted(values: Iterable[str]) -> dict[str, int]:
    """How often each value occurs, commonest first."""
    return dict(sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0])))


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names as numbers: ``frame9`` before ``frame10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
