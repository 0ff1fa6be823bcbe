"""Dense probe: how much of a label map can a linear classifier read off the features of each place?

The part that knows no modality: items may have one axis or several. An item is resampled to a working size and covered
by windows as large as the encoder's input; each gives a grid of features, see `Covered`.

Learning: every labelled element of an item is an example with the features of the cell it lies in, so a cell is an
example that counts once for each of its elements: multinomial logistic regression on counts, without resampling a
label. Its strength is chosen by the mean intersection over union on a fifth of the training *items*: elements of one
item are neighbours, and must not stand on both sides. Scoring: the scores of a window are resampled linearly to its
size, averaged where windows overlap, resampled to the size of the label map and only then compared, element by element,
in one confusion table of all items. Elements without a label count nowhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel import data, seeds
from unlabel.errors import RunError, UsageError
from unlabel.evaluate import metrics
from unlabel.evaluate.features import Frozen, Split
from unlabel.evaluate.linear_probe import logistic, standardise

__all__ = [
    "Covered",
    "LabelMaps",
    "cell_counts",
    "corners",
    "label_maps",
    "probe",
    "scores_of",
    "stitched",
    "summary",
]

Resampling = Literal["linear", "nearest"]
_LINEAR: dict[int, str] = {1: "linear", 2: "bilinear", 3: "trilinear"}


@runtime_checkable
class LabelMaps(Protocol):
    """A dataset whose samples have a class at every place. Maps are read by evaluations alone, never for training.

    Attributes:
        map_classes: names of the classes, in the order of their numbers.
    """

    map_classes: tuple[str, ...]

    def label_map(self, index: int) -> np.ndarray:
        """The classes of one sample: integers, (*size), in [0, classes), -1 where there is no label.

        Raises:
            UsageError: the map cannot be used; names the file.
        """
        ...


@dataclass(frozen=True)
class Covered:
    """One item under windows of equal size.

    Attributes:
        features: float, (W, D, *grid): of each window.
        corners: where each window begins in the resampled item, (W) of (axes).
        window: size of a window, (axes).
        resampled: size of the resampled item, (axes).
        labels: int64, (*size): of the item itself, -1 without label.
    """

    features: Tensor
    corners: Sequence[tuple[int, ...]]
    window: tuple[int, ...]
    resampled: tuple[int, ...]
    labels: Tensor


def corners(size: Sequence[int], window: Sequence[int], stride: Sequence[int]) -> list[tuple[int, ...]]:
    """Where windows begin that cover an item: a stride apart, the last of each axis at the end, in row-major order.

    Args:
        size, window, stride: (axes) each; no window longer than the item, no stride below 1.
    """
    axes = []
    for length, side, step in zip(size, window, stride, strict=True):
        last = length - side
        if last < 0 or step < 1:
            raise ValueError(f"windows of {side} at a stride of {step} do not fit an axis of {length}")
        axes.append(sorted({*range(0, last, step), last}))
    return list(product(*axes))


def cell_counts(
    labels: Tensor,
    resampled: Sequence[int],
    corner: Sequence[int],
    window: Sequence[int],
    grid: Sequence[int],
    classes: int,
) -> Tensor:
    """How often each class occurs in each cell of a window; an element belongs to the cell its centre lies in.

    Args:
        labels: int64, (*size), in [-1, classes); -1 is not counted.
        resampled: size of the item that the window lies in; the labels keep their own size.
        corner: where the window begins.
        window: its size.
        grid: number of its cells along each axis.
        classes: number of classes.

    Returns:
        int64, (prod(grid), classes).
    """
    cell = torch.zeros((), dtype=torch.int64, device=labels.device)
    for axis, length in enumerate(labels.shape):
        centres = (torch.arange(length, dtype=torch.float64, device=labels.device) + 0.5) * resampled[axis] / length
        place = ((centres - corner[axis]) * grid[axis] / window[axis]).floor().to(torch.int64)
        within = ((place >= 0) & (place < grid[axis])).nonzero().flatten()  # of neighbours
        labels = labels.index_select(axis, within)
        cell = cell * grid[axis] + place[within].reshape([-1 if other == axis else 1 for other in range(labels.ndim)])
    cells = int(np.prod(list(grid)))
    cell_and_label = (cell * (classes + 1) + (labels + 1)).flatten()  # no label is a class too, until all are counted
    return torch.bincount(cell_and_label, minlength=cells * (classes + 1)).reshape(cells, classes + 1)[:, 1:]


def stitched(
    scores: Tensor,
    corners: Sequence[tuple[int, ...]],
    window: Sequence[int],
    resampled: Sequence[int],
    size: Sequence[int],
    resampling: Resampling = "linear",
) -> Tensor:
    """Scores of windows as the scores of every element of an item.

    Args:
        scores: float, (W, classes, *grid).
        corners: of the windows; together they cover the resampled item.
        window: size of each.
        resampled: size of the item they lie in.
        size: size wanted.
        resampling: from cells to elements.

    Returns:
        float, (classes, *size).
    """
    mode = _LINEAR[scores.ndim - 2] if resampling == "linear" else "nearest-exact"
    align = {"align_corners": False} if resampling == "linear" else {}
    scores = F.interpolate(scores, tuple(window), mode=mode, **align)
    total = scores.new_zeros((scores.shape[1], *resampled))
    count = scores.new_zeros((1, *resampled))
    for part, corner in zip(scores, corners, strict=True):
        place = tuple(slice(begin, begin + length) for begin, length in zip(corner, window, strict=True))
        total[(slice(None), *place)] += part
        count[(slice(None), *place)] += 1
    return F.interpolate((total / count)[None], tuple(size), mode=mode, **align)[0]


def label_maps(frozen: Frozen, split: Split, who: str) -> LabelMaps:
    """The samples of a split, if they have label maps.

    Args:
        frozen: what is judged.
        split: which samples.
        who: name of the evaluation that asks.

    Raises:
        UsageError: they have none.
    """
    part = frozen.dataset(split)
    if not isinstance(part, LabelMaps):
        whole = part.dataset if isinstance(part, data.Subset) else part
        if isinstance(whole, LabelMaps):
            raise UsageError(
                f"{who}: {type(whole).__name__} has a class for every place, and says so of no part of it: give it "
                '`per_sample = ("label_map",)` and `per_dataset = ("map_classes",)`'
            )
        raise UsageError(
            f"{who} needs a class for every place, and {type(whole).__name__} has none: give a labelled dataset, "
            "see the evaluation's page, with --data"
        )
    return part


def summary(table: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """What a confusion table of elements says.

    Args:
        table: int64, (classes, classes); row is the label, column the prediction.
        classes: their names.

    Returns:
        ``mean_iou`` (over the classes that occur among labels or predictions), ``accuracy`` (share of the elements),
        ``class_accuracy`` (mean of the shares of each class that occurs among the labels), and ``iou_NAME`` of every
        class that occurs.
    """
    union = metrics.intersection_over_union(table)
    hits, labels = table.diagonal().double(), table.sum(dim=1).double()
    return {
        "mean_iou": float(union.nanmean()),
        "accuracy": float(hits.sum() / labels.sum()),
        "class_accuracy": float((hits / labels).nanmean()),
        **{f"iou_{name}": float(value) for name, value in zip(classes, union, strict=True) if not value.isnan()},
    }


def _rows(items: Iterable[Covered], classes: int, places: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features and counts of at most so many labelled cells of each item, drawn at random."""
    for number, item in enumerate(items):
        grid = item.features.shape[2:]
        features = item.features.flatten(2).transpose(1, 2).flatten(0, 1)  # (W cells, D)
        counts = torch.cat(
            [cell_counts(item.labels, item.resampled, c, item.window, grid, classes) for c in item.corners]
        )
        labelled = counts.sum(dim=1).nonzero().flatten()
        drawn = torch.from_numpy(seeds.permutation(len(labelled), seed, number))[:places]
        cells = labelled[drawn.to(labelled.device)]
        yield features[cells].to("cpu", torch.float32), counts[cells].cpu()


def _table(predicted: Tensor, counts: Tensor) -> Tensor:
    """Confusion of the elements of cells that each have one prediction: int64, (classes, classes)."""
    table = torch.zeros_like(counts[:1]).repeat(counts.shape[1], 1)  # (predicted, label)
    return table.index_add_(0, predicted, counts).T


def _shares(counts: Tensor) -> Tensor:
    """Targets of a mean over cells that is the mean over elements: float64, (N, classes)."""
    return counts.double() * (len(counts) / counts.sum())


def scores_of(features: Tensor, weights: Tensor) -> Tensor:
    """A linear layer at each cell: (W, D, *grid) and (classes, D + 1), the bias last, to (W, classes, *grid)."""
    flat = torch.einsum("cd,wdl->wcl", weights[:, :-1], features.flatten(2).to(weights.dtype))
    return (flat + weights[:, -1:]).reshape(*flat.shape[:2], *features.shape[2:])


def probe(
    train: Callable[[], Iterable[Covered]],
    test: Callable[[], Iterable[Covered]],
    classes: Sequence[str],
    *,
    items: int,
    grid: Sequence[float],
    places: int,
    seed: int,
    resampling: Resampling = "linear",
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Learn on the training items, score on the test items.

    Args:
        train, test: give the items, one after another.
        classes: names of the classes.
        items: how many training items there are.
        grid: strengths C to choose from, see `unlabel.evaluate.linear_probe.logistic`.
        places: use at most so many cells to learn from, spread evenly over the items.
        seed: of the drawing of cells and of the held-out items.
        resampling: from cells to elements in scoring.
        device: where it is computed.

    Returns:
        `summary`, and the ``C`` that was chosen.

    Raises:
        UsageError: an option is out of range, or no training item has a label.
    """
    if not grid or min(grid) <= 0:
        raise UsageError(f"grid {tuple(grid)} must hold strengths C above 0, e.g. (0.001, 0.1)")
    if places < 1:
        raise UsageError(f"places={places}: expected at least 1 cell to learn from")
    rows_of_items = list(_rows(train(), len(classes), -(-places // max(1, items)), seed))
    if not sum(len(counts) for _, counts in rows_of_items):
        raise UsageError("no training item has a labelled element inside its windows")
    strength = _choose(rows_of_items, grid, seed, device)
    rows, counts = (torch.cat(part).to(device) for part in zip(*rows_of_items, strict=True))
    ends = torch.stack([torch.zeros_like(rows[0]), torch.ones_like(rows[0])])
    standard, (zero, one) = standardise(rows, ends)
    weights = logistic(standard, _shares(counts), len(classes), strength, tolerance=1e-6)
    direct = weights[:, :-1] * (one - zero)  # the same layer, of features that are not standardised
    weights = torch.cat([direct, weights[:, -1:] + (weights[:, :-1] @ zero)[:, None]], dim=1)

    total = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    for item in test():
        scores = scores_of(item.features.to(device), weights).float()  # resampling costs most: float64 would double it
        scores = stitched(scores, item.corners, item.window, item.resampled, item.labels.shape, resampling)
        labels, best = item.labels.flatten().cpu(), scores.argmax(dim=0).flatten().cpu()
        total += metrics.confusion(best[labels >= 0], labels[labels >= 0], len(classes))
    if not int(total.sum()):
        raise RunError("no test item has a labelled element")
    return {**summary(total, classes), "C": strength}


def _choose(
    rows_of_items: Sequence[tuple[Tensor, Tensor]], grid: Sequence[float], seed: int, device: torch.device | str
) -> float:
    """The strength with the best mean IoU on a fifth of the items; the middle one if there are too few."""
    strengths = sorted(grid)
    train, held_out = data.holdout(None, len(rows_of_items), 0.2, seed)
    if len(strengths) == 1 or not len(held_out):
        return strengths[len(strengths) // 2]
    rows, counts = (torch.cat(part).to(device) for part in zip(*(rows_of_items[i] for i in train), strict=True))
    other, truth = (torch.cat(part).to(device) for part in zip(*(rows_of_items[i] for i in held_out), strict=True))
    if not len(rows) or not len(other):
        return strengths[len(strengths) // 2]
    standard, held = standardise(rows, other)
    solution, best, best_score = None, strengths[0], -1.0
    for strength in strengths:  # each starts from the one before: most of the way is done
        solution = logistic(standard, _shares(counts), counts.shape[1], strength, start=solution, tolerance=1e-5)
        predicted = (held @ solution[:, :-1].T + solution[:, -1]).argmax(dim=1)
        score = float(metrics.intersection_over_union(_table(predicted, truth)).nanmean())
        if score > best_score:
            best, best_score = strength, score
    return best
