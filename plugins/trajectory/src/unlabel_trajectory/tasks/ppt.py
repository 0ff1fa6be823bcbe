"""PPT: three progressive pretext tasks, from the next position over the destination to the whole trajectory.

Lin, Liang, Lai, Hu, "Progressive Pretext Task Learning for Human Trajectory Prediction", ECCV 2024, arXiv 2407.11588.
I: next positions from every prefix. II: 20 destinations from the past and a prompt. III: the whole future, from the
past and the destination nearest to the truth, while frozen copies of I and II keep what they taught from being lost.
Differs from the authors in speed and in state, not in maths: weights pass from stage to stage by name inside the
task's state, the teachers' features are computed once, all 20 trajectories in one pass, all pairs of candidates at
once; and weights are selected by held-out training tracks instead of the test set, unless asked (dataset.select).
"""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from unlabel import Recipe, Ref, Stage, Task, momentum
from unlabel.engine import Engine
from unlabel.errors import UsageError, nearest
from unlabel.evaluate.features import evaluating
from unlabel.recipe import Execution, Group
from unlabel.task import Batch, Progress, Transform
from unlabel_trajectory import drawing, forecasting
from unlabel_trajectory.branches import DestinationBranch, Prompt, TrajectoryBranch
from unlabel_trajectory.encoders.gpt import TrackGPT, require_gpt
from unlabel_trajectory.tasks import destination, next_position

__all__ = ["PPT", "Part", "Teachers", "paper", "quick", "tiny", "trajectory_terms"]

Part = Literal["I", "II warm-up", "II", "III"]
"""The names of PPT's stages; a recipe's stages bear them, and may leave some out."""

_PARTS: tuple[Part, ...] = get_args(Part)
_CHUNK = 4096  # tracks of which teachers compute features at once
_CACHED = 256  # trajectories at once on a CPU


def trajectory_terms(
    predicted: Tensor, future: Tensor, candidate: Tensor, distilled: dict[str, tuple[Tensor, Tensor, float]]
) -> dict[str, Tensor]:
    """The loss of the third stage and its parts.

    Args:
        predicted, future: (N, F, 2): prediction and truth.
        candidate: (N, 2): the destination the prediction was made for, the nearest to the true destination.
        distilled: name -> aligned features of the student, those of its teacher (no gradient), weight.

    Returns:
        ``loss`` = ``trajectory`` (mean distance over steps) + ``destination`` (mean distance of the candidate)
        + the weighted mean squared differences of features, each under its name.
    """
    # L_III = mean ||y^_t - y_t|| + mean ||E_k* - D|| + 5 MSE(A_t z, z_I) + 0.5 MSE(A_d z_d, z_II)
    trajectory = torch.linalg.vector_norm(predicted - future, dim=-1).mean()
    end = torch.linalg.vector_norm(candidate - future[:, -1], dim=-1).mean()
    parts = {"trajectory": trajectory, "destination": end}
    loss = trajectory + end
    for name, (student, teacher, weight) in distilled.items():
        parts[name] = functional.mse_loss(student.float(), teacher)
        loss = loss + weight * parts[name]
    return {"loss": loss, **parts}


class Teachers(nn.Module):
    """Frozen copies of what the first two stages learnt; never in training mode, never trained.

    Args:
        encoder: whose copies they are.
        prompt: likewise.

    Attributes:
        next_position: the encoder after stage I. destination: the encoder after stage II. prompt: its prompt.
    """

    def __init__(self, encoder: TrackGPT, prompt: Prompt):
        super().__init__()
        self.next_position = cast(TrackGPT, momentum.teacher(encoder))
        self.destination = cast(TrackGPT, momentum.teacher(encoder))
        self.prompt = cast(Prompt, momentum.teacher(prompt))
        self.train(False)

    def train(self, mode: bool = True) -> Teachers:
        """Stay in evaluation mode: a teacher has no dropout."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, track: Tensor, observed: int) -> tuple[Tensor, Tensor]:
        """What the students are to remember.

        Args:
            track: (N, T, 2), relative.
            observed: P.

        Returns:
            Features of stage I at steps P to T - 1 of the true track, (N, T - P, dim), and the prompt's feature of
            stage II, (N, dim).
        """
        tokens = self.next_position.tokens(track[:, :-1])  # the *true* steps 1 to T - 1, future ones too
        wanted = slice(observed - 1, None)  # steps 8 to 19, whose successors are the future
        after = self.next_position.transform(tokens, range(1, track.shape[1]), causal=True, wanted=wanted)
        return after.float(), self.prompt.feature(self.destination, track[:, :observed]).float()


class PPT(Task):
    """Progressive pretext tasks.

    The stages of a recipe are named "I", "II warm-up", "II" and "III". One encoder goes through them all. When the
    first update of a stage begins, and only then, weights are handed over by name:

    - to ``teachers.next_position`` from ``encoder``, when stage I ends;
    - to ``teachers.destination`` and ``teachers.prompt`` from ``encoder`` and ``destination.prompt``, to
      ``trajectory.encoder`` from ``encoder``, to ``trajectory.prompts`` from ``destination.prompt.token`` (repeated)
      and to ``trajectory.prompt_in`` from ``destination.prompt.into``, when stage III begins.

    Which stages have begun is part of the state, so a resumed run hands over exactly once. A stage that was left out
    teaches nothing: its distillation is left out too. For learning rates, the destination branch of stage III is
    ``encoder.*`` and ``destination.*``; everything else that learns there is ``trajectory.*`` and ``align_*``.

    Args:
        encoder: a TrackGPT.
        observed: positions that are observed.
        future: positions to predict.
        candidates: destinations, and trajectories, predicted for each track.
        head_dim: width of the three hidden layers of the maps to destinations and to the last position.
        diversity_weight: stage II: weight of the term that pushes candidates apart.
        diversity_scale: squared distance at which it fades, in the data's units.
        distil_next: stage III: weight of the features of stage I.
        distil_destination: stage III: weight of the feature of stage II.
        scale: what positions are divided by on their way in, and multiplied by on their way out; above 0. 1, none, is
            the paper's, whose runs are long: the networks start at positions of a few units, and pixels are far
            away from there (28 make metres of those of drones). Losses and `diversity_scale` are in scaled units.
        checks: how often in a stage's schedule the tracks held out for selection are looked at; at its end the best
            weights of the stage count. 0: the last weights count.
        cache_gib: largest memory for the teachers' features of every track in every version; they are kept if they
            fit, and if the stage is long enough to need each of them.
    """

    evaluations = ("trajectory/forecast", "linear_probe")
    gathers = False  # dropout draws from each process's own generator
    expected = MappingProxyType({"loss": (0.0, math.inf)})  # of three different losses, none can be asked to fall

    begun: Tensor
    best_score: Tensor

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
        distil_next: float = 5.0,
        distil_destination: float = 0.5,
        scale: float = 1.0,
        checks: int = 20,
        cache_gib: float = 2.0,
    ):
        super().__init__()
        for name, value, least in (("observed", observed, 2), ("future", future, 2), ("candidates", candidates, 2)):
            if value < least:
                raise UsageError(f"task.{name}={value} is too small: expected at least {least}")
        if not scale > 0:
            raise UsageError(f"task.scale={scale:g}: expected a number above 0; 1 leaves positions as they are")
        self.encoder = require_gpt(encoder, "trajectory/ppt")
        self.scale = scale
        self.observed, self.future = observed, future
        self.diversity_weight, self.diversity_scale = diversity_weight, diversity_scale
        self.distil_next, self.distil_destination = distil_next, distil_destination
        self.checks, self.cache_gib = checks, cache_gib
        lengths = {"observed": observed, "future": future}

        self.next_head = nn.Linear(encoder.dim, 2)
        self.destination = DestinationBranch(encoder.dim, candidates=candidates, hidden=head_dim, **lengths)
        copied = cast(TrackGPT, momentum.teacher(encoder))
        self.trajectory = TrajectoryBranch(copied, hidden=head_dim, **lengths)
        self.align_next = nn.Linear(encoder.dim, encoder.dim)
        self.align_destination = nn.Linear(encoder.dim, encoder.dim)
        self.teachers = Teachers(encoder, self.destination.prompt)
        self._hand_over_to_trajectory()

        # Which parts these weights have been through: of them, not of the run, so no counter of the loop's tells it.
        self.register_buffer("begun", torch.zeros(len(_PARTS), dtype=torch.bool))
        self.register_buffer("best_score", torch.tensor(math.inf))
        self.best = nn.Module()
        for name, parameter in self._learning():
            self.best.register_buffer(name.replace(".", "/"), parameter.detach().clone())
        self._enter("I")

    # --- stages -----------------------------------------------------------------------------------

    def enter_stage(self, stage: Stage) -> None:
        if stage.name not in _PARTS:
            raise UsageError(
                f"trajectory/ppt has no stage {stage.name!r}{nearest(stage.name, _PARTS)}; "
                f"its stages are named {', '.join(_PARTS)}"
            )
        self._enter(stage.name)

    def _enter(self, part: Part) -> None:
        """Say what learns in a part; what teaches in stage III depends on which parts came before."""
        self.part: Part = part
        first, warm, second, _ = self.begun.tolist()
        teaching = {
            "next": first and self.distil_next > 0,
            "destination": (warm or second) and self.distil_destination > 0,
        }
        self.taught_by = frozenset(name for name, teaches in teaching.items() if teaches)
        learning: dict[str, list[nn.Module]] = {
            "I": [self.encoder, self.next_head],
            "II warm-up": [self.destination],  # prompt, its map and the head alone
            "II": [self.encoder, self.destination],
            "III": [self.encoder, self.destination, self.trajectory]
            + [self.get_submodule(f"align_{name}") for name in sorted(self.taught_by)],
        }
        self.requires_grad_(False)
        for module in learning[part]:
            module.requires_grad_(True)
        self._ready = False
        self._cache: tuple[Tensor, Tensor] | None = None
        self._held_out: Tensor | None = None

    def training_step(
        self, batches: list[Batch], optimizers: dict[str, Optimizer], engine: Engine, stage: Stage
    ) -> dict[str, Tensor]:
        """The ordinary step; the first one of a stage hands weights over, and stage III learns from its teachers."""
        if not self._ready:
            self._begin(batches[0], stage)
        self._held_out = batches[0].get("held_out")
        if self._cache is not None:
            batches = [self._remembered(batch) for batch in batches]
        return super().training_step(batches, optimizers, engine, stage)

    def _begin(self, batch: Batch, stage: Stage) -> None:
        """Hand weights over unless this stage has begun already, and compute what its teachers say."""
        if not self.begun[_PARTS.index(self.part)]:
            self._hand_over()
            self.begun[_PARTS.index(self.part)] = True
            self.best_score.fill_(math.inf)
        if self.part == "III" and self.taught_by and "tracks" in batch and "row" in batch:
            self._cache = self._teach(batch["tracks"], stage)
        self._ready = True

    def _hand_over(self) -> None:
        """Weights from what came before to the part that begins; see the class."""
        first, warm, second, _ = self.begun.tolist()
        if self.part != "I" and first and not (warm or second):
            momentum.update(self.teachers.next_position, self.encoder, 0.0)
        if self.part == "III":
            momentum.update(self.teachers.destination, self.encoder, 0.0)
            momentum.update(self.teachers.prompt, self.destination.prompt, 0.0)
            self._hand_over_to_trajectory()

    @torch.no_grad()
    def _hand_over_to_trajectory(self) -> None:
        momentum.update(self.trajectory.encoder, self.encoder, 0.0)
        momentum.update(self.trajectory.prompt_in, self.destination.prompt.into, 0.0)
        self.trajectory.prompts.copy_(self.destination.prompt.token.expand_as(self.trajectory.prompts))

    # --- selection --------------------------------------------------------------------------------

    def after_update(self, progress: Progress) -> None:
        """Look at the held-out tracks now and then, and end a stage's schedule with its best weights."""
        if self._held_out is None or not self.checks:
            return
        step, steps = progress.step, progress.steps
        if step * self.checks // steps > (step - 1) * self.checks // steps:
            self._select(self._held_out)
        if step == steps:
            self._recall()

    @torch.no_grad()
    def _select(self, held_out: Tensor) -> None:
        """Remember the weights if they are the best of this stage so far."""
        score = self.score(held_out)
        better = score < self.best_score
        for name, parameter in self._learning():
            best = self.best.get_buffer(name.replace(".", "/"))
            torch.where(better, parameter, best, out=best)
        torch.minimum(score, self.best_score, out=self.best_score)

    @torch.no_grad()
    def _recall(self) -> None:
        for name, parameter in self._learning():
            parameter.copy_(self.best.get_buffer(name.replace(".", "/")))

    def _learning(self) -> list[tuple[str, nn.Parameter]]:
        """Everything that learns in some stage."""
        return [(name, p) for name, p in self.named_parameters() if not name.startswith("teachers.")]

    @torch.no_grad()
    def score(self, tracks: Tensor) -> Tensor:
        """What the authors select by: I: mean error of next positions; II: final error of the best candidate; III:
        three times the mean error of the best trajectory plus the final one. Smaller is better.

        Args:
            tracks: (M, T, 2).
        """
        with evaluating(self):
            track = self._seen(tracks)
            past, future = track[:, : self.observed], track[:, self.observed :]
            if self.part == "I":
                predicted, _ = next_position.predict(self.encoder, self.next_head, track[:, :-1])
                return self.scale * next_position.terms(predicted, track[:, 1:])["ade"]
            if self.part in ("II warm-up", "II"):
                _, candidates = self.candidates(past)
                return self.scale * forecasting.nearest(candidates, future[:, -1])[1].mean()
            errors = forecasting.best_of(self.forecast(self.scale * past), self.scale * future)
            return 3 * errors["min_ade"].mean() + errors["min_fde"].mean()  # the authors' code; no validation set there

    # --- losses -----------------------------------------------------------------------------------

    def eval_transform(self) -> Transform:
        return forecasting.Observed(self.observed)

    def candidates(self, past: Tensor) -> tuple[Tensor, Tensor]:
        """The prompt's feature, (N, dim), and the destinations read from it, (N, K, 2), of relative pasts."""
        feature = self.destination.prompt.feature(self.encoder, past)
        return feature, self.destination.destinations(feature)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of the stage the task is in, and its parts."""
        track = forecasting.augmented(batch["track"], batch["key"], self.observed) / self.scale
        if self.part == "I":
            predicted, _ = next_position.predict(self.encoder, self.next_head, track[:, :-1])
            return next_position.terms(predicted, track[:, 1:])
        past, future = track[:, : self.observed], track[:, self.observed :]
        feature, candidates = self.candidates(past)
        if self.part != "III":
            return destination.terms(candidates, future[:, -1], self.diversity_weight, self.diversity_scale)

        candidate, _ = forecasting.nearest(candidates, future[:, -1])  # E_k*, (N, 2); the gradient flows into it
        features = self.trajectory.features(past, candidate[:, None])  # z at steps 8 to 19, (N, F, dim)
        predicted = self.trajectory.read_out(features, candidate)  # y^, (N, F, 2)

        taught = self._taught(batch, track)
        distilled = {}
        if "next" in self.taught_by:
            distilled["distil_next"] = (self.align_next(features), taught[0], self.distil_next)
        if "destination" in self.taught_by:
            distilled["distil_destination"] = (self.align_destination(feature), taught[1], self.distil_destination)
        return trajectory_terms(predicted, future, candidate, distilled)

    def _taught(self, batch: Batch, track: Tensor) -> tuple[Tensor, ...]:
        """The teachers' features of a batch: remembered, or computed now."""
        if "taught_next" in batch:
            return batch["taught_next"], batch["taught_destination"]
        return self.teachers(track, self.observed) if self.taught_by else ()

    @torch.no_grad()
    def _teach(self, tracks: Tensor, stage: Stage) -> tuple[Tensor, Tensor] | None:
        """The teachers' features of every track in every version, or None if that is not worth it.

        They are constant, and computed in the same portions whenever the stage is entered, so a resumed run has the
        same ones to the bit.

        Returns:
            (N * 5, F, dim) and (N * 5, dim).
        """
        count = len(tracks) * forecasting.VERSIONS
        gib = count * (self.future + 1) * self.encoder.dim * 4 / 2**30
        if gib > self.cache_gib or (stage.steps or 0) * stage.size < count:
            return None
        relative = self._seen(tracks)
        after = relative.new_empty(len(tracks), forecasting.VERSIONS, self.future, self.encoder.dim)
        prompt = relative.new_empty(len(tracks), forecasting.VERSIONS, self.encoder.dim)
        for version in range(forecasting.VERSIONS):
            for start in range(0, len(tracks), _CHUNK):
                part = slice(start, start + _CHUNK)
                track = forecasting.turned(relative[part], version)
                after[part, version], prompt[part, version] = self.teachers(track, self.observed)
        return after.flatten(0, 1), prompt.flatten(0, 1)

    def _remembered(self, batch: Batch) -> Batch:
        """The batch with its teachers' features."""
        assert self._cache is not None
        place = batch["row"] * forecasting.VERSIONS + forecasting.versions(batch["key"])
        return {**batch, "taught_next": self._cache[0][place], "taught_destination": self._cache[1][place]}

    # --- what it is good for ----------------------------------------------------------------------

    def encode(self, batch: Batch) -> Tensor:
        """The feature of the destination prompt, which has seen the observed steps: (N, dim)."""
        return self.destination.prompt.feature(self.encoder, self._seen(batch["track"][:, : self.observed]))

    def _seen(self, tracks: Tensor) -> Tensor:
        """Tracks as the networks see them: relative, and scaled."""
        return forecasting.relative(tracks, self.observed) / self.scale

    @torch.no_grad()
    def forecast(self, past: Tensor) -> Tensor:
        """All candidates of a track in one pass: (N, P, 2) -> (N, K, future, 2), in the coordinates of `past`.

        On a CPU, no more trajectories at once than its cache holds the tokens of: 10,000 took twice as long each.
        """
        known = self._seen(past)
        _, ends = self.candidates(known)
        size = max(1, (_CACHED if past.device.type == "cpu" else _CHUNK * 16) // ends.shape[1])
        parts = []
        for start in range(0, len(past), size):
            destinations = ends[start : start + size]
            features = self.trajectory.features(known[start : start + size], destinations)
            parts.append(self.trajectory.read_out(features, destinations.flatten(0, 1)))
        return self.scale * torch.cat(parts).view(*ends.shape[:2], self.future, 2) + past[:, None, -1:]

    @torch.no_grad()
    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Observed steps, 20 futures and the truth of one track of each scene, at most eight."""
        return drawing.forecasts(self, batch)


def _stages(lengths: dict[Part, dict[str, float]], batch_size: int, destination_lr: float) -> list[Stage]:
    """The four stages at the paper's rates: Adam, no decay, no schedule, gradients clipped to norm 1."""
    # the authors' command line for SDD; 1e-7 all but freezes the destination branch in stage III
    rates: dict[Part, float] = {"I": 1e-3, "II warm-up": 1e-3, "II": 1e-4, "III": 1.5e-3}
    slow = [Group(pattern=name, lr_scale=destination_lr / rates["III"]) for name in ("encoder.*", "destination.*")]
    return [
        Stage.model_validate(
            {
                "name": part,
                "batch_size": batch_size,
                "optimizer": "adam",
                "lr": rates[part],
                "schedule": "constant",
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "groups": slow if part == "III" else [],
                **length,
            }
        )
        for part, length in lengths.items()
    ]


def paper() -> Recipe:
    """Best of 20 on the Stanford drone tracks: 7.03 / 10.65 pixels in the authors' release, selected on the test set.

    On ETH/UCY 0.20 / 0.31 m on average; the rates for it are not published, the ones here with batches of 256 are
    as good a guess as any. 3,000 + 600 + 600 + 600 of the authors' epochs, each of five versions of every track (so
    five of ours); 4.7 h on an RTX 3090, they say. Not run by us at this size.
    ``unlabel train trajectory/ppt --recipe paper --data SDD`` (``--set dataset.select=test`` for their selection)
    """
    epochs: dict[Part, dict[str, float]] = {
        "I": {"epochs": 15000},
        "II warm-up": {"epochs": 3000},
        "II": {"epochs": 3000},
        "III": {"epochs": 3000},
    }
    return Recipe(
        task=Ref("trajectory/ppt"),
        encoder=Ref("trajectory/gpt"),
        dataset=Ref("trajectory/sdd"),
        stages=_stages(epochs, 512, 1e-7),
        execution=Execution(precision="fp32"),
    )


def quick() -> Recipe:
    """A small encoder on the simulated crowd, two minutes on a CPU; far below constant velocity.

    ``unlabel train trajectory/ppt --recipe quick``
    """
    steps: dict[Part, dict[str, float]] = {
        "I": {"steps": 600},
        "II warm-up": {"steps": 150},
        "II": {"steps": 600},
        "III": {"steps": 700},
    }
    stages = _stages(steps, 128, 1e-4)
    return Recipe(
        task=Ref("trajectory/ppt", head_dim=128, checks=10),
        encoder=Ref("trajectory/gpt", dim=48, depth=2, hidden=128),
        dataset=Ref("trajectory/crowd"),
        stages=[stage.model_copy(update={"lr": 1e-3}) if stage.name == "II" else stage for stage in stages],
        execution=Execution(precision="fp32"),
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train trajectory/ppt --recipe tiny``"""
    steps: dict[Part, dict[str, float]] = {part: {"steps": 6} for part in _PARTS}
    return Recipe(
        task=Ref("trajectory/ppt", head_dim=24, checks=2),
        encoder=Ref("trajectory/gpt", dim=16, depth=2, hidden=24),
        dataset=Ref("trajectory/crowd", scenes=4, agents=12, seconds=16.0),
        stages=_stages(steps, 32, 1e-4),
        execution=Execution(precision="fp32"),
    )
