"""GIN: a small network on the sum of a node and its neighbours (Xu, Hu, Leskovec, Jegelka, arXiv 1810.00826)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabel_graph import propagation
from unlabel_graph.attributes import Attributes, Scaling
from unlabel_graph.encoders.layers import Activation, Encoder, Norm, known_features
from unlabel_graph.sparse import Sparse

__all__ = ["SumConvolution", "gin"]


class SumConvolution(nn.Module):
    """``MLP((1 + eps) x + sum(neighbours))``, eps 0; named as in torch-geometric's GINConv around its MLP.

    The first layer of the MLP is linear, so it is applied before the sum, where sparse attributes are still sparse.

    Args:
        width: of the input.
        out: of the hidden layer and the output.
    """

    eps: Tensor

    def __init__(self, width: int, out: int):
        super().__init__()
        self.nn = nn.Module()
        self.nn.lins = nn.ModuleList([nn.Linear(width, out), nn.Linear(out, out)])
        self.register_buffer("eps", torch.zeros(1))

    def forward(self, x: Attributes, matrix: Sparse) -> Tensor:
        """float (N, out), from float (N, width) and the adjacency matrix."""
        first, second = (self.nn.get_submodule(f"lins.{number}") for number in (0, 1))
        assert isinstance(first, nn.Linear)
        own = x @ first.weight.T
        # eq. 4.1, the MLP's first layer taken inside the sum
        hidden = torch.relu(own * (1 + self.eps) + matrix @ own + first.bias)
        out: Tensor = second(hidden)
        return out


def gin(
    *,
    features: int | None = None,
    widths: tuple[int, ...] = (128,),
    scaling: Scaling = "row",
    norm: Norm = "batch",
    norm_momentum: float = 0.1,
    activation: Activation = "relu",
    dropout: float = 0.0,
) -> Encoder:
    """GIN: sums over neighbours, each layer followed by a small network.

    Args:
        features: number of attributes of a node; by default that of the data.
        widths: output width of each layer, and of its hidden layer.
        scaling: of the attributes: rows of sum 1, as they are, or columns of mean 0 and variance 1.
        norm: after each layer; sums grow with the degree, so it is needed on graphs with hubs.
        norm_momentum: of batch normalisation: weight of the newest batch in the running statistics.
        activation: after each layer, the last one too.
        dropout: before every layer but the first.
    """
    count = known_features(features, "graph/gin")
    convs = [SumConvolution(a, b) for a, b in zip((count, *widths[:-1]), widths, strict=True)]
    return Encoder(
        convs,
        widths,
        propagation.ones,
        features=count,
        scaling=scaling,
        norm=norm,
        norm_momentum=norm_momentum,
        activation=activation,
        drop=dropout,
    )
