"""Write a folder of real image files, some of them broken in the ways real folders are."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["BAD", "GOOD", "encode", "write_images"]

ORIENTATION = 0x0112


def _scene(rng: np.random.Generator) -> Image.Image:
    """A smooth random RGB picture of 40 to 96 pixels a side: it compresses like a photograph."""
    width, height = (int(side) for side in rng.integers(40, 97, size=2))
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    """The bytes of an image file."""
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def _deep(image: Image.Image) -> bytes:
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    return encode(Image.fromarray(grey), "PNG")


def _animated(image: Image.Image) -> bytes:
    return encode(image, "GIF", save_all=True, append_images=[image.transpose(Image.Transpose.ROTATE_180)])


def _rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    return encode(image, "JPEG", exif=exif)


def giant_png(side: int = 60_000) -> bytes:
    """A complete PNG header announcing `side` x `side` pixels, and next to no data."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def _truncated(image: Image.Image) -> bytes:
    whole = encode(image, "JPEG", quality=95)
    return whole[: len(whole) * 2 // 3]


GOOD: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "jpeg": (".jpg", lambda image: encode(image, "JPEG")),
    "png": (".png", lambda image: encode(image, "PNG")),
    "webp": (".webp", lambda image: encode(image, "WEBP")),
    "png named jpg": (".jpg", lambda image: encode(image, "PNG")),
    "cmyk": (".jpg", lambda image: encode(image.convert("CMYK"), "JPEG")),
    "16-bit": (".png", _deep),
    "animated": (".gif", _animated),
    "exif-rotated": (".jpg", _rotated),
}
"""Kind -> (file name ending, writer): all of these must decode."""

BAD: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "truncated": (".jpg", _truncated),
    "empty": (".png", lambda image: b""),
    "text named jpg": (".jpg", lambda image: b"this is not a picture\n"),
    "giant": (".png", lambda image: giant_png()),
}
"""Kind -> (file name ending, writer): none of these may decode."""


def write_images(folder: Path, good: int, bad: int, seed: int) -> dict[Path, str]:
    """Write `good` usable and `bad` broken image files into `folder`, in mixed order of names.

    The kinds of `GOOD` and `BAD` take turns. The same arguments write the same files.

    Returns:
        Path of each file -> its kind, a key of `GOOD` or of `BAD`.
    """
    rng = np.random.default_rng(seed)
    kinds = [list(GOOD)[n % len(GOOD)] for n in range(good)] + [list(BAD)[n % len(BAD)] for n in range(bad)]
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for number, place in enumerate(rng.permutation(len(kinds))):
        suffix, write = (GOOD | BAD)[kinds[place]]
        path = folder / f"{number:05d}{suffix}"
        path.write_bytes(write(_scene(rng)))
        written[path] = kinds[place]
    return written
