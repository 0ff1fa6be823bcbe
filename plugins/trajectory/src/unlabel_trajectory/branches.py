"""The parts of PPT beside its encoders: the destination branch and the trajectory branch (Lin et al. 2407.11588)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabel.nn import heads
from unlabel_trajectory.encoders.gpt import TrackGPT

__all__ = ["DestinationBranch", "Prompt", "TrajectoryBranch", "in_float32"]


def in_float32(layer: nn.Module, features: Tensor) -> Tensor:
    """A layer whose output is positions, computed in float32 whatever the precision."""
    with torch.autocast(features.device.type, enabled=False):
        return layer(features.float())  # type: ignore[no-any-return]


class Prompt(nn.Module):
    """A learned token that asks the encoder where a track ends.

    Args:
        dim: width of the encoder.
        observed: observed positions, P.
        future: positions to come, F; the prompt stands at step P + F - 1, whose successor is the destination.
    """

    def __init__(self, dim: int, *, observed: int, future: int):
        super().__init__()
        self.token = nn.Parameter(torch.rand(1, 1, dim))  # r; uniform in [0, 1), the authors' code
        self.into = nn.Linear(dim, dim)
        self.steps = [*range(1, observed + 1), observed + future - 1]  # 1 ... 8 and 19

    def feature(self, encoder: TrackGPT, past: Tensor) -> Tensor:
        """The prompt's feature after it saw the past: (N, P, 2) -> (N, dim)."""
        prompt = self.into(self.token).float().expand(len(past), -1, -1)
        tokens = torch.cat([encoder.tokens(past), prompt], dim=1)  # (N, P + 1, dim)
        return encoder.transform(tokens, self.steps, causal=True, wanted=slice(-1, None))[:, 0]


class DestinationBranch(nn.Module):
    """A prompt, and the map from its feature to candidates for the last position.

    Args:
        dim: width of the encoder.
        observed: observed positions, P.
        future: positions to come, F.
        candidates: number of destinations, K.
        hidden: width of the three hidden layers of the map.
    """

    def __init__(self, dim: int, *, observed: int, future: int, candidates: int, hidden: int):
        super().__init__()
        self.prompt = Prompt(dim, observed=observed, future=future)
        self.head = heads.mlp(dim, hidden, 2 * candidates, layers=4, norm="none")
        self.candidates = candidates

    def destinations(self, feature: Tensor) -> Tensor:
        """Candidates, relative to the last observed position: (N, dim) -> (N, K, 2)."""
        return in_float32(self.head, feature).view(len(feature), self.candidates, 2)


class TrajectoryBranch(nn.Module):
    """Fills in the steps between the past and a destination, all in one pass, every token seeing every other.

    The read-out is shifted by one, as in next-step prediction: the feature at step t gives position t + 1. The one
    at the last observed step and those of the prompts have maps of their own; that of the last prompt gives what is
    added to the destination; the destination's own feature is unused.

    Args:
        encoder: its encoder, owned.
        observed: observed positions, P.
        future: positions to come, F.
        hidden: width of the three hidden layers of the last position's map.
    """

    def __init__(self, encoder: TrackGPT, *, observed: int, future: int, hidden: int):
        super().__init__()
        dim = encoder.dim
        self.encoder = encoder
        self.prompts = nn.Parameter(torch.rand(1, future - 1, dim))
        self.prompt_in = nn.Linear(dim, dim)
        self.first = nn.Linear(dim, 2)
        self.middle = nn.Linear(dim, 2)
        self.last = heads.mlp(dim, hidden, 2, layers=4, norm="none")
        self.observed, self.future = observed, future

    def features(self, past: Tensor, destination: Tensor) -> Tensor:
        """Features at steps P to P + F - 1, from which the F positions after them are read.

        Args:
            past: (N, P, 2), relative.
            destination: (N, M, 2): M destinations for each past.

        Returns:
            (N * M, F, dim).
        """
        count, several = destination.shape[:2]
        known = self.encoder.tokens(torch.cat([past, destination], dim=1))  # one map for both: (N, P + M, dim)
        prompts = self.prompt_in(self.prompts).float().expand(count, -1, -1)  # (N, F - 1, dim)
        shared, ends = torch.cat([known[:, : self.observed], prompts], dim=1), known[:, self.observed :]
        wanted = slice(self.observed - 1, self.observed + self.future - 1)
        if several > 1 and not self.training:
            return self.encoder.of_many_ends(shared, ends, wanted=wanted)
        tokens = torch.cat([shared[:, None].expand(-1, several, -1, -1), ends[:, :, None]], dim=2).flatten(0, 1)
        steps = range(1, self.observed + self.future + 1)
        return self.encoder.transform(tokens, steps, causal=False, wanted=wanted)

    def read_out(self, features: Tensor, destination: Tensor) -> Tensor:
        """The future: features (N, F, dim) and destination (N, 2) -> (N, F, 2)."""
        first = in_float32(self.first, features[:, :1])  # step 8's feature gives step 9
        middle = in_float32(self.middle, features[:, 1:-1])  # 9 ... 18 give 10 ... 19
        last = in_float32(self.last, features[:, -1:]) + destination[:, None]  # 19 gives 20, as a residual
        return torch.cat([first, middle, last], dim=1)
