"""Encoders of pictures and of texts, which load where only torch is installed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from toytowers.records import SIDE


class Image(nn.Sequential):
    """Two layers on pixels.

    Args:
        dim: width of the features.
        hidden: width in between.
    """

    def __init__(self, *, dim: int = 24, hidden: int = 48):
        layers = (nn.Flatten(), nn.Linear(SIDE * SIDE * 3, hidden), nn.GELU(), nn.Linear(hidden, dim))
        super().__init__(*layers)
        self.dim, self.hidden = dim, hidden

    def exported(self) -> dict[str, Tensor]:
        return self.state_dict(keep_vars=True)

    def loading_code(self, file: str) -> str:
        return (
            "from safetensors.torch import load_file\nfrom torch import nn\n\n"
            f"layers = nn.Flatten(), nn.Linear({SIDE * SIDE * 3}, {self.hidden}), nn.GELU()\n"
            f"model = nn.Sequential(*layers, nn.Linear({self.hidden}, {self.dim}))\n"
            f"model.load_state_dict(load_file({file!r}))\nmodel.eval()\n"
        )

    def example(self, count: int) -> Tensor:
        return torch.linspace(-1, 1, count * SIDE * SIDE * 3).reshape(count, 3, SIDE, SIDE)

    def usage(self) -> str:
        return f"Input: float32, (N, 3, {SIDE}, {SIDE}), normalised; output: (N, {self.dim})."

    def preprocessing(self) -> Mapping[str, Any]:
        return {"size": SIDE, "mean": [0.5] * 3, "std": [0.25] * 3}


class Deep(nn.Module):
    """Three layers on pixels, for unlabel alone.

    Args:
        dim: width of the features.
    """

    def __init__(self, *, dim: int = 24):
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(Image(dim=48), nn.GELU(), nn.Linear(48, dim))

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.layers(image)
        return features


class Words(nn.Module):
    """Mean of a text's words, then a layer; torch alone runs this class, whose source an export carries."""

    def __init__(self, tokens: int, width: int, dim: int):
        super().__init__()
        self.words, self.head = nn.Embedding(tokens, width, padding_idx=0), nn.Linear(width, dim)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Features of texts: int64, (N, L), and int64, (N, L), 1 where there is a word, to float32, (N, dim)."""
        words = self.words(tokens) * mask[:, :, None]
        mean = words.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        features: Tensor = self.head(torch.nn.functional.gelu(mean))
        return features


class Text(Words):
    """Mean of words.

    Args:
        tokens: how many there are; None: as the data say.
        dim: width of the features.
        width: width of a word.
    """

    def __init__(self, *, tokens: int | None = None, dim: int = 24, width: int = 32):
        assert tokens is not None  # the data imply it
        super().__init__(tokens, width, dim)
        self.tokens, self.dim, self.width = tokens, dim, width

    def exported(self) -> dict[str, Tensor]:
        return dict(self.state_dict(keep_vars=True))

    def loading_code(self, file: str) -> str:
        return (
            "import torch\nfrom safetensors.torch import load_file\nfrom torch import Tensor, nn\n\n\n"
            f"{inspect.getsource(Words)}\n\nmodel = Words({self.tokens}, {self.width}, {self.dim})\n"
            f"model.load_state_dict(load_file({file!r}))\nmodel.eval()\n"
        )

    def example(self, count: int) -> dict[str, Tensor]:
        tokens = torch.arange(count * 5).reshape(count, 5) % self.tokens
        return {"tokens": tokens, "mask": (tokens > 0).long()}

    def usage(self) -> str:
        return f"Input: tokens and mask, int64, (N, L); output: (N, {self.dim})."
