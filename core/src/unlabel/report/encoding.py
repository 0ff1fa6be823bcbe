"""Pictures as PNG, written with zlib alone, and sounds as WAV: files whose base64 a page can hold."""

from __future__ import annotations

import base64
import io
import struct
import wave
import zlib

import numpy as np

from unlabel.show.drawing import halved
from unlabel.show.media import Sound

__all__ = ["fitting", "png", "size", "text", "wav"]

_NONE, _LEFT, _ABOVE = 0, 1, 2  # PNG's filters: of each byte, itself, or its difference from a neighbour's
_SMALLEST = 48


def png(picture: np.ndarray) -> bytes:
    """A picture's PNG file: uint8, (H, W, 3), red, green, blue; all rows filtered the way that suits them best."""
    flat = np.ascontiguousarray(picture).reshape(len(picture), -1)
    left, above = flat.copy(), flat.copy()
    left[:, 3:] -= flat[:, :-3]
    above[1:] -= flat[:-1]
    candidates = {_NONE: flat, _LEFT: left, _ABOVE: above}
    # the usual rule: bytes near 0, read as signed, compress best
    best = min(candidates, key=lambda kind: int(np.abs(candidates[kind].view(np.int8).astype(np.int16)).sum()))
    rows = np.hstack([np.full((len(flat), 1), best, np.uint8), candidates[best]])
    header = struct.pack(">IIBBBBB", picture.shape[1], picture.shape[0], 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in parts)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def wav(sound: Sound) -> bytes:
    """A sound's WAV file, of 16 bits."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(len(sound.samples))
        writer.setsampwidth(2)
        writer.setframerate(sound.rate)
        writer.writeframes((sound.samples.T * 32767).round().astype("<i2").tobytes())
    return file.getvalue()


def size(file: bytes) -> tuple[int, int]:
    """Width and height of a PNG file."""
    return int.from_bytes(file[16:20], "big"), int.from_bytes(file[20:24], "big")


def text(file: bytes) -> str:
    """A file in base64."""
    return base64.b64encode(file).decode("ascii")


def fitting(pictures: list[np.ndarray], budget: int) -> list[bytes]:
    """The files of pictures that together take at most about `budget` bytes: the largest is halved until they do.

    Args:
        pictures: uint8, (H, W, 3) each.
        budget: bytes; pictures that are small already are never halved, so very many of them may take more.
    """
    pictures = list(pictures)
    while (total := sum(picture.size for picture in pictures)) > 4 * budget:  # what is kept without loss can be
        largest = max(range(len(pictures)), key=lambda number: pictures[number].size)
        if min(pictures[largest].shape[:2]) < 2 * _SMALLEST:
            break
        pictures[largest] = halved(pictures[largest])
        if sum(picture.size for picture in pictures) >= total:
            break
    files = [png(picture) for picture in pictures]
    while sum(map(len, files)) > budget:
        able = [number for number, picture in enumerate(pictures) if min(picture.shape[:2]) >= 2 * _SMALLEST]
        if not able:
            break
        largest = max(able, key=lambda number: len(files[number]))
        pictures[largest] = halved(pictures[largest])
        files[largest] = png(pictures[largest])
    return files
