"""GAT: each node weighs its neighbours by learnt attention (Veličković et al., arXiv 1710.10903)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unlabel.errors import UsageError
from unlabel_graph import propagation
from unlabel_graph.attributes import Attributes, Scaling
from unlabel_graph.encoders.layers import Activation, Encoder, Norm, known_features

__all__ = ["Attention", "gat", "softmax_of_receivers"]


def softmax_of_receivers(scores: Tensor, receivers: Tensor, nodes: int) -> Tensor:
    """Softmax over the edges that reach the same node.

    Args:
        scores: float (E, H).
        receivers: int64 (E,).
        nodes: N.

    Returns:
        float (E, H).
    """
    index = receivers[:, None].expand_as(scores)
    largest = scores.detach().new_full((nodes, scores.shape[1]), -torch.inf)
    largest = largest.scatter_reduce(0, index, scores.detach(), "amax")
    weights = (scores - largest[receivers]).exp()
    totals = weights.new_zeros(nodes, scores.shape[1]).index_add(0, receivers, weights)
    return weights / totals[receivers]


class Attention(nn.Module):
    """Heads of attention over a node's neighbours and itself, side by side; named as in torch-geometric's GATConv.

    Costs memory of edges times width.

    Args:
        width: of the input.
        out: of the output, over all heads.
        heads: how many.
    """

    def __init__(self, width: int, out: int, heads: int):
        super().__init__()
        self.heads = heads
        self.lin = nn.Linear(width, out, bias=False)
        self.att_src = nn.Parameter(torch.empty(1, heads, out // heads))
        self.att_dst = nn.Parameter(torch.empty(1, heads, out // heads))
        self.bias = nn.Parameter(torch.zeros(out))
        for weight in (self.lin.weight, self.att_src, self.att_dst):
            nn.init.xavier_uniform_(weight)

    def forward(self, x: Attributes, edges: Tensor) -> Tensor:
        """float (N, out), from float (N, width) and int64 (2, E) with one self-loop a node."""
        values = (x @ self.lin.weight.T).unflatten(1, (self.heads, -1))  # (N, heads, out / heads)
        senders, receivers = edges
        from_sender, from_receiver = (values * self.att_src).sum(dim=2), (values * self.att_dst).sum(dim=2)

        # eq. 1 and 3: a^T [W h_i || W h_j], a in two halves, slope 0.2
        scores = F.leaky_relu(from_sender[senders] + from_receiver[receivers], 0.2)
        weights = softmax_of_receivers(scores, receivers, len(values))  # alpha_ij, eq. 2-3: (E, heads)

        messages = (weights[:, :, None] * values[senders]).flatten(1)  # (E, out); eq. 5: heads side by side
        # eq. 4 before its activation
        sums: Tensor = messages.new_zeros(len(values), messages.shape[1]).index_add(0, receivers, messages)
        return sums + self.bias


def gat(
    *,
    features: int | None = None,
    widths: tuple[int, ...] = (128,),
    heads: int = 8,
    scaling: Scaling = "row",
    norm: Norm = "none",
    norm_momentum: float = 0.1,
    activation: Activation = "elu",
    dropout: float = 0.0,
) -> Encoder:
    """GAT: sums over neighbours with learnt weights. No dropout of attention.

    Args:
        features: number of attributes of a node; by default that of the data.
        widths: output width of each layer, over all its heads.
        heads: of attention in each layer.
        scaling: of the attributes: rows of sum 1, as they are, or columns of mean 0 and variance 1.
        norm: after each layer.
        norm_momentum: of batch normalisation: weight of the newest batch in the running statistics.
        activation: after each layer, the last one too.
        dropout: before every layer but the first.

    Raises:
        UsageError: a width is no multiple of the heads.
    """
    count = known_features(features, "graph/gat")
    for width in widths:
        if width % heads:
            raise UsageError(f"encoder.widths: {width} is no multiple of the {heads} heads")
    convs = [Attention(a, b, heads) for a, b in zip((count, *widths[:-1]), widths, strict=True)]
    return Encoder(
        convs,
        widths,
        propagation.with_self_loops,
        features=count,
        scaling=scaling,
        norm=norm,
        norm_momentum=norm_momentum,
        activation=activation,
        drop=dropout,
    )
