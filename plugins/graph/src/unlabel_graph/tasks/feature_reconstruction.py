"""Feature reconstruction: what attributes did the masked nodes have?

ParetoGNN's FeatRec: Ju et al., "Multi-task Self-supervised Graph Neural Networks Enable Stronger Task Generalization",
2022, arXiv 2210.02016; after GraphMAE (Hou et al., arXiv 2205.10803). Half of the nodes get a learnt token for
attributes, a third of the edges is dropped; a graph convolution predicts the attributes of masked nodes from the
representations of the others alone (masked ones are zeroed once more), by scaled cosine error.
Differs from the authors' code in that neighbours are summed before the decoder's weights are applied, and only for
masked nodes: the same numbers for half of the arithmetic.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabel import Recipe, Ref
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import agreement, augment, propagation
from unlabel_graph.attributes import Attributes
from unlabel_graph.encoders.gcn import Convolution
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.whole_graph import GraphTask, SelfLoops, recipe

__all__ = ["FeatureReconstruction", "masked_nodes", "paper", "quick", "tiny"]


def masked_nodes(nodes: int, rate: float, device: torch.device) -> Tensor:
    """bool (N,): ``floor(rate * N)`` random nodes."""
    mask = torch.zeros(nodes, dtype=torch.bool, device=device)
    mask[torch.randperm(nodes, device=device)[: int(rate * nodes)]] = True  # |M| = floor(rate N), their code
    return mask


class FeatureReconstruction(GraphTask):
    """Reconstruction of masked attributes.

    Args:
        encoder: any graph encoder.
        mask_rate: share of the nodes that are masked, in (0, 1).
        drop_edge: probability of dropping an edge.
        exponent: gamma of the scaled cosine error.
        nodes: look at a sample of at most so many nodes, drawn in proportion to their degree; by default at all.
        self_loops: "one": each node gets exactly one; "none": for encoders that add their own.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_rate: float = 0.5,
        drop_edge: float = 0.35,
        exponent: float = 3.0,
        nodes: int | None = None,
        self_loops: SelfLoops = "one",
    ):
        super().__init__(encoder, self_loops=self_loops)
        if not 0 < mask_rate < 1:
            raise UsageError(f"mask_rate {mask_rate} is outside (0, 1); 0.5 is the paper's")
        self.mask_rate, self.exponent, self.nodes = mask_rate, exponent, nodes
        self.drop_edge = augment.check_rate("drop_edge", drop_edge)
        self.token = nn.Parameter(torch.zeros(1, encoder.features))
        self.project = nn.Linear(encoder.dim, encoder.dim, bias=False)
        nn.init.xavier_uniform_(self.project.weight)
        self.decoder = Convolution(encoder.dim, encoder.features)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: on a random view."""
        x, edges = self.by_degree(batch, self.nodes)
        edges = augment.drop_edges(edges, self.drop_edge)
        return {"loss": self.loss_of(x, edges, masked_nodes(len(x), self.mask_rate, edges.device))}

    def loss_of(self, x: Attributes, edge_index: Tensor, masked: Tensor) -> Tensor:
        """The loss of a given view.

        Args:
            x: (N, F): attributes, unmasked.
            edge_index: int64 (2, E): the edges that are left.
            masked: bool (N,), at least one.
        """
        predicted = self.reconstruct(x, edge_index, masked)
        # mean over M of (1 - cos(x^_i, x_i))^gamma: GraphMAE, eq. 2, gamma 3; x_i standardised
        return agreement.scaled_cosine(predicted, augment.dense(augment.rows(x, masked.nonzero()[:, 0])), self.exponent)

    def reconstruct(self, x: Attributes, edge_index: Tensor, masked: Tensor) -> Tensor:
        """Predicted attributes of the masked nodes: float (M, F); see `loss_of`."""
        hidden = self.encoder(augment.Replaced(x, masked, self.token), edge_index)  # H = f(G', x~), (N, D)
        hidden = torch.where(masked[:, None], 0.0, self.project(hidden))  # H W_r, re-masked

        into_masked = propagation.directed(edge_index, len(masked)).rows(masked.nonzero()[:, 0])  # (M, N)
        weight, bias = self.decoder.lin.weight, self.decoder.bias
        return (into_masked @ hidden) @ weight.T + bias  # x^_i for i in M: (A H) W where theirs is A (H W)


def paper() -> Recipe:
    """One part of ParetoGNN alone, with its settings for Chameleon; no figure claimed, and not run at this length.

    ``unlabel train graph/feature_reconstruction --recipe paper --data chameleon.npz``
    """
    return recipe("graph/feature_reconstruction", dataset=Ref("graph/heterophilous"), steps=10_000, lr=5e-5)


def quick() -> Recipe:
    """The generated graph, less than a minute on a CPU. ``unlabel train graph/feature_reconstruction``"""
    return recipe("graph/feature_reconstruction", dataset=Ref("graph/sbm"), steps=200, lr=1e-3, widths=(128, 64))


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/feature_reconstruction --recipe tiny``"""
    small = Ref("graph/sbm", nodes=120, features=24)
    return recipe("graph/feature_reconstruction", dataset=small, steps=4, lr=1e-3, widths=(16, 8))
