"""Random views of a graph and its attributes. What comes in is never changed: a view is a new list of edges, or
attributes that know how to multiply.

Column masks, replaced rows and permuted rows act on the product with the first layer's weights, so sparse attributes
stay sparse: zeroing columns of x zeroes rows of W, a replaced row is a row of the token's product, and permuted rows
are permuted rows of the product.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabel.errors import UsageError
from unlabel_graph.attributes import Attributes

__all__ = [
    "Columns",
    "Permuted",
    "Replaced",
    "Shared",
    "View",
    "Visible",
    "check_rate",
    "column_mask",
    "dense",
    "drop_edges",
    "feature_dropout",
    "rows",
    "view",
]


def rows(x: Attributes, index: Tensor) -> Attributes:
    """Some rows of attributes, in the order of int64 `index`."""
    return x[index] if isinstance(x, Tensor) else x.rows(index)


def dense(x: Attributes) -> Tensor:
    """The attributes as a matrix: float (N, F)."""
    return x if isinstance(x, Tensor) else x.dense()


def check_rate(name: str, rate: float) -> float:
    """The rate, if it is a probability below 1; else UsageError naming the keyword."""
    if not 0 <= rate < 1:
        raise UsageError(f"{name} {rate} is outside [0, 1)")
    return rate


def drop_edges(edge_index: Tensor, rate: float) -> Tensor:
    """Every directed edge, self-loops too, is left out with probability `rate`: int64 (2, E) -> (2, K)."""
    return edge_index if rate == 0 else edge_index[:, torch.rand(edge_index.shape[1], device=edge_index.device) >= rate]


def column_mask(columns: int, rate: float, device: torch.device) -> Tensor:
    """float (F,): 0 with probability `rate`, else 1."""
    return (torch.rand(columns, device=device) >= rate).float()


def feature_dropout(x: Attributes, rate: float) -> Visible:
    """Each entry 0 with probability `rate`, else divided by 1 - `rate`; without dropout, sparse attributes stay sparse.

    Sixteen random bits an entry are plenty, and cost a quarter of torch's own draws; the probability is off by less
    than 1e-5. The factor is left to the product with the weights, which are fewer than the attributes.
    """
    if rate == 0:
        return x
    full = dense(x)
    draws = torch.randint(-(2**63), 2**63 - 1, ((full.numel() + 3) // 4,), device=full.device)
    visible = draws.view(torch.int16)[: full.numel()].view(full.shape) >= round(rate * 2**16) - 2**15
    return Columns(full * visible, torch.full((full.shape[1],), 1 / (1 - rate), device=full.device))


def view(x: Attributes, edge_index: Tensor, drop_edge: float, drop_column: float) -> View:
    """A random view: some edges are missing, some columns of the attributes are 0; each view draws for itself."""
    mask = column_mask(x.shape[1], drop_column, edge_index.device)  # (F,): one mask for all nodes of the view
    return Columns(x, mask), drop_edges(edge_index, drop_edge)


class Columns:
    """Attributes with some columns zeroed, or scaled.

    Args:
        x: (N, F).
        factors: float (F,): what each column is multiplied by.
    """

    def __init__(self, x: Attributes, factors: Tensor):
        self.x, self.factors, self.shape = x, factors, x.shape

    def __len__(self) -> int:
        return len(self.x)

    def __matmul__(self, weight: Tensor) -> Tensor:
        """float (N, K), from float (F, K)."""
        return self.x @ (weight * self.factors[:, None])


class Replaced:
    """Attributes with some rows replaced by one and the same.

    Args:
        x: (N, F).
        rows: bool (N,): which.
        token: float (1, F): by what; differentiable.
    """

    def __init__(self, x: Attributes | Permuted, rows: Tensor, token: Tensor):
        self.x, self.rows, self.token, self.shape = x, rows, token, x.shape

    def __len__(self) -> int:
        return len(self.x)

    def __matmul__(self, weight: Tensor) -> Tensor:
        """float (N, K), from float (F, K)."""
        product = self.x @ weight
        return torch.where(self.rows[:, None], (self.token @ weight).to(product.dtype), product)


class Shared:
    """Attributes whose product with the same weights is computed once, forwards and backwards: for two readers.

    Args:
        x: (N, F).
    """

    def __init__(self, x: Attributes):
        self.x, self.shape = x, x.shape
        self._of: tuple[object, ...] | None = None
        self._product: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)

    def __matmul__(self, weight: Tensor) -> Tensor:
        """float (N, K), from float (F, K)."""
        of = (weight.data_ptr(), weight._version, weight.shape, torch.is_grad_enabled())
        if self._product is None or of != self._of:
            self._of, self._product = of, self.x @ weight
        return self._product


class Permuted:
    """Attributes whose rows have changed places.

    Args:
        x: (N, F).
        order: int64 (N,): row i is row ``order[i]`` of `x`.
    """

    def __init__(self, x: Attributes | Shared, order: Tensor):
        self.x, self.order, self.shape = x, order, x.shape

    def __len__(self) -> int:
        return len(self.x)

    def __matmul__(self, weight: Tensor) -> Tensor:
        """float (N, K), from float (F, K)."""
        return (self.x @ weight)[self.order]


Visible = Attributes | Columns | Replaced | Permuted | Shared
"""What an encoder reads."""

View = tuple[Visible, Tensor]
"""Attributes and edges, int64 (2, E)."""
