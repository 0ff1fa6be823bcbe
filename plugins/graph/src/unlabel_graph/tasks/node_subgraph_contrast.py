"""Node contrast: which node of one view is this node of the other?

ParetoGNN's MI-NSG: Ju et al., "Multi-task Self-supervised Graph Neural Networks Enable Stronger Task Generalization",
2022, arXiv 2210.02016; after GRACE (Zhu et al., arXiv 2006.04131), on sub-graphs around random nodes. Two views of a
sub-graph, each without some edges and with some columns of attributes zeroed; every node is to find itself among all
nodes of both views.
Follows the paper's text where the authors' code differs: there both views share the columns zeroed in either.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from unlabel import Recipe, Ref
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import agreement, augment
from unlabel_graph.augment import View
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.sparse import moved
from unlabel_graph.whole_graph import GraphTask, SelfLoops, recipe

__all__ = ["NodeSubgraphContrast", "paper", "projector", "quick", "tiny"]


def projector(dim: int, hidden: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two linear layers from `dim` over `hidden` back to `dim`; Glorot-uniform weights, biases 0."""
    first, second = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
    for layer in (first, second):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(first, activation(), second)


class NodeSubgraphContrast(GraphTask):
    """Contrast of nodes between two views of a sub-graph.

    Args:
        encoder: any graph encoder.
        temperature: tau, above 0.
        drop_edge: probability of dropping an edge, in each view.
        drop_column: probability of zeroing a column of the attributes, in each view.
        predictor: width of the projection's hidden layer.
        seeds: random nodes whose neighbourhood is looked at.
        times: a graph of at most ``times * seeds`` nodes is taken whole; 0 always takes it whole.
        hops: size of the neighbourhood.
        contrasted: at most so many random nodes are compared with one another; by default all, whose cost grows with
            the square of their number.
        self_loops: "one": each node gets exactly one; "none": for encoders that add their own.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        temperature: float = 0.1,
        drop_edge: float = 0.3,
        drop_column: float = 0.3,
        predictor: int = 512,
        seeds: int = 1024,
        times: int = 5,
        hops: int = 3,
        contrasted: int | None = None,
        self_loops: SelfLoops = "one",
    ):
        super().__init__(encoder, self_loops=self_loops)
        if temperature <= 0:
            raise UsageError(f"temperature {temperature} must be above 0; 0.1 is the paper's")
        self.temperature, self.contrasted = temperature, contrasted
        self.seeds, self.times, self.hops = seeds, times, hops
        self.drop_edge = augment.check_rate("drop_edge", drop_edge)
        self.drop_column = augment.check_rate("drop_column", drop_column)
        self.project = projector(encoder.dim, predictor)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: of two random views of a random neighbourhood."""
        x, edges = self.neighbourhood(batch, self.seeds, self.times, self.hops)  # B seeds, k hops
        # a mask for each view, the text; their code zeroes the columns of either in both
        first, second = (augment.view(x, edges, self.drop_edge, self.drop_column) for _ in range(2))
        rows = None
        if self.contrasted is not None and len(x) > self.contrasted:
            rows = torch.randperm(len(x), device=edges.device)[: self.contrasted]
        return {"loss": self.loss_of(first, second, rows)}

    def loss_of(self, first: View, second: View, rows: Tensor | None = None) -> Tensor:
        """The loss of two given views of the same nodes, over all of them or those of int64 (C,) `rows`."""
        left, right = (self.encoder(x, edges) for x, edges in (first, second))
        if rows is not None:
            rows = moved(rows, left.device)
            left, right = left[rows], right[rows]
        # GRACE, eq. 1-2, on g(H), (n, D); tau 0.1 is ParetoGNN's
        return agreement.info_nce(self.project(left), self.project(right), self.temperature).mean()


def paper() -> Recipe:
    """One part of ParetoGNN alone, with its settings for Chameleon; no figure claimed, and not run at this length.

    ``unlabel train graph/node_subgraph_contrast --recipe paper --data chameleon.npz``
    """
    return recipe("graph/node_subgraph_contrast", dataset=Ref("graph/heterophilous"), steps=10_000, lr=5e-5, times=1)


def quick() -> Recipe:
    """The generated graph, a minute on a CPU. ``unlabel train graph/node_subgraph_contrast``"""
    return recipe(
        "graph/node_subgraph_contrast", dataset=Ref("graph/sbm"), steps=200, lr=1e-3, widths=(128, 64), predictor=128
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/node_subgraph_contrast --recipe tiny``"""
    small = Ref("graph/sbm", nodes=120, features=24)
    options: dict[str, Any] = {"predictor": 8, "seeds": 16, "times": 1, "hops": 1}
    return recipe("graph/node_subgraph_contrast", dataset=small, steps=4, lr=1e-3, widths=(16, 8), **options)
