"""Exact gradients of losses that compare all samples of a large batch, in the memory of a small one.

Gao, Zhang, Han, Callan, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", 2021, arXiv
2101.06983. A contrastive loss needs the representations of the whole batch, but not the encoder's activations: those
of a chunk are needed only while the gradient goes through that chunk. So (section 3.2): represent all chunks and keep
no activations; take the loss and its gradient on the representations, which is small; then, chunk by chunk, represent
again with the same random numbers, and pass that gradient on.

Here this is one call inside `Task.loss`: what `encode` returns remembers its chunks, and the ordinary backward goes
through them one after the other. So it works with any number of encoders, with `unlabel.engine.gather`, autocast, the
loss scaler of fp16 and accumulation, and a task needs no training step of its own. It costs one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from unlabel.errors import UsageError

__all__ = ["encode", "refuse_batchnorm"]

Output = TypeVar("Output")
"""A tensor with one row a sample, or a mapping or tuple of such."""


def encode(encoder: Callable[[Any], Output], batch: Any, size: int) -> Output:
    """``encoder(batch)``, whose backward keeps the activations of at most `size` samples at a time.

    Random numbers are those that the encoder draws chunk by chunk, from the generators of CPU and device, both times.
    Call it once for each encoder; their chunks may differ in size.

    Args:
        encoder: a module or function that represents each sample by itself: no batch normalisation in training, and
            nothing that is changed by being called, as it is called twice.
        batch: what it takes: a tensor (N, ...), or a mapping, list or tuple with such; all else in it goes to every
            chunk as it is.
        size: samples of a chunk.

    Returns:
        What the encoder returns for all chunks, concatenated.

    Raises:
        UsageError: `size` is below 1, or the encoder is a module that normalises over the batch.
    """
    if size < 1:
        raise UsageError(f"chunks of {size} samples: expected 1 or more")
    if isinstance(encoder, nn.Module):
        refuse_batchnorm(encoder)
    samples = len(next(_tensors(batch)))
    parts = [_rows(batch, slice(start, start + size)) for start in range(0, samples, size)]
    if not torch.is_grad_enabled():
        return cast(Output, _joined([encoder(part) for part in parts]))
    outputs = [checkpoint(encoder, part, use_reentrant=False, preserve_rng_state=True) for part in parts]
    return cast(Output, _joined(outputs))


def refuse_batchnorm(encoder: nn.Module) -> None:
    """UsageError if a module normalises over the batch: the statistics of a chunk are not those of the batch."""
    for name, module in encoder.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise UsageError(
                f"{type(encoder).__name__} normalises over the batch ({name or 'itself'}), which chunks of it would "
                "change: use an encoder without batch normalisation"
            )


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a batch, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _tensors(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _tensors(entry)


def _rows(value: Any, rows: slice) -> Any:
    """Some rows of each tensor in a batch."""
    if isinstance(value, Tensor):
        return value[rows]
    if isinstance(value, Mapping):
        return {name: _rows(entry, rows) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return _like(value, [_rows(entry, rows) for entry in value])
    return value


def _joined(outputs: Sequence[Any]) -> Any:
    """One output of all chunks."""
    first = outputs[0]
    if isinstance(first, Tensor):
        return torch.cat(list(outputs))
    if isinstance(first, Mapping):
        return {name: _joined([output[name] for output in outputs]) for name in first}
    return _like(first, [_joined(entries) for entries in zip(*outputs, strict=True)])


def _like(value: Any, entries: list[Any]) -> Any:
    """A list, tuple or named tuple like another one."""
    return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries)
