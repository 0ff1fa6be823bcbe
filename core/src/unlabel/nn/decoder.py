"""The light decoder of masked autoencoders: sees encoded tokens and mask tokens, predicts what was hidden.

He et al., arXiv 2111.06377, section 3, for tokens on a line, a plane or in space.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from unlabel.nn import masking, positions, transformer
from unlabel.nn.positions import Order

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """Light transformer from encoded visible tokens to a prediction for every token.

    Args:
        encoder_dim: width of the encoded tokens.
        grid: tokens along each axis, one to three.
        values: numbers to predict for each token.
        dim, depth, heads: of the decoder.
        order: which axis the position table starts with, see `unlabel.nn.positions.sincos`.
        class_token: whether the sequence starts with a class token, which is seen but not predicted for.
    """

    positions: Tensor

    def __init__(
        self,
        encoder_dim: int,
        grid: Sequence[int],
        values: int,
        dim: int,
        depth: int,
        heads: int,
        *,
        order: Order = "xy",
        class_token: bool = True,
    ):
        super().__init__()
        self.class_tokens = int(class_token)
        self.embed = nn.Linear(encoder_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        table = positions.sincos(dim, grid, order=order, class_row=class_token)
        self.register_buffer("positions", table, persistent=False)
        self.transformer = transformer.Transformer(dim, depth, heads)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.predict = nn.Linear(dim, values)

    def forward(self, encoded: Tensor, restore: Tensor, wanted: Tensor | None = None) -> Tensor:
        """Predict from the visible tokens alone.

        Args:
            encoded: (N, 1 + K, encoder_dim): class token if there is one, then the visible tokens in shuffled order.
            restore: int64, (N, L): `Mask.restore`.
            wanted: int64, (N, W): the tokens to predict for; None: all.

        Returns:
            (N, L, values), or (N, W, values) in the order of `wanted`.
        """
        tokens = self.embed(encoded)
        seen = masking.restore(tokens[:, self.class_tokens :], self.mask_token, restore)
        return self.decode(torch.cat([tokens[:, : self.class_tokens], seen], dim=1), wanted)

    def decode(self, sequence: Tensor, wanted: Tensor | None = None) -> Tensor:
        """The same from a sequence, (N, 1 + L, dim), in which the mask tokens are in place already."""
        if wanted is not None:
            wanted = wanted + self.class_tokens
        prediction: Tensor = self.predict(self.norm(self.transformer(sequence + self.positions, wanted=wanted)))
        return prediction[:, self.class_tokens :] if wanted is None else prediction
