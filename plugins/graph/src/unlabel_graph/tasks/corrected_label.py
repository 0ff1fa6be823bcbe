"""Corrected label: which classes do the nodes around a node have, once the representations have had their say?

Jin et al., "Self-supervised Learning on Graphs: Deep Insights and New Direction", 2020, arXiv 2006.10141:
CorrectedLabel, their best. As ContextLabel; besides, every update draws some unlabelled nodes, corrects their pseudo
classes by comparing representations with prototypes of each class (after Han, Luo, Wang, "Deep Self-Learning From Noisy
Labels", 2019, arXiv 1908.02160), and adds alpha times the same loss on these nodes, with contexts of corrected classes.
A correction starts from the pseudo classes every time, never from the last correction.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabel import Recipe, Ref
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import nodes, pairs
from unlabel_graph.encoders.layers import Encoder, dropout
from unlabel_graph.pseudo_labels import Source, Words
from unlabel_graph.tasks.context_label import ContextLabel, context_loss, contexts

__all__ = ["CorrectedLabel", "corrected", "density", "draw_members", "paper", "prototypes", "quick", "tiny"]


def density(features: Tensor, *, quantile: float = 0.4) -> tuple[Tensor, Tensor, Tensor]:
    """How crowded it is around each member of a class, and how near the next more crowded member is.

    Args:
        features: float (M, D).
        quantile: similarities above this quantile of all M x M count 1, those below -1.

    Returns:
        rho, float (M,): sum of these signs; eta, float (M,): largest cosine to a member with larger rho, for the
        densest its smallest cosine to any; and the cosines, float (M, M).
    """
    unit = F.normalize(features, dim=1)
    similar = unit @ unit.T  # S, (M, M): Han et al. compare by the cosine
    # rho_i = sum_j sign(S_ij - S_c), Han et al.'s density; S_c: the 40 % quantile of all of S, the authors' code
    rho = torch.sign(similar - _quantile(similar.flatten(), quantile)).sum(dim=1)
    denser = rho[None, :] > rho[:, None]
    eta = torch.where(denser, similar, -torch.inf).amax(dim=1)  # eta_i = max over rho_j > rho_i of S_ij
    eta = torch.where(denser.any(dim=1), eta, similar.amin(dim=1))  # of the densest: min_j S_ij
    return rho, eta, similar


def _quantile(values: Tensor, share: float) -> Tensor:
    """The quantile with linear interpolation, by selection instead of torch's full sort."""
    place = share * (len(values) - 1)
    low = int(place)
    below = values.kthvalue(low + 1).values
    larger = values > below
    if place == low or len(values) - int(larger.sum()) > low + 1:  # the next one in order is equal
        return below
    return below + (place - low) * (values[larger].min() - below)


def prototypes(features: Tensor, *, count: int = 8, quantile: float = 0.4, too_near: float = 0.95) -> Tensor:
    """The members of a class that stand for it: dense ones that are not too near to a denser one.

    Args:
        features: float (M, D), of the members of one class.
        count: how many.
        quantile: see `density`.
        too_near: members with eta from here on lose their rho.

    Returns:
        int64 (min(count, M),): places among the members, densest first; of equals the first.
    """
    rho, eta, _ = density(features, quantile=quantile)
    rho = torch.where(eta >= too_near, 0.0, rho)  # 0.95 and 8 prototypes: the authors' code
    return torch.argsort(rho, descending=True, stable=True)[:count]


def draw_members(labels: Tensor, classes: int, limit: int = 320) -> list[Tensor]:
    """At most `limit` random nodes of each class, in random order: int64 tensors."""
    members_of = []
    for number in range(classes):
        members = (labels == number).nonzero()[:, 0]
        order = torch.randperm(len(members), device=labels.device)
        members_of.append(members[order[:limit]])
    return members_of


def corrected(hidden: Tensor, labels: Tensor, members: list[Tensor], rows: Tensor) -> Tensor:
    """New classes of some nodes: that of the prototypes they are most similar to.

    Args:
        hidden: float (N, D), detached.
        labels: int64 (N,): the classes to start from; those of other nodes stay.
        members: for each class, the nodes its prototypes are chosen from, see `draw_members`.
        rows: int64 (n,): the nodes to correct.

    Returns:
        int64 (N,).
    """
    unit = F.normalize(hidden[rows], dim=1)
    scores = torch.full((len(rows), len(members)), -torch.inf, device=hidden.device)
    for number, nodes_of_class in enumerate(members):
        if len(nodes_of_class):
            features = hidden[nodes_of_class]
            standing = F.normalize(features[prototypes(features)], dim=1)
            scores[:, number] = (unit @ standing.T).mean(dim=1)  # mean cosine to the class's prototypes
    return labels.index_copy(0, rows, scores.argmax(dim=1))


class CorrectedLabel(ContextLabel):
    """Regression of the classes around each node, and of the same after correction. Needs labels.

    Args:
        encoder: any graph encoder.
        labels: where the pseudo classes come from: label propagation, iterative classification, or both together.
        corrections: unlabelled nodes corrected in an update; the paper has 1000 for Cora, 3000 CiteSeer, 10000 PubMed.
        alpha: weight of the corrected contexts; the paper has 1 or 1.5.
        words: how iterative classification reads the attributes: as they are; rows of sum 1, the paper's for Cora; 1
            where an attribute is not 0, the paper's for CiteSeer and PubMed.
        supervised: also classify the labelled nodes, on the same representations.
        classes: number of classes; by default that of the data.
        drop: dropout on the representations, and a mask of its own for the pretext head.
        select: with `supervised`, keep the weights that are best on the validation nodes.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        labels: Source = "ica",
        corrections: int = 1000,
        alpha: float = 1.5,
        words: Words = "raw",
        supervised: bool = False,
        classes: int | None = None,
        drop: float = 0.5,
        select: bool = True,
    ):
        if corrections < 1 or alpha < 0:
            raise UsageError("corrections must be 1 or more, alpha 0 or more; 1000 and 1.5 are the paper's for Cora")
        super().__init__(
            encoder, labels=labels, words=words, supervised=supervised, classes=classes, drop=drop, select=select
        )
        self.corrections, self.alpha = corrections, alpha

    def pretext(self, hidden: Tensor, dropped: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error over the unlabelled nodes, plus alpha times that over the nodes corrected."""
        pseudo, around, context = self.targets(batch)
        unlabelled = (batch["train_label"] < 0).nonzero()[:, 0]
        drawn = unlabelled[pairs.distinct(self.corrections, len(unlabelled), hidden.device)]
        members = draw_members(pseudo, self.known_classes())
        # detach: a correction is a target; it starts from the pseudo classes, not from the last correction
        better = corrected(hidden.detach(), pseudo, members, drawn)  # (N,)
        changed = (better != pseudo).float().sum() / len(drawn)

        logits = self.head(dropout(hidden, self.drop, True))  # (N, C)
        rows = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        rows[drawn] = True
        second = context_loss(logits, contexts(around, better, self.known_classes()), rows)
        first = context_loss(logits, context, batch["train_label"] < 0)
        # L_self = MSE(ybar) over D_U + alpha MSE(ytilde) over the drawn nodes alone
        return {"loss": first + self.alpha * second, "changed": changed}


def paper() -> Recipe:
    """Joint training, iterative classification, lambda 10, alpha 1.5 (Cora; 1 for the others), 7 s on one core;
    figures: benchmarks/results/graph_selftask.md.

    ``unlabel train graph/corrected_label --recipe paper --data planetoid/Cora``
    """
    return nodes.joint("graph/corrected_label", 10, words="row")


def quick() -> Recipe:
    """Joint training on the generated graph, seconds on a CPU. ``unlabel train graph/corrected_label``"""
    return nodes.joint("graph/corrected_label", 10, steps=100, dataset=Ref("graph/sbm"), hidden=64)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/corrected_label --recipe tiny``"""
    return nodes.tiny("graph/corrected_label", labels="lp", corrections=30)
