"""GCN: each node takes the normalised sum of its neighbours' transformed attributes (Kipf and Welling, 1609.02907)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from unlabel_graph import propagation as matrices
from unlabel_graph.attributes import Attributes, Scaling
from unlabel_graph.encoders.layers import Activation, Encoder, Norm, known_features
from unlabel_graph.sparse import Sparse

__all__ = ["Convolution", "Propagation", "gcn"]

Propagation = Literal["self_loops", "given"]
"""``"self_loops"``: symmetric, one self-loop added to each node. ``"given"``: sum over the given edges divided by
sqrt(outdegree x indegree), no self-loop added."""

STRUCTURES = {"self_loops": matrices.symmetric, "given": matrices.directed}
"""How each propagation makes its matrix."""


class Convolution(nn.Module):
    """``A (x W^T) + b``. Weights are Glorot-uniform, the bias 0; named as in torch-geometric's GCNConv.

    Args:
        width: of the input.
        out: of the output.
    """

    def __init__(self, width: int, out: int):
        super().__init__()
        self.lin = nn.Linear(width, out, bias=False)
        self.bias = nn.Parameter(torch.zeros(out))
        nn.init.xavier_uniform_(self.lin.weight)

    def forward(self, x: Attributes, matrix: Sparse) -> Tensor:
        """float (N, out), from float (N, width) and the normalised adjacency matrix."""
        return matrix @ (x @ self.lin.weight.T) + self.bias  # eq. 2 before its activation, plus a bias


def gcn(
    *,
    features: int | None = None,
    widths: tuple[int, ...] = (128,),
    propagation: Propagation = "self_loops",
    scaling: Scaling = "row",
    norm: Norm = "none",
    norm_momentum: float = 0.1,
    activation: Activation = "relu",
    dropout: float = 0.0,
) -> Encoder:
    """GCN: normalised sums over neighbours.

    Args:
        features: number of attributes of a node; by default that of the data.
        widths: output width of each layer.
        propagation: which edges count, and how they are normalised, see `Propagation`.
        scaling: of the attributes: rows of sum 1, as they are, or columns of mean 0 and variance 1.
        norm: after each layer.
        norm_momentum: of batch normalisation: weight of the newest batch in the running statistics.
        activation: after each layer, the last one too.
        dropout: before every layer but the first.
    """
    count = known_features(features, "graph/gcn")
    convs = [Convolution(a, b) for a, b in zip((count, *widths[:-1]), widths, strict=True)]
    return Encoder(
        convs,
        widths,
        STRUCTURES[propagation],
        features=count,
        scaling=scaling,
        norm=norm,
        norm_momentum=norm_momentum,
        activation=activation,
        drop=dropout,
    )
