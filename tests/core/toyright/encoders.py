"""Encoders of pings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toyright.pings import LENGTH


class Linear(nn.Module):
    """One layer with batch statistics."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim
        self.layer = nn.Linear(LENGTH, dim)

    def forward(self, wave: Tensor) -> Tensor:
        features: Tensor = self.layer(wave)
        return features


def linear(*, dim: int = 4) -> Linear:
    """One layer.

    Args:
        dim: width.
    """
    return Linear(dim)


class Open(Linear):
    """One layer that torch alone can load.

    Args:
        dim: width.
    """

    def __init__(self, *, dim: int = 3):
        super().__init__(dim)

    def exported(self) -> dict[str, Tensor]:
        return dict(self.layer.state_dict())

    def loading_code(self, file: str) -> str:
        return (
            "import torch\nfrom safetensors.torch import load_file\n\n"
            f"model = torch.nn.Linear({LENGTH}, {self.dim})\nmodel.load_state_dict(load_file({file!r}))\nmodel.eval()\n"
        )

    def example(self, count: int) -> Tensor:
        return torch.linspace(-1, 1, count * LENGTH).reshape(count, LENGTH)

    def usage(self) -> str:
        return f"Input: float32, (N, {LENGTH})."
