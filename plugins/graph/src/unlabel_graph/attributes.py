"""Attributes of nodes out of a batch, dense or sparse, scaled as an encoder wants them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from unlabel.task import Batch
from unlabel_graph.sparse import Sparse, Standardised

__all__ = ["Attributes", "Scaling", "joined", "normalised_rows", "parts", "presence", "scaled", "standardised"]

Attributes = Tensor | Sparse | Standardised
"""float32 (N, F); all of them know `@`, `len` and `shape`."""

Scaling = Literal["row", "raw", "standard"]
"""Rows divided by the sum of their absolute values; as they are; columns of mean 0 and variance 1."""


def parts(batch: Batch) -> tuple[Tensor, ...]:
    """What holds a batch's attributes: a matrix, or pointers, columns, values and width of a sparse one."""
    names = ("x",) if "x" in batch else ("x_indptr", "x_column", "x_value", "x_width")
    return tuple(batch[name] for name in names)


def joined(*given: Tensor) -> Tensor | Sparse:
    """The matrix that `parts` describe, (N, F), as it is."""
    if len(given) == 1:
        return given[0]
    indptr, columns, values, width = given
    return Sparse(indptr, columns, values, int(width))


def scaled(x: Tensor | Sparse, scaling: Scaling) -> Attributes:
    """The attributes scaled; the given ones stay as they are."""
    if scaling == "raw":
        return x
    return normalised_rows(x) if scaling == "row" else standardised(x)


def normalised_rows(x: Tensor | Sparse) -> Tensor | Sparse:
    """Each row divided by the sum of its absolute values; a row of zeros stays."""
    if isinstance(x, Sparse):
        sums = torch.zeros(len(x), device=x.device).index_add_(0, x.row_of, x.values.abs())
        return x.scaled(torch.where(sums > 0, 1 / sums, 0.0))
    sums = x.abs().sum(dim=1, keepdim=True)
    return torch.where(sums > 0, x / sums, x)


def presence(x: Tensor | Sparse) -> Tensor | Sparse:
    """1 where an attribute is not 0: which words there are, however often."""
    if isinstance(x, Sparse):
        return Sparse(x.indptr, x.columns, (x.values != 0).to(x.values), x.shape[1])
    return (x != 0).to(x)


def standardised(x: Tensor | Sparse) -> Tensor | Standardised:
    """Each column with mean 0 and population variance 1; a constant column is centred only.

    Moments are taken in float64: for a sparse matrix from the sums of its entries and of their squares.
    """
    if isinstance(x, Sparse):
        values = x.values.double()
        zeros = torch.zeros(x.shape[1], dtype=torch.float64, device=x.device)
        mean = zeros.index_add(0, x.columns, values) / len(x)
        variance = zeros.index_add(0, x.columns, values.square()) / len(x) - mean.square()
    else:
        mean, variance = x.double().mean(dim=0), x.double().var(dim=0, unbiased=False)
    deviation = torch.where(variance > 1e-12, variance.clamp_min(1e-12).sqrt(), 1.0).float()
    if isinstance(x, Sparse):
        return Standardised(x, mean.float(), deviation)
    return (x - mean.float()) / deviation
