"""Is the representation healthy? Numbers that show a collapse, and a verdict in plain words.

Collapse is the common way for self-supervision to fail: the loss falls while the features lose what they should
carry. The functions here need features alone; `Health` reads the numbers of a whole run and says what they mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, variance
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel import data
from unlabel.evaluate import metrics
from unlabel.evaluate.features import Frozen
from unlabel.evaluate.knn import predict
from unlabel.logs import Observer
from unlabel.task import Progress, Task

__all__ = [
    "Health",
    "HealthObserver",
    "Level",
    "alignment",
    "effective_rank",
    "entropy",
    "feature_std",
    "online",
    "rankme",
    "uniformity",
]

Level = Literal["ok", "warn", "bad"]


def feature_std(features: Tensor) -> Tensor:
    """Spread of L2-normalised features: about 1 if they point everywhere, 0 if they all point one way.

    The mean over dimensions of the standard deviation, times sqrt(D) (Chen & He, 2011.10566, section 4.1).

    Args:
        features: float, (N, D), N at least 2.

    Returns:
        Scalar of the same dtype.
    """
    return F.normalize(features, dim=1).std(dim=0).mean() * math.sqrt(features.shape[1])


def rankme(features: Tensor) -> Tensor:
    """RankMe (Garrido et al., 2210.02885, eq. 1-2): the exponential of the entropy of the singular values.

    Args:
        features: float, (N, D); not centred.

    Returns:
        Scalar of the same dtype, from 1 (all on one line) to min(N, D) (equally much in every direction).
    """
    values = torch.linalg.svdvals(features)
    shares = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return entropy(shares, dim=0).exp()


def effective_rank(features: Tensor) -> Tensor:
    """In how many directions features vary: the exponential of the entropy of their variances along principal axes.

    Unlike `rankme` it is of centred features and of variances (squared singular values), so that a large mean or a
    little noise in many directions does not count (Roy & Vetterli, EUSIPCO 2007, applied to the covariance).

    Args:
        features: float, (N, D).

    Returns:
        Scalar of the same dtype, from 1 to min(N - 1, D).
    """
    variances = torch.linalg.svdvals(features - features.mean(dim=0)).square()
    return entropy(variances / variances.sum().clamp_min(torch.finfo(variances.dtype).tiny), dim=0).exp()


def alignment(first: Tensor, second: Tensor, power: float = 2.0) -> Tensor:
    """Mean distance of two views' L2-normalised features, to a power (Wang & Isola, 2005.10242): 0 is aligned.

    Args:
        first, second: float, (N, D); row i of each is the same sample.
        power: alpha in the paper.
    """
    apart = F.normalize(first, dim=1) - F.normalize(second, dim=1)
    distances: Tensor = torch.linalg.vector_norm(apart, dim=1)
    return distances.pow(power).mean()


def uniformity(features: Tensor, scale: float = 2.0) -> Tensor:
    """Log of the mean Gaussian potential of L2-normalised features (Wang & Isola, 2005.10242): lower is more uniform.

    Args:
        features: float, (N, D), N at least 2; costs N^2.
        scale: t in the paper.

    Returns:
        Scalar in [-4 * scale, 0]; 0 if all features point the same way.
    """
    return F.pdist(F.normalize(features, dim=1)).square().mul(-scale).exp().mean().log()


def entropy(probabilities: Tensor, dim: int = -1) -> Tensor:
    """Shannon entropy in nats along `dim`; 0 log 0 is 0."""
    terms: Tensor = torch.special.entr(probabilities)
    return terms.sum(dim=dim)


def online(frozen: Frozen, *, k: int = 20) -> dict[str, float]:
    """A quick look during training, at training samples only: the held-out ones stay unseen until the end.

    Args:
        frozen: built now, because features are computed once; a limit of a thousand samples is plenty.
        k: neighbours for the accuracy, as in `unlabel.evaluate.knn`.

    Returns:
        ``feature_std``, ``rankme``, and with labels ``knn``: accuracy of every fifth sample by the other four.
    """
    features, labels = frozen.features("train")
    values = {"feature_std": feature_std(features).item(), "rankme": rankme(features).item()}
    if not frozen.has_labels():
        return values
    features, labels = frozen.labelled("train")
    bank, query = (torch.from_numpy(part) for part in data.holdout(labels.numpy(), len(labels), 0.2, frozen.seed))
    if len(query):
        used = min(k, len(bank))
        ranked = predict(features[bank], labels[bank], features[query], used, 0.07, len(frozen.classes))
        values["knn"] = metrics.accuracy(ranked[:, 0], labels[query])
    return values


class Health:
    """Collects what a run logs and judges it at the end.

    Args:
        expected: healthy ranges late in training, the task's `expected`; they replace the general ranges here.
        width: largest possible rank of the features that are monitored: the smaller of their number and width.
    """

    def __init__(self, expected: Mapping[str, tuple[float, float]], width: int | None = None) -> None:
        self.expected = expected
        self.width = width
        self.steps: dict[str, list[int]] = {}
        self.values: dict[str, list[float]] = {}

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Note the numbers logged at a step; not every name need be there every time."""
        for name, value in values.items():
            self.steps.setdefault(name, []).append(step)
            self.values.setdefault(name, []).append(value)

    def verdict(self) -> list[tuple[Level, str]]:
        """What the numbers mean, worst first: a level and a sentence each; never empty."""
        if not self.values:
            return [("warn", "nothing was logged, so there is nothing to judge")]
        broken = [self._not_finite(name) for name in self.values if not all(map(math.isfinite, self.values[name]))]
        if broken:
            return broken
        findings = [*self._features(), *self._rank(), *self._loss(), *self._gradients(), *self._knn(), *self._ranges()]
        if not any(level != "ok" for level, _ in findings):
            findings.append(("ok", self._summary()))
        return sorted(findings, key=lambda entry: ("bad", "warn", "ok").index(entry[0]))

    def _not_finite(self, name: str) -> tuple[Level, str]:
        steps_values = zip(self.steps[name], self.values[name], strict=True)
        step, value = next((step, value) for step, value in steps_values if not math.isfinite(value))
        advice = "lower the learning rate, clip gradients, or train in bf16 or fp32 instead of fp16"
        return "bad", f"{name} was {value} at step {step}: {advice}"

    def _judged(self, name: str) -> bool:
        """Whether the general rule for this number applies: it was logged, and the task has no range of its own."""
        return name in self.values and name not in self.expected

    def _features(self) -> list[tuple[Level, str]]:
        if not self._judged("feature_std") or self.values["feature_std"][-1] >= 0.3:
            return []
        last = self.values["feature_std"][-1]
        advice = "lower the learning rate, check that targets carry no gradient, or use larger batches"
        if last < 0.1:
            return [("bad", f"features collapsed: std {last:.2g} (healthy > 0.3): {advice}")]
        return [("warn", f"features are close to collapse: std {last:.2g} (healthy > 0.3): {advice}")]

    def _rank(self) -> list[tuple[Level, str]]:
        if not self._judged("rankme") or self.width is None:
            return []
        last, least = self.values["rankme"][-1], max(min(2.0, 0.5 * self.width), 0.05 * self.width)
        if last >= least:
            return []
        what = f"features use few directions: rank {last:.1f} of {self.width} (healthy > {least:.1f})"
        return [("warn", f"{what}: part of them collapsed; try a lower learning rate or a harder pretext task")]

    def _loss(self) -> list[tuple[Level, str]]:
        values = self.values.get("loss", [])
        if len(values) < 12 or not self._judged("loss"):
            return []
        first, last = _start_and_end(values)
        third = values[-(len(values) // 3) :]
        before, after = third[: len(third) // 2], third[len(third) // 2 :]
        rise = fmean(after) - fmean(before)
        if rise > 3 * _error(before, after) and rise > 0.02 * (max(values) - min(values)):
            advice = "lower the learning rate or warm up for longer"
            return [("warn", f"loss rose in the last third, from {median(before):.4g} to {last:.4g}: {advice}")]
        if last >= first:
            advice = "train for longer, or change the learning rate"
            return [("warn", f"loss did not fall ({first:.4g} to {last:.4g}): {advice}")]
        return []

    def _gradients(self) -> list[tuple[Level, str]]:
        values = self.values.get("gradient_norm", [])
        if len(values) < 9 or not self._judged("gradient_norm"):
            return []
        first, last = _start_and_end(values)
        if last <= 10 * first:
            return []
        growth = f"{last / first:.0f}-fold " if first > 0 else ""
        level: Level = "bad" if last > 50 * first else "warn"
        return [(level, f"gradient norm grew {growth}({first:.3g} to {last:.3g}): lower the learning rate or clip")]

    def _knn(self) -> list[tuple[Level, str]]:
        values = self.values.get("knn", [])
        if len(values) < 2 or not self._judged("knn") or values[-1] >= max(values) - 0.05:
            return []
        best = values.index(max(values))
        fall = f"from {values[best]:.3f} at step {self.steps['knn'][best]} to {values[-1]:.3f}"
        return [("warn", f"k-NN accuracy fell {fall}: an earlier checkpoint may be better")]

    def _ranges(self) -> list[tuple[Level, str]]:
        findings: list[tuple[Level, str]] = []
        for name, (low, high) in self.expected.items():
            if name not in self.values:
                continue
            _, last = _start_and_end(self.values[name])
            if not low <= last <= high:
                what = f"{name} ended at {last:.3g}, outside the healthy {low:g} to {high:g} of this task"
                findings.append(("warn", what))
        return findings

    def _summary(self) -> str:
        facts = []
        if "rankme" in self.values:
            facts.append(f"rank {self.values['rankme'][-1]:.0f}" + (f" of {self.width}" if self.width else ""))
        if "loss" in self.values:
            first, last = _start_and_end(self.values["loss"])
            facts.append(f"loss {'fell' if last < first else 'went'} from {first:.4g} to {last:.4g}")
        if "knn" in self.values:
            facts.append(f"k-NN accuracy went from {self.values['knn'][0]:.3f} to {self.values['knn'][-1]:.3f}")
        return ": ".join(["healthy", *filter(None, [", ".join(facts)])])


def _start_and_end(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and of the last tenth: robust to single steps."""
    tenth = max(1, len(values) // 10)
    return median(values[:tenth]), median(values[-tenth:])


def _error(before: Sequence[float], after: Sequence[float]) -> float:
    """Standard error of the difference of two means."""
    return math.sqrt(variance(before) / len(before) + variance(after) / len(after))


class HealthObserver(Observer):
    """Collects the logged numbers for the verdict.

    Args:
        folder: the run's.
        task: says what is healthy; its first encoder's width bounds the rank of features.
        samples: of the online check, which bound it, too.
    """

    def __init__(self, folder: Path, task: Task, samples: int):
        super().__init__(folder)
        widths = [getattr(encoder, "dim", None) for encoder in task.encoders().values()]
        width = widths[0] if widths else None
        self.health = Health(task.expected, None if width is None else min(int(width), samples or int(width)))
        self.speeds: list[float] = []

    def log(self, progress: Progress, metrics: Any) -> None:
        skipped = ("stage", "step", "epoch", "total_step", "lr", "samples_per_second", "seconds")
        self.health.record(progress.total_step, {name: value for name, value in metrics.items() if name not in skipped})
        if "samples_per_second" in metrics:
            self.speeds.append(metrics["samples_per_second"])

    def verdict(self) -> list[tuple[str, str]]:
        """Level and sentence of what there is to say."""
        return [(level, sentence) for level, sentence in self.health.verdict()]

    def speed(self) -> float:
        """Samples a second, the median over the logged intervals; 0 if nothing was logged."""
        return sorted(self.speeds)[len(self.speeds) // 2] if self.speeds else 0.0
