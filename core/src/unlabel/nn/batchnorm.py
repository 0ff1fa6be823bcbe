"""Batch normalisation with the statistics of the whole batch when several processes share it.

`torch.nn.BatchNorm` sees the samples of its own process only, so the same global batch gives other
outputs, and other gradients, on two processes than on one. `convert` changes that in place; with one
process, and in evaluation mode, everything stays what `torch.nn` computes. Unlike torch's own
SyncBatchNorm it runs on a CPU too.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlabel import engine

__all__ = ["BatchNorm", "convert"]


class BatchNorm(_BatchNorm):
    """Batch normalisation over all processes, of (N, C) or (N, C, ...); otherwise as `torch.nn.BatchNorm1d`.

    Every process must have as many values per channel, since their statistics weigh the same. Statistics
    are computed in float32 at least; arguments, parameters and buffers are those of `torch.nn.BatchNorm1d`.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (N, C) or (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise: (N, C, ...) -> the same shape and dtype."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(input)
        self._check_input_dim(input)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        over = [dim for dim in range(input.ndim) if dim != 1]

        # One message each way. Variances are combined around the common mean, not as E[x^2] - E[x]^2,
        # which loses all digits where the mean is much larger than the spread.
        variance, mean = torch.var_mean(values, over, correction=0)
        everyone = engine.gather(torch.stack([mean, variance])[None])  # (world, 2, C)
        means, variances = everyone.unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        self._track(mean.detach(), variance.detach(), len(everyone) * input.numel() // input.shape[1])

        scale = torch.rsqrt(variance + self.eps) * (1.0 if self.weight is None else self.weight)
        shift = (0.0 if self.bias is None else self.bias) - mean * scale
        shape = [-1 if dim == 1 else 1 for dim in range(input.ndim)]
        return torch.addcmul(shift.view(shape), values, scale.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics; the variance kept is the unbiased one, as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)


def convert(module: nn.Module) -> nn.Module:
    """Let every batch normalisation inside a module use the statistics of all processes, in place.

    Concerns exactly `torch.nn.BatchNorm1d`, `2d` and `3d`; other classes, also ones derived from these,
    keep their own behaviour. Parameters, buffers, hooks and state-dict keys stay as they are.

    Returns:
        The same module.
    """
    for part in module.modules():
        if type(part) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            # The same object with another forward: nobody who holds a reference to it is left behind.
            part.__class__ = BatchNorm
    return module
