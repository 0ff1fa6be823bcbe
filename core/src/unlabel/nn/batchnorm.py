"""Batch normalisation with the statistics of the whole batch when several processes share it.

`torch.nn.BatchNorm` sees the samples of its own process only, so the same global batch gives other
outputs, and other gradients, on two processes than on one. `convert` changes that in place; in
evaluation mode, and with one process, the result is that of `torch.nn`, up to rounding on a CPU. Unlike
torch's own SyncBatchNorm it runs on a CPU too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
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
        world = dist.get_world_size() if dist.is_initialized() else 1
        count = world * input.numel() // input.shape[1]
        if not self.training or (world == 1 and not _is_badly_summed(input)):
            return super().forward(input)
        self._check_input_dim(input)
        if world == 1:
            output, mean, variance = _OnCPU.apply(input, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        else:
            mean, variance = _common_moments(input)
            output = self._normalised(input, mean, variance)
        self._track(mean.detach(), variance.detach(), count)
        return output  # type: ignore[no-any-return]

    def _normalised(self, input: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        scale = torch.rsqrt(variance + self.eps) * (1.0 if self.weight is None else self.weight)
        shift = (0.0 if self.bias is None else self.bias) - mean * scale
        shape = [-1 if dim == 1 else 1 for dim in range(input.ndim)]
        return torch.addcmul(shift.view(shape), input.to(scale.dtype), scale.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics; the variance kept is the unbiased one, as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), share)


def _common_moments(input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel over all processes, differentiably, in one message each way: (C,) each.

    Variances are combined around the common mean, not as E[x^2] - E[x]^2, which loses all digits where
    the mean is much larger than the spread.
    """
    values = input.to(torch.promote_types(input.dtype, torch.float32))
    variance, mean = torch.var_mean(values, [dim for dim in range(input.ndim) if dim != 1], correction=0)
    means, variances = engine.gather(torch.stack([mean, variance])[None]).unbind(1)  # (world, C)
    mean = means.mean(0)
    return mean, (variances + (means - mean) ** 2).mean(0)


def _is_badly_summed(input: Tensor) -> bool:
    """Whether torch adds all values of a channel up in one run of float32, as it does for this layout on a CPU."""
    last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    return last and input.device.type == "cpu"


class _OnCPU(torch.autograd.Function):
    """torch's kernels with better sums, for one process and (N, C, H, W) stored channels last.

    One long run of float32 is off by 1e-5 after 1e5 values, enough for a run on one process and one on
    two to drift apart visibly. Here each column is summed by itself: W times as many, shorter runs.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, channels, height, width = input.shape
        columns = input.permute(0, 2, 3, 1).reshape(count, height, 1, width * channels).permute(0, 3, 1, 2)
        dtype = torch.promote_types(input.dtype, torch.float32)
        unused = torch.zeros(2, width * channels, dtype=dtype)  # running statistics, here only to ask for `dtype`
        moments = torch.batch_norm_update_stats(columns, unused[0], unused[1], 0.0)
        means, variances = (moment.view(width, channels) for moment in moments)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)

        ctx.save_for_backward(input, weight, mean, torch.rsqrt(variance + eps))
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance)
        return functional.batch_norm(input, mean, variance, weight, bias, False, 0.0, eps), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        input, weight, mean, inverse = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        into = torch.ops.aten.native_batch_norm_backward(
            gradients[0], input, weight, None, None, mean, inverse, True, ctx.eps, wanted
        )
        return (*(gradient if want else None for gradient, want in zip(into, wanted, strict=True)), None)


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
