"""What a transform draws from: a sample's own random numbers, where training stands, and other samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from unlabel import seeds
from unlabel.data.dataset import Dataset
from unlabel.data.quarantine import UNREADABLE, reason
from unlabel.errors import RunError, UsageError
from unlabel.task import Sample

__all__ = ["ATTEMPTS", "Draw", "others", "unlabelled"]

ATTEMPTS = 50
"""Samples in a row that may be unusable before the run is."""

_OTHER = 0x07E2  # stream of seeds


class Draw:
    """All that a transform may know besides its sample, as a function of (seed, epoch, index) and of the update.

    Args:
        rng: the sample's own generator; whatever is drawn from it is the same with any number of processes.
        epoch: number of the pass over the data, from 0.
        fraction: of the stage's schedule that is done, in [0, 1]; 1 in an evaluation.
        others: what `other` gives, one after the other; see `others`.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        epoch: int = 0,
        fraction: float = 1.0,
        others: Iterator[Sample] | None = None,
    ) -> None:
        self.rng, self.epoch, self.fraction = rng, epoch, fraction
        self._others = others

    def other(self) -> Sample:
        """Another sample of the same dataset as it was read, without its label: each call the next of a sequence that
        is the sample's own. Never the sample itself, unless there is only one.

        Raises:
            RunError: none of many can be read.
        """
        if self._others is None:
            raise RunError("this draw knows no dataset to take another sample from: give it `others`")
        return next(self._others)


def others(dataset: Dataset, seed: int, epoch: int, index: int) -> Iterator[Sample]:
    """Samples of a dataset but the one at `index`, without end, in an order that depends on the numbers alone.

    Those that cannot be used are passed over; a run sets them aside when their own turn comes.

    Raises:
        RunError: so many in a row cannot be used.
    """
    number, failed = 0, 0
    while True:
        away = 1 + seeds.mix(seed, epoch, index, number, _OTHER) % (len(dataset) - 1) if len(dataset) > 1 else 0
        other, number = (index + away) % len(dataset), number + 1
        try:
            sample = unlabelled(dataset[other])
        except UsageError:  # a ValueError too, but about what was asked for and not about this sample
            raise
        except UNREADABLE as error:
            failed += 1
            if failed == ATTEMPTS:
                raise RunError(
                    f"{failed} samples in a row cannot be used; the last: {dataset.name_of(other)}: {reason(error)}"
                ) from error
            continue
        failed = 0
        yield sample


def unlabelled(sample: Sample) -> Sample:
    """A sample without its label, which no pretext task sees."""
    return {name: value for name, value in sample.items() if name != "label"}
