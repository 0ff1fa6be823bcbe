"""An evaluation, an observer and a command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from unlabel import Frozen, Observer, Progress, UsageError


def spread(frozen: Frozen, *, scale: float = 1.0) -> dict[str, float]:
    """How far features are spread.

    Args:
        frozen: the encoder.
        scale: multiplies the result.
    """
    return {"spread": scale * float(frozen.features("test")[0].std())}


def tide(frozen: Frozen) -> dict[str, float]:
    """How high the water is, which none of these tasks can tell.

    Args:
        frozen: the encoder.
    """
    raise UsageError("there is no water")


class Diary(Observer):
    """Writes down the loss."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.lines: list[str] = []

    def log(self, progress: Progress, metrics: Mapping[str, float]) -> None:
        self.lines.append(json.dumps([progress.total_step, metrics.get("loss")]))

    def close(self) -> None:
        (self.folder / "diary.jsonl").write_text("\n".join(self.lines))


def listen(path: Path, loud: bool = False) -> None:
    """Play a ping."""
    print(path, loud)
