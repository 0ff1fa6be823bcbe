"""CCA-SSG: two views agree, and no two columns of a representation say the same.

Zhang, Wu, Yan, Wipf, Yu, "From Canonical Correlation Analysis to Self-supervised Graph Neural Networks", 2021, arXiv
2106.12484. Standardised representations of two views of the whole graph are pulled together, and their correlation
matrices towards the identity; there are no negatives, no head and no teacher.
Differs from the authors' networks in that the last layer, too, is followed by the encoder's activation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel import Recipe, Ref, Stage
from unlabel.task import Batch
from unlabel_graph import agreement, augment
from unlabel_graph.augment import View
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.whole_graph import GraphTask, SelfLoops

__all__ = ["CCASSG", "correlation_loss", "paper", "quick", "tiny"]


def correlation_loss(first: Tensor, second: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Invariance ``-tr(Z1^T Z2 / N)`` and decorrelation ``weight (||Z1^T Z1 / N - I||^2 + ||Z2^T Z2 / N - I||^2)``.

    The former is half the squared distance of the views, over N and up to a constant: columns have a fixed length.

    Args:
        first, second: float (N, D): the same nodes in two views; standardised here.
        weight: lambda.
    """
    left, right = agreement.standardised(first), agreement.standardised(second)
    identity = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
    # ||Z^T Z / N - I||_F^2, squared; the diagonal is (N - 1) / N, for the deviations are unbiased
    decorrelation = [(agreement.correlation(z) - identity).square().sum() for z in (left, right)]
    # the trace, as the authors' code: half of the text's ||Z1 - Z2||_F^2, so lambda acts as 2 lambda there
    return -(left * right).sum() / len(left), weight * (decorrelation[0] + decorrelation[1])


class CCASSG(GraphTask):
    """Agreement of two views with decorrelated columns; the defaults are the paper's for Cora.

    Args:
        encoder: any graph encoder.
        weight: lambda, of the decorrelation.
        drop_edge: probability of dropping an edge, in each view.
        drop_column: probability of zeroing a column of the attributes, in each view.
        self_loops: "none": for encoders that add their own, as the paper's; "one": each node gets exactly one.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        weight: float = 1e-3,
        drop_edge: float = 0.4,
        drop_column: float = 0.1,
        self_loops: SelfLoops = "none",
    ):
        super().__init__(encoder, self_loops=self_loops)
        self.weight = weight
        self.drop_edge = augment.check_rate("drop_edge", drop_edge)
        self.drop_column = augment.check_rate("drop_column", drop_column)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss_invariance", "loss_decorrelation"}``: of two random views."""
        x, edges = self.graph(batch)
        # drop edges, zero columns: each view with draws of its own, one rate for both views
        first, second = (augment.view(x, edges, self.drop_edge, self.drop_column) for _ in range(2))
        invariance, decorrelation = self.losses_of(first, second)
        return {"loss_invariance": invariance, "loss_decorrelation": decorrelation}

    def losses_of(self, first: View, second: View) -> tuple[Tensor, Tensor]:
        """The two losses of two given views of the same nodes."""
        left, right = (self.encoder(x, edges) for x, edges in (first, second))  # (N, D) each, no head
        return correlation_loss(left, right, self.weight)


def _recipe(dataset: Ref, steps: int, width: int) -> Recipe:
    return Recipe(
        task=Ref("graph/cca_ssg"),
        encoder=Ref("graph/gcn", widths=(width, width)),
        dataset=dataset,
        stages=[Stage(steps=steps, batch_size="all", optimizer="adam", lr=1e-3, weight_decay=0.0, schedule="constant")],
    )


def paper() -> Recipe:
    """The authors' settings for Cora: widths 512 and 512, 50 updates, Adam at 1e-3: 84.2 % there in the paper.

    Not run by us. ``unlabel train graph/cca_ssg --recipe paper --data planetoid/Cora``
    """
    return _recipe(Ref("graph/planetoid"), 50, 512)


def quick() -> Recipe:
    """The generated graph, seconds on a CPU. ``unlabel train graph/cca_ssg``"""
    return _recipe(Ref("graph/sbm"), 100, 64)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/cca_ssg --recipe tiny``"""
    return _recipe(Ref("graph/sbm", nodes=120, features=24), 4, 8)
