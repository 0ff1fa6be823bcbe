"""What makes a sample unusable, and the list of those that are: a run's ``quarantine.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unlabel.errors import BadSample, RunError
from unlabel.storage.jsonl import read_jsonl

__all__ = ["UNREADABLE", "Quarantine", "reason"]

UNREADABLE = (BadSample, OSError, ValueError, EOFError, SyntaxError)
"""What ``dataset[index]`` raises for a sample that cannot be used; anything else is a bug and stops the run."""


def reason(error: BaseException) -> str:
    """An exception as one line for quarantine.jsonl."""
    return str(error) if isinstance(error, BadSample) else f"{type(error).__name__}: {error}"


class Quarantine:
    """The list of samples set aside: ``quarantine.jsonl``, one line a sample, each sample once.

    Args:
        path: the file; what it already holds (a resumed run) counts.
        samples: size of the dataset.
        limit: tolerated share; one bad sample is always tolerated.
    """

    def __init__(self, path: Path, samples: int, limit: float):
        self.path, self.samples, self.limit = path, samples, limit
        self.seen: set[int] = set()
        if path.exists():
            self.seen = {record["index"] for record in read_jsonl(path) if record.get("split", "train") == "train"}

    def add(self, records: list[dict[str, Any]], where: str = "train") -> None:
        """Append records not seen before; RunError when more than the tolerated share is bad."""
        new = [record for record in records if record["index"] not in self.seen]
        if not new:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for record in new:
                if record["index"] not in self.seen:
                    file.write(json.dumps({**record, "split": where}) + "\n")
                    self.seen.add(record["index"])
        if len(self.seen) > max(1, self.limit * self.samples):
            raise RunError(
                f"{len(self.seen)} of {self.samples} samples cannot be used, more than --max-bad {self.limit:g} "
                f"allows; the last: {new[-1]['path']}: {new[-1]['reason']}; all are listed in {self.path}"
            )
