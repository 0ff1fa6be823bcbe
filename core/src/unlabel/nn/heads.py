"""Projectors and predictors: the small perceptrons between an encoder and a loss."""

from __future__ import annotations

from typing import Literal

from torch import nn

from unlabel.errors import UsageError

__all__ = ["mlp"]


def mlp(
    dim: int,
    hidden: int,
    out: int,
    *,
    layers: int = 2,
    norm: Literal["batch", "none"] = "batch",
    last_norm: Literal["affine", "plain", "none"] = "none",
    bias: bool | None = None,
) -> nn.Sequential:
    """A perceptron with ReLU between its linear layers, as joint-embedding methods put behind an encoder.

    Common shapes: two layers without norm and with biases (He et al., arXiv 1911.05722, version 2); two
    layers with batch norm in between (Chen et al., arXiv 2002.05709; Grill et al., arXiv 2006.07733, with
    ``bias=True``); three layers whose last batch norm has no scale and shift (Chen et al., arXiv
    2011.10566 and 2104.02057: ``last_norm="plain"``).

    Weights keep the framework's default initialisation, which the published learning rates were tuned with.

    Args:
        dim: width of the input.
        hidden: width between the layers.
        out: width of the output.
        layers: number of linear layers; 1 is a plain linear map.
        norm: batch normalisation after every linear layer but the last, or nothing.
        last_norm: batch normalisation after the last linear layer: with scale and shift ("affine"),
            without ("plain"), or not at all.
        bias: whether linear layers have biases; None gives one to those that no batch norm follows
            (which would cancel it).

    Returns:
        Module (N, dim) -> (N, out).

    Raises:
        UsageError: if `layers` is below 1, or `norm` or `last_norm` is unknown.
    """
    if layers < 1:
        raise UsageError(f"a perceptron needs at least one layer, got layers={layers}")
    if norm not in ("batch", "none"):
        raise UsageError(f"norm {norm!r} is unknown: expected 'batch' or 'none'")
    if last_norm not in ("affine", "plain", "none"):
        raise UsageError(f"last_norm {last_norm!r} is unknown: expected 'affine', 'plain' or 'none'")

    modules: list[nn.Module] = []
    for _ in range(layers - 1):
        modules.append(nn.Linear(dim, hidden, bias=norm == "none" if bias is None else bias))
        if norm == "batch":
            modules.append(nn.BatchNorm1d(hidden))
        modules.append(nn.ReLU())
        dim = hidden
    modules.append(nn.Linear(dim, out, bias=last_norm == "none" if bias is None else bias))
    if last_norm != "none":
        modules.append(nn.BatchNorm1d(out, affine=last_norm == "affine"))
    return nn.Sequential(*modules)
