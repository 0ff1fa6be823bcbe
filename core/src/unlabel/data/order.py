"""In which order samples come: pure functions of the number of an update.

An order is called with the number of an update in its stage, the number of samples an update takes over all processes
and micro-batches, and a seed. It answers with an epoch and an index for each sample. All it remembers is the order of
the last epochs, which it could work out again; so resuming needs nothing but the number. It is asked for an update as a
whole, of which every process and micro-batch takes its part; so two processes together see what one sees, whatever the
order does.

The epoch of a sample is the number of the pass over its part of the data that it comes in. No pair of epoch and index
comes twice in a stage, so what a transform draws from that pair is new each time. Whatever does not fill a batch is
left out of its epoch, another remainder each time, so no batch holds a sample twice.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
import torch

from unlabel import seeds
from unlabel.errors import UsageError

__all__ = ["Buckets", "Groups", "Mixture", "Order", "Permutation"]

T = TypeVar("T")

Order = Callable[[int, int, int], tuple[np.ndarray, np.ndarray]]
"""``order(number, size, seed)``: epochs and indices of an update's samples, int64, (n,) each; n is `size`, unless the
order says otherwise."""

_GOLDEN = (math.sqrt(5) - 1) / 2  # its multiples, modulo 1, are spread as evenly as can be
_BATCHES, _PART, _PLACES = 0xBA7C, 0xDA7A, 0x91ACE  # streams of seeds


class Permutation:
    """Every sample once an epoch, in an order drawn anew for each.

    Args:
        count: samples there are.
        last_batch: of samples that do not fill a batch at the end of an epoch. ``"drop"``: they are left out of it;
            ``"straddle"``: the batch is filled with the first of the next epoch, among which they may be again.

    Raises:
        UsageError: when called for a batch of more than `count` samples, with ``"drop"``.
    """

    def __init__(self, count: int, last_batch: Literal["drop", "straddle"] = "drop"):
        self.count, self.last_batch = count, last_batch
        self._orders = _Recent[np.ndarray]()

    def __call__(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if self.last_batch == "straddle":
            epochs, places = np.divmod(np.arange(number * size, (number + 1) * size), self.count)
        else:
            epoch, batch = divmod(number, _batches(self.count, size))
            epochs, places = np.full(size, epoch), np.arange(batch * size, (batch + 1) * size)
        indices = np.empty(size, dtype=np.int64)
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
            in_epoch = epochs == epoch
            indices[in_epoch] = self._order(epoch, seed)[places[in_epoch]]
        return epochs, indices

    def _order(self, epoch: int, seed: int) -> np.ndarray:
        return self._orders.get((seed, epoch), lambda: seeds.permutation(self.count, seed, epoch))


class Mixture:
    """Several datasets by share, their samples numbered one dataset after the other; see `Concatenated`.

    Each dataset goes through its own permutations at its own pace, and its samples' epochs are the passes over it.

    Args:
        counts: samples of each dataset.
        shares: of the batches, or of each batch, as numbers in proportion; default: the datasets' sizes.
        whole_batches: each batch is of one dataset, drawn by share: over an epoch of all samples a dataset has the
            batches of its share to within one, and over many epochs exactly. Otherwise each batch holds samples of all
            datasets, as many of each in every batch.

    Raises:
        UsageError: shares that are not one above 0 for each dataset; when called, a dataset with less than a batch of
            its own, or with less than one sample of a batch.
    """

    def __init__(self, counts: Sequence[int], shares: Sequence[float] | None = None, whole_batches: bool = True):
        shares = list(counts if shares is None else shares)
        if len(shares) != len(counts) or not all(share > 0 for share in shares):
            raise UsageError(f"shares {shares}: expected a number above 0 for each of {len(counts)} datasets")
        self.shares = np.array(shares, dtype=np.float64) / sum(shares)
        self.whole_batches = whole_batches
        self.starts = np.cumsum([0, *counts])
        self._parts = [Permutation(count) for count in counts]
        self._drawn = _Recent[tuple[np.ndarray, np.ndarray]]()

    def __call__(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if self.whole_batches:
            return self._of(*self._turn(number, size, seed), size, seed)
        batch = [self._of(part, number, count, seed) for part, count in enumerate(self._portions(size))]
        epochs, indices = (np.concatenate(values) for values in zip(*batch, strict=True))
        mixed = seeds.permutation(size, seed, number, _PLACES)  # or a process would see one dataset alone
        return epochs[mixed], indices[mixed]

    def _of(self, part: int, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Batch `number` of one dataset."""
        if size > self._parts[part].count:
            raise UsageError(
                f"dataset {part} of the mixture has {self._parts[part].count} samples, fewer than the {size} of a "
                "batch: use a smaller --batch-size, or whole_batches=False"
            )
        epochs, indices = self._parts[part](number, size, seeds.mix(seed, part, _PART))
        return epochs, indices + self.starts[part]

    def _turn(self, number: int, size: int, seed: int) -> tuple[int, int]:
        """Whose batch it is, and how many that dataset had before."""
        epoch, batch = divmod(number, _batches(int(self.starts[-1]), size))
        before, turns = self._drawn.get((seed, epoch, size), lambda: self._turns(epoch, size, seed))
        part = int(turns[batch])
        return part, int(before[part] + np.count_nonzero(turns[:batch] == part))

    def _turns(self, epoch: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Batches of each dataset before an epoch, (datasets,), and whose turn it is in it, (batches,).

        Systematic sampling: in each epoch all shares are rounded with one offset, so that they add up; the offsets of
        all epochs are spread evenly, so that nothing is lost by rounding.
        """
        batches = _batches(int(self.starts[-1]), size)
        offsets = (seeds.generator(seed, _BATCHES).random() + _GOLDEN * np.arange(epoch + 1)) % 1
        edges = np.floor(batches * np.cumsum([0, *self.shares]) + offsets[:, None]).astype(np.int64)
        edges[:, -1] = batches  # whatever rounding made of a sum of shares
        counts = np.diff(np.minimum(edges, batches), axis=1)  # (epochs, datasets)
        turns = np.repeat(np.arange(len(self.shares)), counts[-1])
        return counts[:-1].sum(axis=0), turns[seeds.permutation(batches, seed, epoch, _BATCHES)]

    def _portions(self, size: int) -> list[int]:
        """Samples of each dataset in a batch: the shares, rounded by largest remainder."""
        exact = self.shares * size
        portions = np.floor(exact).astype(np.int64)
        portions[np.argsort(portions - exact, kind="stable")[: size - int(portions.sum())]] += 1
        if not portions.all():
            part = int(np.argmin(portions))
            raise UsageError(
                f"dataset {part} of the mixture has a share of {self.shares[part]:.3g}, less than one sample of a "
                f"batch of {size}: use a larger --batch-size, or whole_batches=True"
            )
        return [int(portion) for portion in portions]


class Groups:
    """Batches of P identities with K samples of each, for losses that compare samples of the same and of others.

    In an epoch every identity has one turn, P at a time; those left over are others each epoch. From turn to turn an
    identity goes through its samples K by K, in an order drawn anew when they are through, so large identities take
    several epochs for theirs.

    Args:
        groups: int64, (N,): identity of each sample; -1: of none, never drawn.
        identities: P, of a batch.
        samples: K, of each identity.
        repeat: draw from identities with fewer than K samples too, the same samples several times. A repeated sample
            counts as one of a later epoch, so what is drawn for it differs.

    Attributes:
        left_out: int64: samples that never come, because their identity has too few.

    Raises:
        UsageError: fewer than P identities; when called for a batch of another size than P times K.
    """

    def __init__(self, groups: np.ndarray | Sequence[int], identities: int, samples: int, repeat: bool = False):
        self.identities, self.samples = identities, samples
        self.groups = np.asarray(groups, dtype=np.int64)
        names, counts = np.unique(self.groups[self.groups >= 0], return_counts=True)
        enough = counts >= (1 if repeat else samples)
        drawn = np.isin(self.groups, names[enough])
        self.left_out = np.flatnonzero(~drawn)
        self.members = np.argsort(self.groups, kind="stable")  # of each identity together
        self.members = self.members[drawn[self.members]]
        self.counts = counts[enough]
        self.starts = np.cumsum([0, *self.counts])
        if len(self.counts) < identities:
            raise UsageError(
                f"{len(self.counts)} identities have {samples} samples or more, and a batch holds {identities}: "
                "use fewer of either" + ("" if repeat else ", or repeat=True")
            )
        self._orders = _Recent[tuple[np.ndarray, np.ndarray]]()

    def __call__(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        if size != self.identities * self.samples:
            expected = self.identities * self.samples
            raise UsageError(
                f"batch size {size} is not {self.identities} identities of {self.samples} samples: "
                f"use --batch-size {expected}"
            )
        epoch, batch = divmod(number, len(self.counts) // self.identities)
        turns, order = self._orders.get((seed, epoch), lambda: self._order(epoch, seed))
        drawn = turns[batch * self.identities : (batch + 1) * self.identities]
        count = self.counts[drawn][:, None]
        turn, place = epoch % np.maximum(1, count // self.samples), np.arange(self.samples)
        indices = order[self.starts[drawn][:, None] + (turn * self.samples + place) % count]  # (P, K)
        epochs = epoch * -(-self.samples // count) + place // count  # the epoch, where nothing is repeated
        return epochs.reshape(-1), indices.reshape(-1)

    def _order(self, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The identities in the order of their turns, and all members, each identity's together in its own order."""
        passes = np.repeat(epoch // np.maximum(1, self.counts // self.samples), self.counts)
        drawn = seeds.keys(seed, torch.from_numpy(passes), torch.from_numpy(self.members)).numpy()
        order = self.members[np.lexsort((drawn, self.groups[self.members]))]
        return seeds.permutation(len(self.counts), seed, epoch), order


class Buckets:
    """Batches of samples of similar length: as many samples in each, or as many tokens as fit a budget.

    Every epoch samples are shuffled, sorted by length in steps, cut into batches, and the batches shuffled. With a
    budget, a batch has as many samples as would fit if all were as long as the longest of their step, so their number
    differs from batch to batch; every sample comes once an epoch, and the recipe's batch size only says how many
    updates an epoch counts. Without, what does not fill a batch is left out, others each epoch.

    Args:
        lengths: int64, (N,): of the samples, in tokens, frames or whatever costs.
        tokens: budget of a batch over all processes and micro-batches: its samples x the longest of them. From twice
            their number times the longest sample on, each of them surely gets some.
        step: ratio of the longest to the shortest length that count as equal.

    Raises:
        UsageError: a sample longer than the budget, or a ratio of 1 or less; when called for a batch of more samples
            than there are.
    """

    def __init__(self, lengths: np.ndarray | Sequence[int], tokens: int | None = None, step: float = 1.2):
        self.lengths, self.tokens = np.asarray(lengths, dtype=np.int64), tokens
        if step <= 1:
            raise UsageError(f"step {step}: expected a ratio above 1; with 1.2, lengths 100 and 119 count as equal")
        self.steps = np.floor(np.log(np.maximum(1, self.lengths)) / math.log(step)).astype(np.int64)
        self.cuts = None if tokens is None else self._cuts(tokens)
        self._orders = _Recent[tuple[np.ndarray, np.ndarray]]()

    def __call__(self, number: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        count = _batches(len(self.lengths), size) if self.cuts is None else len(self.cuts) - 1
        epoch, place = divmod(number, count)
        order, batches = self._orders.get((seed, epoch, size), lambda: self._order(epoch, size, count, seed))
        batch = int(batches[place])
        start, end = (batch * size, (batch + 1) * size) if self.cuts is None else self.cuts[batch : batch + 2]
        return np.full(end - start, epoch), order[start:end].copy()

    def _order(self, epoch: int, size: int, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """All samples of an epoch by length, and the batches they are cut into in the order they come."""
        shuffled = seeds.permutation(len(self.lengths), seed, epoch)
        inside = shuffled if self.cuts is not None else shuffled[: count * size]
        order = inside[np.argsort(self.steps[inside], kind="stable")]
        return order, seeds.permutation(count, seed, epoch, _BATCHES)

    def _cuts(self, tokens: int) -> list[int]:
        """Where batches begin and end among all samples by length: the same in every epoch, whoever is where."""
        longest = int(np.argmax(self.lengths))
        if self.lengths[longest] > tokens:
            raise UsageError(
                f"sample {longest} has length {self.lengths[longest]}, more than the budget of {tokens} a batch: "
                "use a larger budget, or leave longer samples out"
            )
        steps, inverse = np.unique(self.steps, return_inverse=True)
        largest = np.zeros(len(steps), dtype=np.int64)
        np.maximum.at(largest, inverse, self.lengths)
        cost = np.sort(largest[inverse]).tolist()  # of each sample by length, as if the longest of its step
        cuts = [0]
        while cuts[-1] < len(cost):
            cuts.append(cuts[-1] + _fitting(cost, cuts[-1], tokens))
        if len(cuts) > 2:  # what is left over is evened out with the batch before
            end, share = cuts[-1], min((cuts[-1] - cuts[-3]) // 2, tokens // cost[-1])
            cuts[-2] = min(cuts[-2], end - share)
        return cuts


def _fitting(cost: list[int], start: int, tokens: int) -> int:
    """How many samples from `start` on fit a budget, where each costs what the last of them does."""
    return bisect.bisect_right(
        range(1, len(cost) - start + 1), tokens, key=lambda count: count * cost[start + count - 1]
    )


def _batches(count: int, size: int) -> int:
    """Whole batches of `size` among `count` samples."""
    if size > count:
        raise UsageError(f"a batch of {size} is larger than the {count} samples: use --batch-size {count} or less")
    return count // size


class _Recent(Generic[T]):
    """What was worked out last, by what it depends on: for the two epochs that a batch may meet, and no more memory."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, ...], T] = {}

    def get(self, key: tuple[int, ...], make: Callable[[], T]) -> T:
        if key not in self.known:
            if len(self.known) == 2:
                del self.known[next(iter(self.known))]
            self.known[key] = make()
        return self.known[key]
