"""GraphMAE: what attributes did the masked nodes have?

Hou, Liu, Cen, Dong, Yang, Wang, Tang, "GraphMAE: Self-Supervised Masked Graph Autoencoders", 2022, arXiv 2205.10803.
Half of the nodes are masked: most get a learnt token for attributes, a few those of another node. Representations of
masked nodes are zeroed again before a decoder of one layer predicts their attributes, by scaled cosine error.
Differs from the authors' networks in that there is no dropout on attention.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from unlabel import Recipe, Ref, Stage
from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import agreement, augment, propagation
from unlabel_graph.attributes import Attributes
from unlabel_graph.augment import Permuted, Replaced
from unlabel_graph.encoders.gat import Attention
from unlabel_graph.encoders.gcn import Convolution
from unlabel_graph.encoders.layers import Encoder
from unlabel_graph.whole_graph import GraphTask, SelfLoops

__all__ = ["GraphMAE", "masking", "paper", "quick", "tiny"]


def masking(nodes: int, mask_rate: float, replace_rate: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Which nodes are masked, and by what.

    Args:
        nodes: N.
        mask_rate: share of the nodes that are masked.
        replace_rate: share of those that get another node's attributes instead of the token.
        device: of the results.

    Returns:
        bool (N,): masked; bool (N,): of these, those with the token; int64 (N,): whose attributes each node shows
        otherwise.
    """
    order = torch.randperm(nodes, device=device)
    count = int(mask_rate * nodes)
    replaced = int(replace_rate * count)
    masked, token = torch.zeros(2, nodes, dtype=torch.bool, device=device).unbind()
    masked[order[:count]] = True
    token[order[replaced:count]] = True  # the rest of the masked nodes
    shown = torch.arange(nodes, device=device)
    # any node of the graph, drawn with replacement; the authors' code draws without
    shown[order[:replaced]] = torch.randint(nodes, (replaced,), device=device)
    return masked, token, shown


class GraphMAE(GraphTask):
    """Masked autoencoder of attributes; the defaults are the paper's for Cora.

    Args:
        encoder: any graph encoder.
        mask_rate: share of the nodes that are masked, in (0, 1).
        replace_rate: share of the masked nodes that show another node's attributes, in [0, 1).
        drop_edge: probability of dropping an edge.
        exponent: gamma of the scaled cosine error.
        decoder: one layer of attention with one head, or one graph convolution.
        self_loops: "none": for encoders that add their own, as the paper's; "one": each node gets exactly one.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        mask_rate: float = 0.5,
        replace_rate: float = 0.05,
        drop_edge: float = 0.0,
        exponent: float = 3.0,
        decoder: Literal["gat", "gcn"] = "gat",
        self_loops: SelfLoops = "none",
    ):
        super().__init__(encoder, self_loops=self_loops)
        if not 0 < mask_rate < 1:
            raise UsageError(f"mask_rate {mask_rate} is outside (0, 1); 0.5 is the paper's")
        self.mask_rate, self.exponent = mask_rate, exponent
        self.replace_rate = augment.check_rate("replace_rate", replace_rate)
        self.drop_edge = augment.check_rate("drop_edge", drop_edge)
        self.token = nn.Parameter(torch.zeros(1, encoder.features))
        self.project = nn.Linear(encoder.dim, encoder.dim, bias=False)
        self.attends = decoder == "gat"
        self.decoder = (
            Attention(encoder.dim, encoder.features, 1) if self.attends else Convolution(encoder.dim, encoder.features)
        )
        if isinstance(self.decoder, Attention):
            # Predicted are nodes whose own representation was zeroed: what the receiver adds to a score is always 0.
            self.decoder.att_dst.requires_grad_(False)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss"}``: of a random mask."""
        x, edges = self.graph(batch)
        edges = augment.drop_edges(edges, self.drop_edge)
        return {"loss": self.loss_of(x, edges, *masking(len(x), self.mask_rate, self.replace_rate, edges.device))}

    def loss_of(self, x: Attributes, edge_index: Tensor, masked: Tensor, token: Tensor, shown: Tensor) -> Tensor:
        """The loss of a given mask, see `masking`, over the edges int64 (2, E)."""
        visible = Replaced(Permuted(x, shown), token, self.token)  # X~, (N, F)
        hidden = self.project(self.encoder(visible, edge_index))  # H = f_E(A, X~), eq. 1; the map W is their code's
        hidden = torch.where(masked[:, None], 0.0, hidden)  # H~: re-masked, by zeros as in their code
        with_loops = propagation.with_self_loops(edge_index, len(x))
        structure = with_loops if self.attends else propagation.directed(with_loops, len(x))
        predicted = self.decoder(hidden, structure)[masked]  # Z = f_D(A, H~), masked rows alone: (M, F)
        # eq. 2, gamma 3 for Cora
        return agreement.scaled_cosine(predicted, augment.dense(augment.rows(x, masked.nonzero()[:, 0])), self.exponent)


def _recipe(dataset: Ref, steps: int, width: int, heads: int) -> Recipe:
    return Recipe(
        task=Ref("graph/graphmae"),
        encoder=Ref("graph/gat", widths=(width, width), heads=heads, activation="prelu", dropout=0.2),
        dataset=dataset,
        stages=[Stage(steps=steps, batch_size="all", optimizer="adam", lr=1e-3, weight_decay=2e-4, decay_vectors=True)],
    )


def paper() -> Recipe:
    """The authors' settings for Cora: two layers of 4 x 128, 1,500 updates, Adam at 1e-3, cosine: 84.2 % in the paper.

    Not run by us. ``unlabel train graph/graphmae --recipe paper --data planetoid/Cora``
    """
    return _recipe(Ref("graph/planetoid"), 1500, 512, 4)


def quick() -> Recipe:
    """The generated graph, a minute on a CPU. ``unlabel train graph/graphmae``"""
    return _recipe(Ref("graph/sbm"), 200, 64, 4)


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train graph/graphmae --recipe tiny``"""
    return _recipe(Ref("graph/sbm", nodes=120, features=24), 4, 8, 2)
