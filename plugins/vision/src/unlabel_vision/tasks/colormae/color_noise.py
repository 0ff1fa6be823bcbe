"""Coloured noise: tiles of random numbers with a shaped spectrum, and windows cut out of them.

Sorting a window of such noise hides patches in a chosen texture: clusters (red), scattered points (blue),
blobs of one size (green), or clusters of scattered points (purple); white noise hides patches at random.
Hinojosa, Liu, Ghanem 2024, arXiv 2407.13036. Nothing here looks at an image.

With W white noise and G(s) a Gaussian low-pass of standard deviation s patches, the paper has

    red = G(s) W,   blue = W - G(s) W,   green = G(s1) W - G(s2) W,   purple = W - green,   s1 < s2

but prints no s, and one such pass does not give the spectra it shows. Filtering and ranking in turn
several times does: `CALIBRATED` holds the numbers that fit the published spectra best. They were
measured from the paper's figures and are not the authors'.

Every position of a tile is alike, but a window of red noise is so smooth that its extremes lie at its
border: at a ratio of 0.75 its corners stay visible in 32 % of the masks, its middle in 13 %. The other
colours show no such border, purple a trace of it.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from unlabel import seeds
from unlabel.errors import UsageError, nearest
from unlabel.storage import cache

__all__ = [
    "CALIBRATED",
    "Calibration",
    "Color",
    "Places",
    "bank",
    "filter_noise",
    "generate",
    "random_places",
    "rank_normalise",
    "response",
    "shared_places",
    "windows",
]

Color = Literal["green", "red", "blue", "purple", "white"]

_VERSION = 1  # of the tiles kept on disk; raise it whenever `generate` would give others
_AT_ONCE = 256  # tiles filtered together: 8 MiB an array, so that generating needs little memory


class Calibration(NamedTuple):
    """How a colour is made.

    Attributes:
        sigmas: standard deviations of the Gaussians, in patches, growing.
        iterations: how many times to filter, and rank.
    """

    sigmas: tuple[float, ...]
    iterations: int


CALIBRATED: dict[str, Calibration] = {
    "green": Calibration((0.5, 2.0), 11),
    "red": Calibration((2.0,), 5),
    "blue": Calibration((0.5,), 5),
    "purple": Calibration((0.5, 2.0), 12),
    "white": Calibration((), 1),
}
"""What reproduces the published spectra; root-mean-square error of the profiles, in turn: 0.04, 0.01, 0.02, 0.06, 0."""


# Tiles: made once, on the CPU -----------------------------------------------------------------------------


def response(size: int, color: Color, sigmas: tuple[float, ...]) -> Tensor:
    """How much of each frequency a colour lets through, on a periodic square tile.

    Exact Gaussians ``exp(-2 pi^2 s^2 f^2)``: a kernel cut off in space is a poor Gaussian at s = 0.5, and
    would turn purple's scattered points into clusters.

    Args:
        size: side of the tile, S.
        color: which combination of Gaussians, see the module.
        sigmas: one for red and blue, two (growing) for green and purple, none for white.

    Returns:
        float64, (S, S // 2 + 1), in the layout of `torch.fft.rfft2`; within [0, 1].

    Raises:
        UsageError: an unknown colour, or sigmas that do not fit it.
    """
    _check(color, sigmas)
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64), torch.fft.rfftfreq(size, dtype=torch.float64))
    square = rows[:, None] ** 2 + columns**2  # (cycles per patch)^2
    low = [torch.exp(-2 * torch.pi**2 * sigma**2 * square) for sigma in sigmas]
    match color:
        case "red":
            return low[0]
        case "blue":
            return 1 - low[0]
        case "green":
            return low[0] - low[1]
        case "purple":
            return 1 - (low[0] - low[1])
    return torch.ones_like(square)


def _check(color: str, sigmas: tuple[float, ...]) -> None:
    if color not in CALIBRATED:
        hint = nearest(color, CALIBRATED) or f": expected one of {', '.join(CALIBRATED)}"
        raise UsageError(f"color {color!r} is unknown{hint}")
    wanted = len(CALIBRATED[color].sigmas)
    if len(sigmas) != wanted or any(s <= 0 for s in sigmas) or sorted(set(sigmas)) != list(sigmas):
        raise UsageError(f"{color} noise takes {wanted} sigmas above 0, growing, got {sigmas}")


def rank_normalise(tiles: Tensor) -> Tensor:
    """Replace every value by its rank in its tile, scaled to [0, 1]: k / (S^2 - 1) for the k-th smallest.

    Args:
        tiles: float64, (T, S, S), on the CPU; equal values are ranked in no particular order.

    Returns:
        float64, (T, S, S).
    """
    flat = tiles.flatten(1)
    order = torch.from_numpy(np.argsort(flat.numpy(), axis=1))  # several times faster than torch's, on long rows
    ranks = torch.linspace(0, 1, flat.shape[1], dtype=torch.float64).expand_as(flat)
    return torch.empty_like(flat).scatter_(1, order, ranks).view_as(tiles)


def filter_noise(
    noise: Tensor, color: Color, sigmas: tuple[float, ...] | None = None, iterations: int | None = None
) -> Tensor:
    """Give white noise a colour.

    One iteration is the paper's formula and linear: filtering alone. With more, each one filters, then
    ranks, which brings back the contrast that filtering takes away and so sharpens the spectrum.

    Args:
        noise: float64, (T, S, S), on the CPU.
        color: see the module.
        sigmas: of the Gaussians, in patches; default: `CALIBRATED`.
        iterations: 1 or more; default: `CALIBRATED`.

    Returns:
        float64, (T, S, S); within [0, 1] after more than one iteration.

    Raises:
        UsageError: an unknown colour, sigmas that do not fit it, or no iteration.
    """
    sigmas, iterations = _calibrated(color, sigmas, iterations)
    passed = response(noise.shape[-1], color, sigmas)
    for _ in range(iterations):
        noise = torch.fft.irfft2(torch.fft.rfft2(noise) * passed, s=noise.shape[-2:])
        if iterations > 1:
            noise = rank_normalise(noise)
    return noise


def _calibrated(color: str, sigmas: tuple[float, ...] | None, iterations: int | None) -> Calibration:
    """The calibration of a colour, but for what is given."""
    sigmas = CALIBRATED[color].sigmas if sigmas is None and color in CALIBRATED else sigmas or ()
    _check(color, sigmas)
    if iterations is not None and iterations < 1:
        raise UsageError(f"{iterations} iterations make no noise: 1 is the paper's formula, None the calibrated number")
    return Calibration(sigmas, CALIBRATED[color].iterations if iterations is None else iterations)


def generate(color: Color, tiles: int, size: int, calibration: Calibration, seed: int) -> Tensor:
    """Make tiles from nothing; the first ones do not depend on how many there are.

    Args:
        color: see the module.
        tiles, size: how many, and their side.
        calibration: how.
        seed: of the white noise, which is the same for all colours.

    Returns:
        float32, (tiles, size, size): in each tile, every multiple of 1 / (size^2 - 1) in [0, 1] once. A single
        iteration is ranked too: only the order of the values is ever used.
    """
    rng = seeds.generator(seed, 0xC0102)
    made = torch.empty(tiles, size, size)
    for start in range(0, tiles, _AT_ONCE):
        part = made[start : start + _AT_ONCE]
        white = torch.from_numpy(rng.random((len(part), size, size)))
        part.copy_(rank_normalise(filter_noise(white, color, *calibration)))
    return made


def bank(
    color: Color,
    tiles: int = 3072,
    size: int = 64,
    *,
    seed: int = 0,
    sigmas: tuple[float, ...] | None = None,
    iterations: int | None = None,
) -> Tensor:
    """The tiles that windows are cut from, always the same for the same arguments.

    They are kept, see `unlabel.storage.cache`: 50 MB for the default size, made in seconds.

    Args:
        color: see the module.
        tiles, size: how many, and their side in patches.
        seed, sigmas, iterations: see `generate` and `filter_noise`.

    Returns:
        float32, (tiles, size, size), as `generate`.

    Raises:
        UsageError: what `filter_noise` raises, or there are no tiles, or they are too small for a pattern.
    """
    calibration = _calibrated(color, sigmas, iterations)
    if tiles < 1 or size < 2:
        raise UsageError(f"{tiles} tiles of {size} x {size} are no noise; 3072 tiles of 64 x 64 are usual")
    identity = repr((_VERSION, color, tiles, size, tuple(map(float, calibration.sigmas)), calibration.iterations, seed))
    return cache.get(
        cache.entry("color_noise", f"{color}-{cache.key(identity)}", ".safetensors"),
        read=_read,
        make=lambda: generate(color, tiles, size, calibration, seed),
        write=lambda made, path: path.write_bytes(save({"tiles": made, "digest": _digest(made)})),
    )


def _digest(tiles: Tensor) -> Tensor:
    """uint8, (32,): of the values, their type and their shape."""
    digest = hashlib.sha256(f"{tiles.dtype} {tuple(tiles.shape)}".encode())
    digest.update(tiles.numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _read(file: Path) -> Tensor:
    """The tiles in a file; ValueError if it is anything but what was written."""
    content = load(file.read_bytes())
    if content.keys() != {"tiles", "digest"} or not torch.equal(content["digest"], _digest(content["tiles"])):
        raise ValueError("its content does not match its hash")
    return content["tiles"]


# Windows: one for each sample of a batch, on the device -------------------------------------------------------


class Places(NamedTuple):
    """Which part of the bank each sample gets.

    Attributes:
        tile: int64, (N,): number of the tile.
        top, left: int64, (N,): first row and column; a window that reaches beyond the tile goes on at its
            other side, where the noise continues without a seam.
        upside_down, mirrored: bool, (N,): whether the window is then flipped, rows or columns.
    """

    tile: Tensor
    top: Tensor
    left: Tensor
    upside_down: Tensor
    mirrored: Tensor


def random_places(keys: Tensor, tiles: int, size: int) -> Places:
    """A tile, an offset and flips for each sample, from its key alone.

    Args:
        keys: int64, (N,): the batch's ``"key"``.
        tiles, size: of the bank.
    """
    u = seeds.uniform(keys, (5,))
    return Places((u[:, 4] * tiles).long(), *_crop(u, size))


def shared_places(keys: Tensor, tiles: int, size: int) -> Places:
    """One offset and one pair of flips for all samples, and tile i for the i-th: the authors' code.

    If there are more samples than tiles, the tiles are used again, with another offset and flips each
    time. All of it is drawn from the first sample's key.

    Args and returns: as `random_places`.
    """
    slot = torch.arange(len(keys), device=keys.device)
    rounds = -(-len(keys) // tiles)
    u = seeds.uniform(keys[:1], (rounds, 4))[0]  # (rounds, 4)
    return Places(slot % tiles, *_crop(u[slot // tiles], size))


def _crop(u: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Offsets and flips from uniform numbers, (N, 4 or more)."""
    return (u[:, 0] * size).long(), (u[:, 1] * size).long(), u[:, 2] < 0.5, u[:, 3] < 0.5


def windows(tiles: Tensor, places: Places, grid: int) -> Tensor:
    """Cut square windows out of periodic tiles, each from a place of its own, in one gather.

    Args:
        tiles: any dtype, (T, S, S).
        places: where, for N windows.
        grid: side of the windows, at most S.

    Returns:
        (N, grid, grid), dtype of `tiles`.
    """
    step = torch.arange(grid, device=tiles.device)
    row = torch.where(places.upside_down[:, None], grid - 1 - step, step) + places.top[:, None]
    column = torch.where(places.mirrored[:, None], grid - 1 - step, step) + places.left[:, None]
    size = tiles.shape[-1]
    return tiles[places.tile[:, None, None], row[:, :, None] % size, column[:, None, :] % size]
