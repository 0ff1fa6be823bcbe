"""A stack of graph convolutions, and the attributes it reads: what all graph encoders share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from unlabel.errors import UsageError
from unlabel.task import Batch
from unlabel_graph import attributes
from unlabel_graph.attributes import Attributes, Scaling
from unlabel_graph.augment import Visible
from unlabel_graph.sampling import Block
from unlabel_graph.sparse import cache_last, moved

__all__ = ["Activation", "Encoder", "Norm", "dropout", "known_features"]

Activation = Literal["relu", "prelu", "elu"]
Norm = Literal["none", "batch", "layer"]


def dropout(hidden: Tensor, probability: float, training: bool) -> Tensor:
    """Dropout whose mask comes from 16 random bits an entry: on a CPU a fifth of the time of torch's own.

    Args:
        hidden: float, any shape.
        probability: of dropping, rounded to a multiple of 2^-16.
        training: otherwise nothing is dropped.
    """
    if not training or probability == 0:
        return hidden
    draws = torch.empty(-(-hidden.numel() // 4), dtype=torch.int64, device=hidden.device).random_(-(2**63), None)
    bits = draws.view(torch.int16)[: hidden.numel()].view(hidden.shape)
    mask = (bits >= round(probability * 2**16) - 2**15).to(hidden.dtype)
    return hidden * mask.mul_(1 / (1 - probability))


def known_features(features: int | None, name: str) -> int:
    """The number of attributes, or UsageError saying how to give it."""
    if features is None:
        raise UsageError(f"{name} does not know how many attributes a node has: give --set encoder.features=NUMBER")
    return features


class Encoder(nn.Module):
    """Graph convolutions, each followed by normalisation and activation, the last one too.

    Parameters are named as in torch-geometric's models: ``convs.0.lin.weight`` and so on.

    Args:
        convs: layers called with (hidden, structure).
        widths: output width of each layer.
        structure: (edge_index, N) -> what the layers get: a normalised adjacency matrix, or the edges.
        features: number of attributes of a node.
        scaling: of the attributes, see `unlabel_graph.attributes.Scaling`.
        norm: after each layer.
        norm_momentum: of batch normalisation's running statistics: weight of the newest batch.
        activation: after the normalisation; ``"prelu"`` has one slope a layer, first 0.25.
        drop: dropout before every layer but the first.

    Attributes:
        dim: width of the representation.
        features: as given.
    """

    def __init__(
        self,
        convs: Sequence[nn.Module],
        widths: Sequence[int],
        structure: Callable[[Tensor, int], Any],
        *,
        features: int,
        scaling: Scaling = "row",
        norm: Norm = "none",
        norm_momentum: float = 0.1,
        activation: Activation = "relu",
        drop: float = 0.0,
    ):
        super().__init__()
        self.dim, self.features, self.scaling, self.drop = widths[-1], features, scaling, drop
        self.convs = nn.ModuleList(convs)
        makers: dict[str, Callable[[int], nn.Module]] = {
            "none": lambda width: nn.Identity(),
            "batch": lambda width: nn.BatchNorm1d(width, momentum=norm_momentum),
            "layer": nn.LayerNorm,
        }
        activations: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "prelu": nn.PReLU, "elu": nn.ELU}
        self.norms = nn.ModuleList(makers[norm](width) for width in widths)
        self.acts = nn.ModuleList(activations[activation]() for _ in widths)
        self._make, self._structure = structure, cache_last(functools.partial(_made, structure), on_host=True)
        self._attributes = cache_last(_attributes)

    @property
    def steady(self) -> bool:
        """Whether training and evaluation mode give the same: no dropout between layers, no batch statistics."""
        random = self.drop > 0 and len(self.convs) > 1
        return not random and not any(isinstance(norm, nn.BatchNorm1d) for norm in self.norms)

    def inputs(self, batch: Batch) -> Attributes:
        """The attributes of a batch's graph, scaled: (N, features); computed once for a graph.

        Raises:
            UsageError: the data have another number of attributes.
        """
        x: Attributes = self._attributes(self.features, self.scaling, *attributes.parts(batch))
        return x

    def forward(self, x: Visible, edge_index: Tensor) -> Tensor:
        """Representations of all nodes.

        Args:
            x: float32 (N, features).
            edge_index: int64 (2, E), the edges to use, sorted by receiver.

        Returns:
            float32 (N, dim).
        """
        structure = self._structure(edge_index, len(x), self._device)
        hidden: Any = x
        for number, (conv, norm, act) in enumerate(zip(self.convs, self.norms, self.acts, strict=True)):
            if number:
                hidden = dropout(hidden, self.drop, self.training)
            hidden = act(norm(conv(hidden, structure)))
        representations: Tensor = hidden
        return representations

    def through_blocks(self, x: Visible, blocks: Sequence[Block]) -> Tensor:
        """Representations over sampled neighbourhoods: each layer reads one block, and keeps its receivers only.

        Args:
            x: float32 (S, features): attributes of the first block's senders.
            blocks: at least one a layer, in the order of computation; further ones are not computed.

        Returns:
            float32 (R, dim), R the receivers of the last layer's block. Batch statistics are those of the receivers.
        """
        hidden: Any = x
        for number, (conv, norm, act, block) in enumerate(zip(self.convs, self.norms, self.acts, blocks, strict=False)):
            if number:
                hidden = dropout(hidden, self.drop, self.training)
            hidden = conv(hidden, _made(self._make, block.edge_index, block.senders, self._device))
            hidden = act(norm(hidden[: block.receivers]))
        representations: Tensor = hidden
        return representations

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device


def _made(structure: Callable[[Tensor, int], Any], edge_index: Tensor, nodes: int, device: torch.device) -> Any:
    """What the layers get on a device, made where the edges are."""
    return moved(structure(edge_index, nodes), device)


def _attributes(features: int, scaling: Scaling, *parts: Tensor) -> Attributes:
    x = attributes.joined(*parts)
    if x.shape[1] != features:
        raise UsageError(
            f"the nodes have {x.shape[1]} attributes, but the encoder was made for {features}: "
            f"give --set encoder.features={x.shape[1]}"
        )
    return attributes.scaled(x, scaling)
