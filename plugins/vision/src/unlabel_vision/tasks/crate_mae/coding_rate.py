"""How many bits tokens cost: the coding rate, of the whole space and within subspaces, and how sparse codes are.

Yu et al. 2023, arXiv 2306.01129, section 2; measured as in the CRATE authors' analysis: tokens are brought to unit
norm, and the distortion enters to the first power, where the text squares it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["coding_rate", "sparsity"]


def coding_rate(tokens: Tensor, eps: float = 0.01) -> Tensor:
    """Rate of coding the tokens of each sample, in nats, summed over heads.

    ``sum_k 1/2 logdet(I + p / (T eps) X_k^T X_k)`` with X_k the tokens of head k at unit norm, in columns (p, T). With
    one head and all dimensions it is R(Z); with a head for each subspace, of the coordinates in it, R^c(Z; U).

    Args:
        tokens: float, (N, heads, T, p), not normalised; a token of zeros counts nothing.
        eps: distortion, above 0.

    Returns:
        float32 at least, (N,): 0 if all tokens are zero, at most ``heads / 2 min(p, T) log(1 + p / (min(p, T) eps))``.
    """
    unit = functional.normalize(tokens.to(torch.promote_types(tokens.dtype, torch.float32)), dim=-1)
    count, width = unit.shape[-2:]
    with torch.autocast(unit.device.type, enabled=False):
        # logdet(I + X^T X) = logdet(I + X X^T): the smaller of the two
        gram = unit.transpose(-2, -1) @ unit if width < count else unit @ unit.transpose(-2, -1)
        # I + p / (T eps) X^T X
        gram = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device) + width / (count * eps) * gram
        factor = torch.linalg.cholesky_ex(gram).L  # never waits for the device; I plus a Gram matrix is positive
    # 1/2 logdet is the log of the factor's determinant; summed over the heads
    result: Tensor = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1).sum(-1)
    return result


def sparsity(values: Tensor, tolerance: float = 0.0) -> Tensor:
    """Share of the entries that are zero, or no larger than `tolerance`: a scalar in [0, 1]."""
    return (values.abs() <= tolerance).float().mean()
