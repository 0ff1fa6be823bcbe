"""Node-graph contrast: does this node belong to the graph that the summary describes?

ParetoGNN's MI-NG: Ju et al., "Multi-task Self-supervised Graph Neural Networks Enable Stronger Task Generalization",
2022, arXiv 2210.02016; after Deep Graph Infomax (Velickovic et al., arXiv 1809.10341), on sub-graphs around random
nodes. A bilinear critic tells representations of nodes from those of a copy whose attributes changed places.
Differs from DGI in that the loss is the sum of the means of real and corrupted nodes, not their common mean, and in
that both are normalised by the statistics of their own batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabel import Recipe, Ref
from unlabel.task import Batch
from unlabel_graph import agreement
from unlabel_graph.attributes import Attributes
from unlabel_graph.augment import Permuted, Shared
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.whole_graph import GraphTask, SelfLoops, recipe

__all__ = ["NodeGraphContrast", "critic", "paper", "quick", "tiny"]


def critic(dim: int) -> nn.Parameter:
    """The weights of a bilinear critic: float (dim, dim), uniform within 1 / sqrt(dim)."""
    return nn.Parameter(torch.empty(dim, dim).uniform_(-(dim**-0.5), dim**-0.5))  # torch's for a bilinear layer


class NodeGraphContrast(GraphTask):
    """Nodes against the summary of their graph.

    Args:
        encoder: any graph encoder.
        seeds: random nodes whose neighbourhood is looked at.
        times: a graph of at most ``times * seeds`` nodes is taken whole; 0 always takes it whole.
        hops: size of the neighbourhood.
        self_loops: "one": each node gets exactly one; "none": for encoders that add their own.
    """

    def __init__(
        self, encoder: Encoder, *, seeds: int = 1024, times: int = 0, hops: int = 3, self_loops: SelfLoops = "one"
    ):
        super().__init__(encoder, self_loops=self_loops)
        self.seeds, self.times, self.hops = seeds, times, hops
        self.critic = critic(encoder.dim)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: of a random neighbourhood and a random permutation; 2 log 2 for a critic that says nothing."""
        x, edges = self.neighbourhood(batch, self.seeds, self.times, self.hops)  # B seeds, k hops
        return {"loss": self.loss_of(x, edges, torch.randperm(len(x), device=edges.device))}

    def loss_of(self, x: Attributes, edge_index: Tensor, order: Tensor) -> Tensor:
        """The loss for a given corruption.

        Args:
            x: (N, F).
            edge_index: int64 (2, E).
            order: int64 (N,): node i of the corrupted copy has the attributes of node ``order[i]``.
        """
        once = Shared(x)  # the corrupted copy's first product has the same rows
        real = self.encoder(once, edge_index)  # P, (n, D)
        corrupted = self.encoder(Permuted(once, order), edge_index)  # Q = f(A, X[order]), (n, D)
        return agreement.summary_loss(real, corrupted, self.critic)  # DGI's eq. 1 times -2: their sum of two means


def paper() -> Recipe:
    """One part of ParetoGNN alone, with its settings for Chameleon; no figure claimed, and not run at this length.

    ``unlabel train graph/node_graph_contrast --recipe paper --data chameleon.npz``
    """
    return recipe("graph/node_graph_contrast", dataset=Ref("graph/heterophilous"), steps=10_000, lr=5e-5, times=1)


def quick() -> Recipe:
    """The generated graph, less than a minute on a CPU. ``unlabel train graph/node_graph_contrast``"""
    return recipe("graph/node_graph_contrast", dataset=Ref("graph/sbm"), steps=200, lr=1e-3, widths=(128, 64))


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/node_graph_contrast --recipe tiny``"""
    small = Ref("graph/sbm", nodes=120, features=24)
    return recipe(
        "graph/node_graph_contrast", dataset=small, steps=4, lr=1e-3, widths=(16, 8), seeds=16, times=1, hops=1
    )
