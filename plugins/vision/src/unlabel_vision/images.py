"""From an image file to an array: whatever the format, colour mode or damage, the outcome is one of two.

`decode` returns upright 8-bit RGB, or raises `BadSample` with a reason that says what to do about the file.
The format is judged by content, never by the file's name. Conventions, all of them lossy by nature:

- transparency is laid over white (cut-out products and scanned line art expect paper, not night);
- 16-bit grey is scaled by its bit depth, deduced from the largest value (8, 10, 12, 14 or 16 bits), so a
  12-bit X-ray in a 16-bit file is not almost black, and nothing is ever clipped; 32-bit integers beyond
  16 bits and floats beyond [0, 1] are stretched from their minimum to their maximum;
- colour profiles are not applied; CMYK and YCCK become RGB by the usual formula;
- of several frames or pages the first counts.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from unlabel.errors import BadSample

__all__ = ["MAX_PIXELS", "SUFFIXES", "Header", "class_numbers", "decode", "header", "sniff", "to_uint8"]

MAX_PIXELS = 100_000_000
"""Images above this are refused before a pixel is decoded: 100 megapixels are 300 MB of RGB."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".avif"}) | frozenset(
    {".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k"}
)
"""File name endings (lower case) by which a folder or an archive finds its images."""

# The readers themselves instead of Image.open: it would try sixty formats (some start other programs), and
# has its own limit on pixels, a global one.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "JPEG 2000": Jpeg2KImagePlugin.Jpeg2KImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}

_BMP_HEADER_SIZES = {12, 16, 40, 52, 56, 64, 108, 124}  # "BM" alone starts ordinary words too

_OTHERS = (  # first bytes -> what a file that is not an image turned out to be
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"8BPS", "a Photoshop document"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    (b"{", "JSON"),
    (b"[", "JSON"),
)

_UPRIGHT = {  # EXIF orientation -> how to undo it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Header(NamedTuple):
    """What an image file says about itself before its pixels are decoded.

    Attributes:
        format: as `sniff` names it: ``"JPEG"``, ``"PNG"``, ``"WebP"``, ``"GIF"``, ``"TIFF"``, ...
        mode: Pillow's name of the stored colour mode, e.g. ``"RGB"``, ``"L"``, ``"CMYK"``, ``"I;16"``.
        width, height: in pixels, of the upright image.
        orientation: EXIF orientation as stored, 1 (upright) to 8.
        animated: whether further frames or pages follow the first.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int
    animated: bool


def sniff(head: bytes) -> str | None:
    """The image format that a file's first 32 bytes announce (a `Header.format`), or None for anything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WebP"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "TIFF"
    if head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if head.startswith((b"\0\0\0\x0cjP  ", b"\xffO\xffQ")):
        return "JPEG 2000"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    return None


def _is_text(head: bytes) -> bool:
    try:
        words = head.decode()
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        words = head[: error.start].decode()  # the cut fell into a character
    return all(letter.isprintable() or letter.isspace() for letter in words)


def _looks_like(head: bytes) -> str:
    """Describe the start of a file that is no image, in words for the person who must fix it."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "an HTML page, perhaps a failed download"
    if text.startswith((b"<svg", b"<?xml")):
        return "SVG or XML"
    for magic, name in _OTHERS:
        if head.startswith(magic):
            return name
    if head[4:8] == b"ftyp":
        heic = head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"hevc")
        return "a HEIC photo: convert it to JPEG or PNG first" if heic else "an MP4 or QuickTime video"
    if head.startswith(b"RIFF"):
        return "sound or an AVI video"
    if not head.strip(b"\0"):
        return "only zero bytes"
    return "text" if _is_text(head) else "unknown data"


_quiet_lock = threading.Lock()
_quiet_depth = 0
_quiet_filters = warnings.catch_warnings()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow's warnings (odd EXIF, too many TIFF tags): they concern metadata we do not use.

    `warnings.catch_warnings` restores the wrong filters when two threads overlap, so the first thread in
    saves them and the last one out restores them.
    """
    global _quiet_depth, _quiet_filters
    with _quiet_lock:
        if _quiet_depth == 0:
            _quiet_filters = warnings.catch_warnings(action="ignore")
            _quiet_filters.__enter__()
        _quiet_depth += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_depth -= 1
            if _quiet_depth == 0:
                _quiet_filters.__exit__(None, None, None)


def _ends_early(format: str, stream: BinaryIO) -> bool:
    """Whether the file stops before the end its format announces."""
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    head = stream.read(8)
    stream.seek(max(0, size - 1024))
    tail = stream.read()
    if format == "JPEG":
        return b"\xff\xd9" not in tail
    if format == "PNG":
        return b"IEND" not in tail
    if format == "GIF":
        return not tail.rstrip(b"\0").endswith(b";")
    if format == "WebP":
        return int.from_bytes(head[4:8], "little") + 8 > size
    return format == "BMP" and int.from_bytes(head[2:6], "little") > size


def _damage(format: str, stream: BinaryIO, error: Exception) -> BadSample:
    words = str(error).lower()
    if _ends_early(format, stream) or any(word in words for word in ("truncated", "premature", "eof", "not enough")):
        return BadSample(f"truncated {format}")
    return BadSample(f"damaged {format} ({error or type(error).__name__})")


def _open(stream: BinaryIO, max_pixels: int) -> tuple[str, ImageFile.ImageFile]:
    """Read the header, refuse what is no image or too large; no pixel is decoded."""
    head = stream.read(32)
    if not head:
        raise BadSample("empty file")
    format = sniff(head)
    if format is None:
        raise BadSample(f"not an image: {_looks_like(head)}")

    stream.seek(0)
    try:
        image = _READERS[format](stream)
    except Image.DecompressionBombError as error:
        raise BadSample(f"{format} of too many pixels: {error}") from error
    except Exception as error:  # on damaged files Pillow's readers raise nearly any class
        raise _damage(format, stream, error) from error

    width, height = image.size
    if width == 0 or height == 0:
        raise BadSample(f"{format} of {width} x {height} pixels")
    if width * height > max_pixels:
        raise BadSample(f"{format} of {width} x {height} pixels, more than max_pixels={max_pixels}")
    return format, image


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF says nothing about the pixels: take them as they lie
        return 1
    return value if value in _UPRIGHT else 1


def _animated(image: ImageFile.ImageFile) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))  # Pillow's readers of still formats lack it
    except Exception:  # what follows the first frame is damaged: nobody will look at it
        return False


def to_uint8(values: np.ndarray) -> np.ndarray:
    """Scale deep grey values to 8 bits without clipping.

    Args:
        values: (H, W); unsigned or signed integers, or floats.

    Returns:
        uint8, (H, W). Values within 16 bits are scaled by the smallest of the usual depths (8, 10, 12, 14,
        16 bits) that holds the largest one; floats within [0, 1] by 255; everything else linearly from its
        smallest to its largest finite value. NaN and infinities become the smallest.

    Raises:
        BadSample: if no value is finite.
    """
    finite = np.isfinite(values)
    if not finite.any():
        raise BadSample("no finite pixel value")
    low, high = values[finite].min(), values[finite].max()

    if values.dtype.kind == "f":
        values = np.where(finite, values, low).astype(np.float64)
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (float(low), float(high))
    elif low >= 0 and high < 2**16:
        low, high = 0, next(2**bits - 1 for bits in (8, 10, 12, 14, 16) if high < 2**bits)

    span = float(high) - float(low) or 1.0
    return np.rint((values.astype(np.float64) - float(low)) * (255.0 / span)).astype(np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB; deep grey is scaled, transparency laid over white."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return Image.fromarray(to_uint8(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert copies even RGB to RGB


def header(source: bytes | str | Path, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Read what an image file says about itself; decodes no pixel.

    Args:
        source: the file's bytes, or its path.
        max_pixels: see `decode`.

    Raises:
        BadSample: as `decode`, as far as the header shows it.
        OSError: if the path cannot be read.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream, _quiet():
        format, image = _open(stream, max_pixels)
        orientation = _orientation(image) if format != "PNG" else 1  # Pillow decodes a PNG to find its EXIF
        width, height = image.size
        if orientation >= 5 and format != "TIFF":  # Pillow turns TIFFs itself
            width, height = height, width
        return Header(format, image.mode, width, height, orientation, _animated(image))


def _contents(stream: BinaryIO) -> bytes:
    stream.seek(0)
    return stream.read()


def _ordinary_jpeg(content: bytes) -> tuple[int, int] | None:
    """Width and height of a whole JPEG of 8 bits in grey or three channels, without EXIF; None for all others.

    Reads nothing but the lengths of what precedes the pixels, in a tenth of the time that Pillow takes.
    """
    if not content.startswith(b"\xff\xd8\xff") or b"\xff\xd9" not in content[-1024:]:
        return None
    place = 2
    while place + 10 <= len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if marker in (0xC0, 0xC1, 0xC2):  # of a frame: baseline, extended, progressive
            bits, channels = content[place + 4], content[place + 9]
            height, width = (int.from_bytes(content[place + at : place + at + 2], "big") for at in (5, 7))
            return (width, height) if bits == 8 and channels in (1, 3) and width and height else None
        if not (0xE0 <= marker <= 0xEF or marker in (0xC4, 0xDB, 0xDD, 0xFE)) or length < 2:
            return None
        if marker == 0xE1 and content.startswith(b"Exif", place + 4):
            return None
        place += 2 + length
    return None


def _divisor(size: tuple[int, int], shortest: int | None, fewest: int | None) -> int:
    """By how much a JPEG may be reduced: 1, 2, 4 or 8."""
    if shortest is None and fewest is None:
        return 1
    enough = (
        divisor
        for divisor in (8, 4, 2)
        if divisor * (shortest or 1) <= min(size) and divisor**2 * (fewest or 1) <= size[0] * size[1]
    )
    return next(enough, 1)


def _jpeg(content: bytes, divisor: int = 1) -> np.ndarray | None:
    """An ordinary JPEG as uint8 (H, W, 3), writable, not turned upright; None where that fails.

    The same library as Pillow's and the same pixels to the last bit, in 40 % of the time: torchvision and OpenCV
    decode into the array itself, Pillow by way of its own four bytes a pixel. Damage of the kind that all overlook
    is mentioned on stderr here.
    """
    if divisor > 1:
        import cv2

        scale = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}[divisor]
        try:
            found = cv2.imdecode(np.frombuffer(content, np.uint8), scale | cv2.IMREAD_IGNORE_ORIENTATION)
        except cv2.error:
            return None
        return None if found is None else cv2.cvtColor(found, cv2.COLOR_BGR2RGB)

    import torch
    from torchvision.io import ImageReadMode, decode_jpeg  # here: takes a second, and other formats do without

    try:
        pixels = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:  # damaged, and Pillow is better at saying how; or a torchvision without JPEG
        return None
    result: np.ndarray | None = pixels.permute(1, 2, 0).numpy()
    return result


def decode(
    source: bytes | str | Path,
    *,
    shortest: int | None = None,
    fewest: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decode an image file to upright 8-bit RGB.

    Args:
        source: the file's bytes, or its path.
        shortest: the short side that is needed. A JPEG is then decoded at 1/2, 1/4 or 1/8 of its size while its
            short side stays at least this long, which is several times faster; other formats ignore it.
        fewest: pixels that are needed in all, to the same end. Given both, both are kept to.
        max_pixels: refuse images of more pixels, from the header, before anything is decoded.

    Returns:
        uint8, (H, W, 3), C-contiguous and writable.

    Raises:
        BadSample: the file is empty, no image, truncated, damaged, too large, or without a pixel.
        OSError: if the path cannot be read.
    """
    if isinstance(source, bytes):
        size = _ordinary_jpeg(source)
        if size is not None and size[0] * size[1] <= max_pixels:
            pixels = _jpeg(source, _divisor(size, shortest, fewest))
            if pixels is not None:
                return pixels
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream, _quiet():
        format, image = _open(stream, max_pixels)
        try:
            if format == "JPEG":
                divisor = _divisor(image.size, shortest, fewest)
                if image.mode in ("RGB", "L") and not _ends_early(format, stream):
                    pixels = _jpeg(source if isinstance(source, bytes) else _contents(stream), divisor)
                    upright = _UPRIGHT.get(_orientation(image))
                    if pixels is not None:
                        return pixels if upright is None else np.array(Image.fromarray(pixels).transpose(upright))
                image.draft(None, (image.width // divisor, image.height // divisor))
            image.load()
            upright = _UPRIGHT.get(_orientation(image))
            picture = _rgb(image)
        except BadSample:
            raise
        except Exception as error:  # on damaged files Pillow's readers raise nearly any class
            raise _damage(format, stream, error) from error
        return np.array(picture if upright is None else picture.transpose(upright))


def class_numbers(source: bytes | str | Path, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a file of class numbers: an image of one channel, or of a palette, whose colours do not matter.

    Args:
        source: the file's bytes, or its path.
        max_pixels: see `decode`.

    Returns:
        int64, (H, W): the numbers as they are stored.

    Raises:
        BadSample: the file is damaged, no image, too large, lossy, or has colours in place of numbers.
        OSError: if the path cannot be read.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb") as stream, _quiet():
        format, image = _open(stream, max_pixels)
        if format == "JPEG":
            raise BadSample("a JPEG, which does not keep numbers: masks must be PNG, TIFF or BMP")
        try:
            image.load()
        except Exception as error:  # on damaged files Pillow's readers raise nearly any class
            raise _damage(format, stream, error) from error
        if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
            raise BadSample(f"an image of mode {image.mode}: expected one channel of class numbers, or a palette")
        return np.array(image).astype(np.int64)
