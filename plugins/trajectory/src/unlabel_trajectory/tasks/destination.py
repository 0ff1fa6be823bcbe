"""Destination: from the observed steps, predict 20 candidates for where the track ends; PPT's second stage, on its own.

Lin, Liang, Lai, Hu, "Progressive Pretext Task Learning for Human Trajectory Prediction", ECCV 2024, arXiv 2407.11588.
A learned prompt stands for the last step but one; its feature gives the candidates. The best one is drawn to the
truth, all are pushed apart. The authors start from an encoder trained on next positions (`--init RUN`); here the
pairs of candidates of all samples are compared at once instead of sample by sample.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from unlabel import Recipe, Ref, Stage, Task
from unlabel.errors import UsageError
from unlabel.recipe import Execution
from unlabel.task import Batch, Transform
from unlabel_trajectory import drawing, forecasting
from unlabel_trajectory.branches import DestinationBranch
from unlabel_trajectory.encoders.gpt import TrackGPT, require_gpt

__all__ = ["Destination", "paper", "quick", "terms", "tiny"]


def terms(candidates: Tensor, destination: Tensor, weight: float, scale: float) -> dict[str, Tensor]:
    """The loss of candidates and its parts.

    Args:
        candidates: (N, K, 2).
        destination: (N, 2), the truth.
        weight: of the diversity term.
        scale: of the diversity term, in squared units of the positions.

    Returns:
        ``loss`` = ``precision`` + weight * ``diversity``; precision is also the error of the best candidate.
    """
    _, distance = forecasting.nearest(candidates, destination)
    # L_prec = mean of min_k ||E_k - D||, not squared; L_div = mean over pairs of exp(-||E_i - E_j||^2 / s)
    precision, diversity = distance.mean(), forecasting.diversity(candidates, scale)
    # L_II = L_prec + lambda_d L_div: 100 in text and run script alike
    return {"loss": precision + weight * diversity, "precision": precision, "diversity": diversity}


class Destination(Task):
    """Destination prediction.

    Args:
        encoder: a TrackGPT.
        observed: positions that are observed.
        future: positions to come; the last of them is the destination.
        candidates: destinations predicted for each track.
        head_dim: width of the three hidden layers of the map to candidates.
        diversity_weight: weight of the term that pushes candidates apart.
        diversity_scale: squared distance at which it fades, in the data's units.
    """

    evaluations = ("trajectory/forecast", "linear_probe")
    gathers = False  # dropout draws from each process's own generator

    def __init__(
        self,
        encoder: TrackGPT,
        *,
        observed: int = 8,
        future: int = 12,
        candidates: int = 20,
        head_dim: int = 512,
        diversity_weight: float = 100.0,
        diversity_scale: float = 1.0,
    ):
        super().__init__()
        if candidates < 2:
            raise UsageError(f"task.candidates={candidates}: at least 2 are needed to be diverse; 20 is the paper's")
        self.encoder = require_gpt(encoder, "trajectory/destination")
        self.destination = DestinationBranch(
            encoder.dim, observed=observed, future=future, candidates=candidates, hidden=head_dim
        )
        self.observed, self.future = observed, future
        self.diversity_weight, self.diversity_scale = diversity_weight, diversity_scale

    def eval_transform(self) -> Transform:
        return forecasting.Observed(self.observed)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """See `terms`."""
        track = forecasting.augmented(batch["track"], batch["key"], self.observed)
        candidates = self._candidates(track[:, : self.observed])  # (N, K, 2)
        return terms(candidates, track[:, -1], self.diversity_weight, self.diversity_scale)

    def _candidates(self, past: Tensor) -> Tensor:
        return self.destination.destinations(self.destination.prompt.feature(self.encoder, past))

    def encode(self, batch: Batch) -> Tensor:
        """The prompt's feature: (N, dim)."""
        past = forecasting.relative(batch["track"][:, : self.observed], self.observed)
        return self.destination.prompt.feature(self.encoder, past)

    @torch.no_grad()
    def forecast(self, past: Tensor) -> Tensor:
        """Straight lines to the candidates, at constant speed: (N, P, 2) -> (N, K, future, 2)."""
        ends = self._candidates(forecasting.relative(past, self.observed))
        share = torch.linspace(0, 1, self.future + 1, device=past.device)[1:, None]
        return past[:, None, -1:] + ends[:, :, None] * share

    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Observed steps, 20 candidates for the destination and the truth of one track of each scene, at most eight."""
        return drawing.forecasts(self, batch, called="destinations")


def paper() -> Recipe:
    """The second stage of PPT on the Stanford drone tracks, from a run of trajectory/next_position.

    Two phases there: 600 of the authors' epochs (3,000 of ours) of the new parts alone at 1e-3, then as many of all
    at 1e-4. The authors report a best-of-20 final error of 10.70 pixels with, and 11.58 without the first stage.
    ``unlabel train trajectory/destination --recipe paper --data SDD --init RUN``
    """
    fields = {"epochs": 3000, "batch_size": 512, "optimizer": "adam", "schedule": "constant", "weight_decay": 0}
    stages = [
        Stage(name="warm-up", lr=1e-3, clip_norm=1.0, groups=[{"pattern": "encoder.*", "freeze": True}], **fields),
        Stage(name="all", lr=1e-4, clip_norm=1.0, **fields),
    ]
    return Recipe(
        task=Ref("trajectory/destination"),
        encoder=Ref("trajectory/gpt"),
        dataset=Ref("trajectory/sdd"),
        stages=stages,
        execution=Execution(precision="fp32"),
    )


def quick() -> Recipe:
    """A small encoder on the simulated crowd, under a minute on a CPU. ``unlabel train trajectory/destination``"""
    return Recipe(
        task=Ref("trajectory/destination", head_dim=128),
        encoder=Ref("trajectory/gpt", dim=48, depth=2, hidden=128),
        dataset=Ref("trajectory/crowd"),
        stages=[Stage(steps=1000, batch_size=128, optimizer="adam", lr=2e-3, weight_decay=0, clip_norm=1.0)],
        execution=Execution(precision="fp32"),
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train trajectory/destination --recipe tiny``"""
    return Recipe(
        task=Ref("trajectory/destination", head_dim=24),
        encoder=Ref("trajectory/gpt", dim=16, depth=2, hidden=24),
        dataset=Ref("trajectory/crowd", scenes=4, agents=12, seconds=16.0),
        stages=[Stage(steps=20, batch_size=32, optimizer="adam", lr=2e-3, weight_decay=0, clip_norm=1.0)],
        execution=Execution(precision="fp32"),
    )
