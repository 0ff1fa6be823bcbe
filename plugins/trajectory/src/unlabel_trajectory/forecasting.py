"""What the tasks share: relative tracks, the five versions of a track, losses of candidates, errors of forecasts."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from unlabel import seeds
from unlabel.data import Draw
from unlabel.errors import UsageError
from unlabel.task import Sample

__all__ = [
    "VERSIONS",
    "Forecaster",
    "Observed",
    "augmented",
    "best_of",
    "constant_velocity",
    "diversity",
    "linear_fit",
    "nearest",
    "relative",
    "turned",
    "versions",
]

VERSIONS = 5
"""As it is, turned by 90, 180 and 270 degrees, mirrored."""

_MATRICES = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0), (-1, 0, 0, 1))
"""Row-major 2 x 2 matrices M of the versions: a position (x, y) becomes (x, y) M."""


@runtime_checkable
class Forecaster(Protocol):
    """A task that can say how tracks go on.

    Attributes:
        observed: positions it wants to see.
    """

    observed: int

    def forecast(self, past: Tensor) -> Tensor:
        """Continue tracks: (N, observed, 2) -> (N, K, future, 2), K candidates, in the coordinates of `past`."""
        ...


class Observed:
    """Evaluation transform: leaves the observed positions only, so that no probe can look at what it should predict.

    Args:
        count: how many positions are observed.
    """

    def __init__(self, count: int):
        self.count = count

    def __call__(self, sample: Sample, draw: Draw) -> Sample:
        return {"track": sample["track"][: self.count]}


def relative(track: Tensor, observed: int) -> Tensor:
    """Tracks as seen from their last observed position: (N, T, 2) -> (N, T, 2), float32.

    Raises:
        UsageError: tracks shorter than what is observed.
    """
    if track.ndim != 3 or track.shape[1] < observed or track.shape[2] != 2:
        raise UsageError(
            f"tracks of shape {tuple(track.shape)}: expected (N, T, 2) with T at least {observed} observed positions; "
            "task.observed and dataset.observed must be equal"
        )
    return (track - track[:, observed - 1 : observed]).float()


def versions(keys: Tensor) -> Tensor:
    """Which of the five versions each sample is shown in, from its key alone: int64, (N,)."""
    return (seeds.uniform(keys, stream=0xA0) * VERSIONS).long()


def turned(track: Tensor, version: Tensor | int) -> Tensor:
    """Tracks in a version, about the origin.

    Args:
        track: (N, T, 2).
        version: int64, (N,), each in 0..4, or one number for all; k of 1 to 3 is (x, y) R with R = [[c, s], [-s, c]],
            c = cos(-k pi / 2), s = sin(-k pi / 2); 4 mirrors x.
    """
    table = track.new_tensor(_MATRICES)
    entries = table[version]  # (N, 4) or (4,)
    if entries.ndim == 1:
        entries = entries[None]
    a, b, c, d = entries[:, None].unbind(-1)  # (N, 1) each
    x, y = track.unbind(-1)
    return torch.stack([x * a + y * c, x * b + y * d], dim=-1)


def augmented(track: Tensor, keys: Tensor, observed: int) -> Tensor:
    """Relative tracks in the version that each sample's key says."""
    return turned(relative(track, observed), versions(keys))


def diversity(candidates: Tensor, scale: float = 1.0) -> Tensor:
    """How much the candidates of a sample coincide: mean over pairs of exp(-||E_i - E_j||^2 / scale), in [0, 1].

    All pairs of all samples at once: 1 if all candidates are equal, 0 if they are far apart.

    Args:
        candidates: (N, K, 2), K at least 2.
        scale: in the units of the positions, squared.

    Returns:
        Scalar.
    """
    count = candidates.shape[1]
    x, y = candidates.unbind(-1)  # (N, K) each
    squared = (x[:, :, None] - x[:, None]).square() + (y[:, :, None] - y[:, None]).square()  # (N, K, K)
    others = 1 - torch.eye(count, dtype=squared.dtype, device=squared.device)
    # L_div: each pair stands twice in the sum, and twice in K (K - 1), where the paper has (1 / 190) sum_{i<j}
    return ((squared / -scale).exp() * others).sum() / (len(candidates) * count * (count - 1))


def nearest(candidates: Tensor, destination: Tensor) -> tuple[Tensor, Tensor]:
    """The candidate nearest to each sample's destination; the gradient flows into it, and into no other.

    Args:
        candidates: (N, K, 2).
        destination: (N, 2).

    Returns:
        The candidates, (N, 2), and their distances, (N,): lengths, not squared.
    """
    with torch.no_grad():
        best = torch.linalg.vector_norm(candidates - destination[:, None], dim=-1).argmin(dim=1)  # k*, (N,)
    closest = candidates.gather(1, best[:, None, None].expand(-1, 1, 2))[:, 0]
    return closest, torch.linalg.vector_norm(closest - destination, dim=-1)


def best_of(candidates: Tensor, future: Tensor) -> dict[str, Tensor]:
    """Errors of the best of K candidates, of each sample.

    Args:
        candidates: (N, K, F, 2).
        future: (N, F, 2): the truth.

    Returns:
        (N,) each: ``min_ade`` and ``min_fde``, whose minima are taken independently (Social-GAN's convention, PPT's),
        and ``ade_of_best_fde``, the mean error of the candidate that ends nearest (PECNet's convention; larger).
    """
    errors = torch.linalg.vector_norm(candidates - future[:, None], dim=-1)  # (N, K, F)
    mean, final = errors.mean(-1), errors[:, :, -1]
    of_best = mean.gather(1, final.argmin(dim=1, keepdim=True))[:, 0]
    return {"min_ade": mean.amin(1), "min_fde": final.amin(1), "ade_of_best_fde": of_best}


def constant_velocity(past: Tensor, future: int) -> Tensor:
    """The last observed step, repeated: (N, P, 2) -> (N, 1, F, 2)."""
    step = past[:, -1] - past[:, -2]
    ahead = torch.arange(1, future + 1, dtype=past.dtype, device=past.device)
    return (past[:, -1:] + step[:, None] * ahead[:, None])[:, None]


def linear_fit(past: Tensor, future: int) -> Tensor:
    """The straight line of least squares through all observed positions, continued: (N, P, 2) -> (N, 1, F, 2)."""
    count = past.shape[1]
    time = torch.arange(count, dtype=past.dtype, device=past.device) - (count - 1) / 2
    slope = (time[:, None] * past).sum(1) / time.square().sum()
    ahead = torch.arange(count, count + future, dtype=past.dtype, device=past.device) - (count - 1) / 2
    return (past.mean(1, keepdim=True) + slope[:, None] * ahead[:, None])[:, None]
