"""Next position: from every prefix of a track, predict the position after it; PPT's first stage, on its own.

Lin, Liang, Lai, Hu, "Progressive Pretext Task Learning for Human Trajectory Prediction", ECCV 2024, arXiv 2407.11588.
Predicts the relative coordinates of step t + 1 from steps 1 to t, for all t at once, past and future steps alike.
Follows the authors' code where their text differs: squared error, four heads. Each batch shows every track in one of
the five versions (turned, mirrored), drawn from the sample's key, instead of an epoch of all five.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import Recipe, Ref, Stage, Task
from unlabel.recipe import Execution
from unlabel.task import Batch, Transform
from unlabel_trajectory import drawing, forecasting
from unlabel_trajectory.branches import in_float32
from unlabel_trajectory.encoders.gpt import TrackGPT, require_gpt

__all__ = ["NextPosition", "paper", "predict", "quick", "terms", "tiny"]


def predict(encoder: TrackGPT, head: nn.Module, track: Tensor) -> tuple[Tensor, Tensor]:
    """Teacher-forced predictions.

    Args:
        encoder: of the tokens, looking back only.
        head: map from a feature to a position.
        track: (N, T, 2), relative.

    Returns:
        Predicted positions of steps 2 to T + 1, (N, T, 2), and the features they were read from, (N, T, dim).
    """
    # rows 1 to T of the table of positions: steps are counted from 1, as in the authors' code
    features = encoder.transform(encoder.tokens(track), range(1, track.shape[1] + 1), causal=True)  # (N, T, dim)
    return in_float32(head, features), features


def terms(predicted: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """``loss``, the mean squared error over all coordinates, and ``ade``, the mean distance: (N, T, 2) each."""
    distance = torch.linalg.vector_norm(predicted.detach() - truth, dim=-1)
    # L_I = mean over samples, t = 1 ... T - 1 and both coordinates of (out_t - p_{t+1})^2; the text has the L2 distance
    return {"loss": functional.mse_loss(predicted, truth), "ade": distance.mean()}


class NextPosition(Task):
    """Next-position prediction.

    Args:
        encoder: a TrackGPT.
        observed: positions that downstream evaluations may see.
        future: positions that `forecast` rolls out.
    """

    evaluations = ("trajectory/forecast", "linear_probe")
    gathers = False  # dropout draws from each process's own generator

    def __init__(self, encoder: TrackGPT, *, observed: int = 8, future: int = 12):
        super().__init__()
        self.encoder = require_gpt(encoder, "trajectory/next_position")
        self.head = nn.Linear(encoder.dim, 2)
        self.observed, self.future = observed, future

    def eval_transform(self) -> Transform:
        return forecasting.Observed(self.observed)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """See `terms`."""
        track = forecasting.augmented(batch["track"], batch["key"], self.observed)
        # step t predicts p_{t+1} itself, relative to the last observed position, and not the offset from p_t
        predicted, _ = predict(self.encoder, self.head, track[:, :-1])
        return terms(predicted, track[:, 1:])

    def encode(self, batch: Batch) -> Tensor:
        """The feature of the last observed position: (N, dim)."""
        past = forecasting.relative(batch["track"][:, : self.observed], self.observed)
        return self.encoder(past)  # type: ignore[no-any-return]

    @torch.no_grad()
    def forecast(self, past: Tensor) -> Tensor:
        """One future, step by step from the task's own predictions: (N, P, 2) -> (N, 1, future, 2)."""
        track = forecasting.relative(past, past.shape[1])
        for _ in range(self.future):
            following = in_float32(self.head, self.encoder(track))
            track = torch.cat([track, following[:, None]], dim=1)
        return (track[:, past.shape[1] :] + past[:, -1:])[:, None]

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Of one track of each scene, at most four: every step and where it was expected, and the future rolled out."""
        track = forecasting.relative(batch["track"], self.observed)
        predicted, _ = predict(self.encoder, self.head, track[:, :-1])
        return drawing.next_positions(track, predicted, batch, 4) | drawing.forecasts(self, batch, 4)


def paper() -> Recipe:
    """The first stage of PPT on the Stanford drone tracks; the authors select by its error on the test set.

    3,000 of the authors' epochs, each of five versions of every track: 15,000 of ours. Not run by us at this size.
    ``unlabel train trajectory/next_position --recipe paper --data SDD``
    """
    stage = Stage(epochs=15000, batch_size=512, optimizer="adam", lr=1e-3, weight_decay=0, clip_norm=1.0)
    return Recipe(
        task=Ref("trajectory/next_position"),
        encoder=Ref("trajectory/gpt"),
        dataset=Ref("trajectory/sdd"),
        stages=[stage.model_copy(update={"schedule": Ref("constant")})],
        execution=Execution(precision="fp32"),
    )


def quick() -> Recipe:
    """A small encoder on the simulated crowd, under a minute on a CPU. ``unlabel train trajectory/next_position``"""
    return Recipe(
        task=Ref("trajectory/next_position"),
        encoder=Ref("trajectory/gpt", dim=48, depth=2, hidden=128),
        dataset=Ref("trajectory/crowd"),
        stages=[Stage(steps=800, batch_size=128, optimizer="adam", lr=2e-3, weight_decay=0, clip_norm=1.0)],
        execution=Execution(precision="fp32"),
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train trajectory/next_position --recipe tiny``"""
    return Recipe(
        task=Ref("trajectory/next_position"),
        encoder=Ref("trajectory/gpt", dim=16, depth=2, hidden=24),
        dataset=Ref("trajectory/crowd", scenes=4, agents=12, seconds=16.0),
        stages=[Stage(steps=20, batch_size=32, optimizer="adam", lr=2e-3, weight_decay=0, clip_norm=1.0)],
        execution=Execution(precision="fp32"),
    )
