"""Reading a few samples as a loader process does, and telling whether they are the same elsewhere."""

from __future__ import annotations

from unlabel.data import Reader
from unlabel.testing.compare import digests

__all__ = ["positions", "read"]


def positions(count: int) -> list[tuple[int, int]]:
    """A few (epoch, index) pairs: first, second, middle and last sample, in two epochs."""
    return [(epoch, index) for epoch in (0, 1) for index in sorted({0, min(1, count - 1), count // 2, count - 1})]


def read(reader: Reader, pairs: list[tuple[int, int]]) -> dict[str, str]:
    """Fingerprints of what a reader makes of some samples, each by itself: ``"sample 3, epoch 1: field"`` -> it."""
    found: dict[str, str] = {}
    for epoch, index in pairs:
        batch, _ = reader.read([(epoch, index)])
        found |= {f"sample {index}, epoch {epoch}: {name}": value for name, value in digests(batch).items()}
    return found
