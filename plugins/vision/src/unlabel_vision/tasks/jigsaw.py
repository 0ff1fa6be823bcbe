"""Jigsaw: nine tiles of an image are shuffled; which permutation was it?

Noroozi, Favaro, "Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles", 2016, arXiv 1603.09246.
The image is cut in 3 x 3 cells; a tile is a random part of each cell, so that edges do not meet, with its own mean and
contrast removed, so that brightness does not tell. One encoder sees each tile alone; two layers on the nine features
name one of a fixed set of permutations that differ from each other in as many places as possible.
Differs from the authors' network, an AlexNet up to its sixth layer, in taking any encoder, with a linear layer of
`tile_dim` in the place of that sixth layer; colour channels are not shifted against each other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from unlabel import Recipe, Ref, Stage, UsageError, seeds
from unlabel.evaluate.features import evaluating
from unlabel.nn import batchnorm, heads
from unlabel.show import drawing
from unlabel.task import Batch, Transform
from unlabel_vision import views
from unlabel_vision.image_task import ImageTask

__all__ = ["Jigsaw", "cut", "normalise", "paper", "permutation_set", "quick", "tiny"]

_SIDE = 3
_TILES = _SIDE * _SIDE


def permutation_set(count: int, tiles: int = _TILES, seed: int = 0) -> np.ndarray:
    """Permutations far from each other: greedily, from a random first one (algorithm 1 of the paper).

    Each next one has the largest smallest Hamming distance to those chosen, and among such the largest mean
    distance. All permutations are candidates: 1000 of nine tiles take about a second.

    Args:
        count: how many.
        tiles: how many things are permuted, at most 9.
        seed: of the first one; the rest follows.

    Returns:
        int64, (count, tiles), rows distinct.

    Raises:
        UsageError: more permutations than there are, or more than 9 tiles.
    """
    if not 2 <= tiles <= 9:
        raise UsageError(f"permutations of {tiles} tiles: expected 2 to 9 (all permutations are searched)")
    candidates = _all_permutations(tiles)  # (tiles, tiles!), so that each position's column lies together
    total = candidates.shape[1]
    if not 1 <= count <= total:
        raise UsageError(f"{count} permutations of {tiles} tiles: expected 1 to {total}")

    chosen = [int(seeds.generator(seed, tiles).integers(total))]
    least = np.full(total, tiles, dtype=np.int32)
    summed = np.zeros(total, dtype=np.int32)
    while len(chosen) < count:
        last = candidates[:, chosen[-1]]
        distance = np.zeros(total, dtype=np.int8)
        for column, value in zip(candidates, last, strict=True):
            distance += column != value
        np.minimum(least, distance, out=least)  # 0 for those chosen, so they do not come again
        summed += distance
        chosen.append(int((least * (tiles * count) + summed).argmax()))
    return candidates[:, chosen].T.astype(np.int64)


def _all_permutations(tiles: int) -> np.ndarray:
    """Every permutation of range(tiles): int8, (tiles, tiles!)."""
    table = np.zeros((1, 1), dtype=np.int8)
    for size in range(2, tiles + 1):  # insert the new largest element at every place
        table = np.concatenate([np.insert(table, place, size - 1, axis=0) for place in range(size)], axis=1)
    return table


def cut(images: Tensor, order: Tensor, corner: Tensor, cell: int, tile: int) -> Tensor:
    """Cut one tile out of each cell of a 3 x 3 grid, in a given order.

    Args:
        images: (N, H, W, C), H and W at least three cells.
        order: int64, (N, 9): place p of the result shows cell order[p]; cells are numbered row by row.
        corner: int64, (N, 9, 2): top left corner of each place's tile in its cell, in [0, cell - tile].
        cell, tile: sides in pixels.

    Returns:
        (N, 9, tile, tile, C).
    """
    along = torch.arange(tile, device=images.device)
    top = order // _SIDE * cell + corner[..., 0]
    left = order % _SIDE * cell + corner[..., 1]
    rows, columns = top[..., None] + along, left[..., None] + along  # (N, 9, tile)
    sample = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images[sample, rows[..., :, None], columns[..., None, :]]


def normalise(tiles: Tensor) -> Tensor:
    """Remove each tile's own mean and contrast, channel by channel: float, (..., H, W, C) -> the same.

    A spread below 1 % of the value range is not enlarged to more: it is compression noise.
    """
    variance, mean = torch.var_mean(tiles, dim=(-3, -2), correction=0, keepdim=True)
    return (tiles - mean) / variance.sqrt().clamp(min=0.01)


class Jigsaw(ImageTask):
    """Prediction of the permutation of nine tiles.

    Args:
        encoder: an image encoder that accepts tiles: a convolutional one, or a transformer whose `image_size`
            is `tile`.
        permutations: size of the set, usually 100 to 1000; the more, the harder.
        cell: side of the nine cells in pixels; images are cropped to three of them.
        tile: side of the tiles in pixels; what is missing to `cell` is the room for their random place.
        tile_dim: width of each tile's features before they are joined.
        hidden: width of the hidden layer after they are joined.
        gray: probability of taking an image without its colours, whose fringes could give places away.
        crop_scale: area of the random crop, as a share of the image.

    Raises:
        UsageError: tiles larger than cells, or an encoder that does not accept tiles.
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        permutations: int = 1000,
        cell: int = 75,
        tile: int = 64,
        tile_dim: int = 512,
        hidden: int = 4096,
        gray: float = 0.3,
        crop_scale: tuple[float, float] = (0.6, 1.0),
    ):
        super().__init__(encoder)
        if not 0 < tile <= cell:
            raise UsageError(f"tile {tile} does not fit into cell {cell}: the paper's are 64 and 75 pixels")
        _check_accepts(encoder, self.image_size, tile)
        self.cell, self.tile, self.crop_scale = cell, tile, crop_scale
        self.photometric = views.Photometric(gray_p=gray, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        width: Any = encoder.dim
        self.tile_head = nn.Sequential(nn.Linear(width, tile_dim), nn.ReLU())
        self.head = heads.mlp(_TILES * tile_dim, hidden, permutations, norm="none")
        self.permutations: Tensor
        self.register_buffer("permutations", torch.from_numpy(permutation_set(permutations)))
        batchnorm.convert(self)

    def transform(self) -> Transform:
        return views.RandomResizedCrop(_SIDE * self.cell, scale=self.crop_scale)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """``{"loss", "accuracy"}``: cross-entropy over the permutations; ln(`permutations`) by chance."""
        tiles, answer = self._puzzle(batch)

        features = self.encoder(tiles.flatten(0, 1))  # (9N, dim): every tile by itself
        joined = self.tile_head(features).view(len(answer), -1)  # (N, 9 * tile_dim)
        logits = self.head(joined)

        accuracy = (logits.detach().argmax(dim=1) == answer).float().mean()
        # -log p(S | F_1 ... F_9), S the permutation's number; a tile's features know no other tile
        return {"loss": functional.cross_entropy(logits.float(), answer), "accuracy": accuracy}

    def _puzzle(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Normalised shuffled tiles, float32, (N, 9, 3, tile, tile), and which permutation it is, int64, (N,)."""
        tiles, answer = self._shuffled(batch)
        return normalise(tiles).permute(0, 1, 4, 2, 3), answer

    def _shuffled(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Shuffled tiles as they are, in [0, 1], float32, (N, 9, tile, tile, 3), and the permutations."""
        key = batch["key"]
        images = self.photometric(batch["image"], key, stream=1).permute(0, 2, 3, 1)
        answer = (seeds.uniform(key, (), stream=2) * len(self.permutations)).long()
        corner = (seeds.uniform(key, (_TILES, 2), stream=3) * (self.cell - self.tile + 1)).long()  # 0 to 11: 75 - 64

        return cut(images, self.permutations[answer], corner, self.cell, self.tile), answer

    def encode(self, batch: Batch) -> Tensor:
        """The encoder's features of the whole image, normalised as its tiles are: (N, dim)."""
        pixels = normalise(batch["image"].float() / 255).permute(0, 3, 1, 2)
        features: Tensor = self.encoder(pixels)
        return features

    def show(self, batch: Batch) -> dict[str, np.ndarray]:
        """Up to four images as the encoder sees them: nine tiles each, in the order given to it."""
        tiles, _ = self._puzzle({name: value[:4] for name, value in batch.items()})
        puzzles = [drawing.contact_sheet(views.to_pixels(puzzle), columns=_SIDE) for puzzle in tiles]
        return {"puzzles": drawing.contact_sheet(np.stack(puzzles), columns=len(puzzles), gap=8)}


def _check_accepts(encoder: nn.Module, image_size: int, tile: int) -> None:
    if tile == image_size:
        return
    try:
        with evaluating(encoder), torch.no_grad():
            encoder(torch.zeros(1, 3, tile, tile))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise UsageError(
            f"encoder {type(encoder).__name__} does not accept tiles of {tile} x {tile} pixels ({error}):"
            f" a transformer's image_size has to be the tile's (--set encoder.image_size={tile}),"
            " convolutional networks take any size"
        ) from error


def paper() -> Recipe:
    """1000 permutations of 64-pixel tiles, with a ResNet-50 instead of an AlexNet; no figure claimed, not run by us.

    Learning rate and length are as usual for this task and were not checked against the paper.
    ``unlabel train vision/jigsaw --recipe paper --data IMAGENET``
    """
    return Recipe(
        task=Ref("vision/jigsaw"),
        encoder=Ref("vision/resnet"),
        dataset=Ref("vision/folder"),
        stages=[Stage(epochs=70, batch_size=256, optimizer="sgd", lr=0.01, weight_decay=5e-4)],
    )


def quick() -> Recipe:
    """Tiles of 12 pixels and a small ResNet, minutes on two CPU cores.

    ``unlabel train vision/jigsaw --recipe quick``
    """
    return Recipe(
        task=Ref("vision/jigsaw", permutations=100, cell=16, tile=12, tile_dim=64, hidden=256),
        encoder=Ref("vision/resnet", depth=10, width=16, stem="small", image_size=32),
        dataset=Ref("vision/photos"),
        stages=[Stage(epochs=15, batch_size=128, lr=1e-3, weight_decay=1e-4, warmup_epochs=1)],
    )


def tiny() -> Recipe:
    """Seconds, for tests. ``unlabel train vision/jigsaw --recipe tiny``"""
    return Recipe(
        task=Ref("vision/jigsaw", permutations=20, cell=10, tile=8, tile_dim=16, hidden=32),
        encoder=Ref("vision/resnet", depth=10, width=8, stem="small", image_size=32),
        dataset=Ref("vision/digits"),
        stages=[Stage(steps=4, batch_size=16, lr=1e-3, weight_decay=1e-4)],
    )
