"""Decorrelation: two views agree, and no two columns of a representation say the same.

ParetoGNN's RepDecor: Ju et al., "Multi-task Self-supervised Graph Neural Networks Enable Stronger Task
Generalization", 2022, arXiv 2210.02016; after CCA-SSG (Zhang et al., arXiv 2106.12484), on nodes sampled by degree.
There are no negatives and no head: standardised representations of two views are pulled together, and their
correlation matrices towards the identity.
Follows the paper's text where the authors' code differs: there both views share the columns zeroed in either.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel import Recipe, Ref
from unlabel.task import Batch
from unlabel_graph import agreement, augment
from unlabel_graph.augment import View
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.whole_graph import GraphTask, SelfLoops, recipe

__all__ = ["Decorrelation", "decorrelation_loss", "paper", "quick", "tiny"]


def decorrelation_loss(first: Tensor, second: Tensor, weight: float) -> Tensor:
    """``||(Z1 - Z2) / N|| + weight (||I - Z1^T Z1 / N|| + ||I - Z2^T Z2 / N||)``, Frobenius norms, not squared.

    Args:
        first, second: float (N, D): the same nodes in two views; standardised here.
        weight: lambda.
    """
    left, right = agreement.standardised(first), agreement.standardised(second)
    identity = torch.eye(left.shape[1], dtype=left.dtype, device=left.device)
    # Frobenius norms are not squared, unlike CCA-SSG's; lambda 1e-3 belongs to these
    invariance = ((left - right) / len(left)).norm()  # ||(Z1 - Z2) / N||_F
    first_apart, second_apart = ((identity - agreement.correlation(z)).norm() for z in (left, right))
    loss: Tensor = invariance + weight * (first_apart + second_apart)
    return loss


class Decorrelation(GraphTask):
    """Agreement of two views with decorrelated columns.

    Args:
        encoder: any graph encoder.
        weight: lambda, of the decorrelation.
        drop_edge: probability of dropping an edge, in each view.
        drop_column: probability of zeroing a column of the attributes, in each view.
        nodes: look at so many draws of nodes in proportion to their degree; by default at all nodes.
        self_loops: "one": each node gets exactly one; "none": for encoders that add their own.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        weight: float = 1e-3,
        drop_edge: float = 0.2,
        drop_column: float = 0.2,
        nodes: int | None = None,
        self_loops: SelfLoops = "one",
    ):
        super().__init__(encoder, self_loops=self_loops)
        self.weight, self.nodes = weight, nodes
        self.drop_edge = augment.check_rate("drop_edge", drop_edge)
        self.drop_column = augment.check_rate("drop_column", drop_column)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: of two random views."""
        x, edges = self.by_degree(batch, self.nodes)  # at most S draws by degree
        # a mask for each view, the text; their code zeroes the columns of either in both
        first, second = (augment.view(x, edges, self.drop_edge, self.drop_column) for _ in range(2))
        return {"loss": self.loss_of(first, second)}

    def loss_of(self, first: View, second: View) -> Tensor:
        """The loss of two given views of the same nodes."""
        left, right = (self.encoder(x, edges) for x, edges in (first, second))  # (n, D) each, no head
        return decorrelation_loss(left, right, self.weight)


def paper() -> Recipe:
    """One part of ParetoGNN alone, with its settings for Chameleon; no figure claimed, and not run at this length.

    ``unlabel train graph/decorrelation --recipe paper --data chameleon.npz``
    """
    return recipe("graph/decorrelation", dataset=Ref("graph/heterophilous"), steps=10_000, lr=5e-5, nodes=1500)


def quick() -> Recipe:
    """The generated graph, less than a minute on a CPU. ``unlabel train graph/decorrelation``"""
    return recipe("graph/decorrelation", dataset=Ref("graph/sbm"), steps=200, lr=1e-3, widths=(128, 64))


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/decorrelation --recipe tiny``"""
    small = Ref("graph/sbm", nodes=120, features=24)
    return recipe("graph/decorrelation", dataset=small, steps=4, lr=1e-3, widths=(16, 8), nodes=90)
