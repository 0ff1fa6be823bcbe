"""A small encoder and a contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import engine
from unlabel.nn import gradcache
from unlabel.task import Batch, Task


class Tower(nn.Module):
    """Two layers."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.first, self.last, self.dropout = nn.Linear(5, 8), nn.Linear(8, 4), nn.Dropout(dropout)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, rows: Tensor) -> Tensor:
        """(N, 5) to (N, 4)."""
        return self.last(self.dropout(self.first(rows).tanh()))


def contrast(left: Tensor, right: Tensor, temperature: Tensor) -> Tensor:
    """Row by row the right partner among those of all processes: (N, D) twice."""
    left, right = (engine.gather(functional.normalize(rows, dim=1)) for rows in (left, right))
    scores = left @ right.T / temperature
    return functional.cross_entropy(scores, torch.arange(len(scores)))


class Pairs(Task):
    """Recognises what was only shifted.

    Args:
        encoder: takes rows.
        chunk: samples of a chunk, or None to encode all at once.
    """

    def __init__(self, encoder: nn.Module, *, chunk: int | None = None) -> None:
        super().__init__()
        self.encoder, self.chunk = encoder, chunk

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        left, right = (
            self.encoder(rows) if self.chunk is None else gradcache.encode(self.encoder, rows, self.chunk)
            for rows in (batch["x"], batch["x"] + 0.1)
        )
        return {"loss": contrast(left, right, torch.tensor(0.5))}
