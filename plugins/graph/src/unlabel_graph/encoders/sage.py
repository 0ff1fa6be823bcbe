"""GraphSAGE: each node joins its own attributes to the mean of its neighbours' (Hamilton et al., arXiv 1706.02216)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabel_graph import propagation
from unlabel_graph.attributes import Attributes, Scaling
from unlabel_graph.encoders.layers import Activation, Encoder, Norm, known_features
from unlabel_graph.sparse import Sparse

__all__ = ["MeanConvolution", "sage"]


class MeanConvolution(nn.Module):
    """``mean(neighbours) L^T + b + x R^T``; named as in torch-geometric's SAGEConv, with torch's usual first weights.

    Args:
        width: of the input.
        out: of the output.
    """

    def __init__(self, width: int, out: int):
        super().__init__()
        self.lin_l = nn.Linear(width, out)
        self.lin_r = nn.Linear(width, out, bias=False)

    def forward(self, x: Attributes, matrix: Sparse) -> Tensor:
        """float (N, out), from float (N, width) and the matrix that takes the mean of neighbours."""
        # alg. 1, lines 4-5: W [h_v, mean of h_u] in two halves; line 7 (rows of length 1) is off, as in torch-geometric
        return matrix @ (x @ self.lin_l.weight.T) + self.lin_l.bias + x @ self.lin_r.weight.T


def _mean(edge_index: Tensor, nodes: int) -> Sparse:
    return propagation.mean(edge_index, nodes).to(torch.float32)


def sage(
    *,
    features: int | None = None,
    widths: tuple[int, ...] = (128,),
    scaling: Scaling = "row",
    norm: Norm = "none",
    norm_momentum: float = 0.1,
    activation: Activation = "relu",
    dropout: float = 0.0,
) -> Encoder:
    """GraphSAGE: a node's own attributes beside the mean of its neighbours'.

    Args:
        features: number of attributes of a node; by default that of the data.
        widths: output width of each layer.
        scaling: of the attributes: rows of sum 1, as they are, or columns of mean 0 and variance 1.
        norm: after each layer.
        norm_momentum: of batch normalisation: weight of the newest batch in the running statistics.
        activation: after each layer, the last one too.
        dropout: before every layer but the first.
    """
    count = known_features(features, "graph/sage")
    convs = [MeanConvolution(a, b) for a, b in zip((count, *widths[:-1]), widths, strict=True)]
    return Encoder(
        convs,
        widths,
        _mean,
        features=count,
        scaling=scaling,
        norm=norm,
        norm_momentum=norm_momentum,
        activation=activation,
        drop=dropout,
    )
