"""The dataset of a listing: labels, parts and facts in one place; a plugin adds how a sample is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unlabel import data
from unlabel.data import Dataset, Subset
from unlabel.data.sources import layout
from unlabel.data.sources.listing import Listing
from unlabel.errors import UsageError
from unlabel.task import Sample

__all__ = ["Stored"]


class Stored(Dataset):
    """Samples kept in files, whatever holds them. Subclasses define ``decode_sample(stored)``.

    Args:
        path: where they are, for messages.
        listing: what is there.
        holdout: share of an undivided, labelled set that is held out for testing, class by class.

    Attributes:
        source, parts, formats, ignored, notes: see `Listing`. kind: its form.

    Raises:
        UsageError: `holdout` is no share.
    """

    def __init__(self, path: Path, listing: Listing, holdout: float):
        if not 0 <= holdout < 1:
            raise UsageError(f"holdout {holdout} is outside [0, 1): 0.2 keeps a fifth of the samples for testing")
        self.path, self.holdout, self.source, self.kind = path, holdout, listing.source, listing.form
        self.labels, self.classes, self.parts = listing.labels, listing.classes, listing.parts
        self.formats, self.ignored, self.notes = listing.formats, listing.ignored, listing.notes

    def decode_sample(self, stored: Any) -> Sample:
        """What `read` returned as a sample, without its label; BadSample if that cannot be."""
        raise NotImplementedError(f"{type(self).__name__} must define decode_sample(stored)")

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Sample:
        sample = self.decode_sample(self.read(index))
        return sample if self.labels is None else {**sample, "label": int(self.labels[index])}

    def read(self, index: int) -> Any:
        """The sample as it is stored: the bytes of its file, or an array."""
        return self.source.read(index)

    def raw(self, index: int) -> Any:
        return self.read(index)

    def name_of(self, index: int) -> str:
        return self.source.name(index)

    def prepare(self) -> None:
        self.source.prepare()

    def split(self, name: str) -> Dataset | None:
        """``"train"`` and ``"test"``: the folders of that name (validation where there is no test), or the
        held-out share of a labelled set; without labels everything trains and nothing is held out."""
        if name not in ("train", "test"):
            return None
        if self.parts is not None:
            held_out = 2 if np.any(self.parts == 2) else 1
            return Subset(self, np.flatnonzero(self.parts == (0 if name == "train" else held_out)))
        if self.labels is None or self.holdout == 0:
            return self if name == "train" else None
        train, test = data.holdout(self.labels, len(self), self.holdout)
        indices = train if name == "train" else test
        return Subset(self, indices) if len(indices) else None

    def info(self) -> dict[str, Any]:
        """Kind, and counts per part, class and file ending."""
        facts: dict[str, Any] = {"kind": self.kind, "path": str(self.path), "samples": len(self)}
        if self.parts is not None:
            counts = np.bincount(self.parts, minlength=len(layout.PARTS)).tolist()
            facts["splits"] = {part: count for part, count in zip(layout.PARTS, counts, strict=True) if count}
        if self.labels is not None and self.classes is not None:
            counts = np.bincount(self.labels, minlength=len(self.classes)).tolist()
            facts["classes"] = dict(zip(self.classes, counts, strict=True))
        return facts | {"formats": self.formats, "ignored": self.ignored, "notes": list(self.notes)}
