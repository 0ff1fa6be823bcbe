"""Every file either becomes upright 8-bit RGB or is refused with a reason."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zipfile
import zlib
from pathlib import Path

import corrupt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from unlabel.errors import BadSample
from unlabel_vision import images

TILES = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [255, 255, 255], [255, 255, 0]]], np.uint8)
"""Six colours in a 2 x 3 arrangement that no turn or mirror maps onto itself."""


def blocks(size: int = 16) -> np.ndarray:
    """`TILES`, each a square of `size` pixels: JPEG keeps the middle of such squares nearly exact."""
    return TILES.repeat(size, 0).repeat(size, 1)


def with_orientation(array: np.ndarray, orientation: int, format: str, **options: object) -> bytes:
    exif = Image.Exif()
    exif[corrupt.ORIENTATION] = orientation
    return corrupt.encode(Image.fromarray(array), format, exif=exif, **options)


SIDES = {  # the EXIF standard's words: which visual side the stored 0th row is, and which the stored 0th column
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores of an upright picture when it says `orientation`."""
    sides = SIDES[orientation]
    stored = upright[:, ::-1] if "right" in sides else upright
    stored = stored[::-1] if "bottom" in sides else stored
    return np.ascontiguousarray(stored.swapaxes(0, 1) if sides[0] in ("left", "right") else stored)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone_exactly(format, orientation):
    lossless = {"lossless": True} if format == "WEBP" else {}
    stored = as_stored(blocks(), orientation)
    np.testing.assert_array_equal(images.decode(with_orientation(stored, orientation, format, **lossless)), blocks())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpeg_orientation_is_undone_also_at_reduced_size(orientation):
    stored = as_stored(blocks(32), orientation)
    file = with_orientation(stored, orientation, "JPEG", quality=95)
    for decoded, size in ((images.decode(file), 32), (images.decode(file, shortest=32), 16)):
        assert decoded.shape == (2 * size, 3 * size, 3)
        middles = decoded[size // 2 :: size, size // 2 :: size].astype(int)
        assert np.abs(middles - TILES).max() < 16  # JPEG's loss on saturated colours


@pytest.mark.parametrize("orientation", range(1, 9))
def test_header_gives_the_upright_size(orientation):
    stored = as_stored(blocks(), orientation)
    for format in ("JPEG", "TIFF", "WEBP"):
        header = images.header(with_orientation(stored, orientation, format))
        assert (header.height, header.width) == blocks().shape[:2], format


def test_damaged_exif_leaves_the_pixels_alone():
    file = bytearray(with_orientation(blocks(), 6, "PNG"))
    start = file.index(b"eXIf")
    length = struct.unpack(">I", file[start - 4 : start])[0]
    file[start + 8 : start + 16] = b"\xff" * 8
    checksum = zlib.crc32(file[start : start + 4 + length])  # must fit, or the whole file counts as damaged
    file[start + 4 + length : start + 8 + length] = struct.pack(">I", checksum)
    np.testing.assert_array_equal(images.decode(bytes(file)), blocks())


def test_no_pillow_warning_escapes():
    file = bytearray(with_orientation(blocks(), 1, "JPEG"))
    place = file.index(b"Exif\0\0") + 6 + 8
    file[place : place + 2] = b"\xff\xff"  # an EXIF table of 65,535 entries, most of them beyond the file
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert images.decode(bytes(file)).shape == blocks().shape
        images.header(bytes(file))
    assert not caught


def test_threads_leave_the_warning_filters_as_they_were():
    before = list(warnings.filters)
    file = corrupt.encode(Image.fromarray(blocks()), "JPEG")
    threads = [threading.Thread(target=lambda: [images.decode(file) for _ in range(30)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_come_back_exactly(format, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    options = {"lossless": True} if format == "WEBP" else {}
    file = corrupt.encode(Image.fromarray(noise), format, **options)
    (tmp_path / "picture.jpg").write_bytes(file)  # the name says nothing
    for source in (file, tmp_path / "picture.jpg", str(tmp_path / "picture.jpg")):
        decoded = images.decode(source)
        np.testing.assert_array_equal(decoded, noise)
        assert decoded.dtype == np.uint8
        assert decoded.flags.c_contiguous
        assert decoded.flags.writeable


def test_one_bit_and_grey_and_palette_keep_their_values():
    grey = np.random.default_rng(0).integers(0, 256, (9, 11), dtype=np.uint8)
    bits = grey > 127
    palette = Image.fromarray(blocks(2)).quantize(6)
    cases = [
        (corrupt.encode(Image.fromarray(grey), "PNG"), grey[..., None].repeat(3, 2)),
        (corrupt.encode(Image.fromarray(bits), "PNG"), bits[..., None].repeat(3, 2) * np.uint8(255)),
        (
            corrupt.encode(Image.fromarray(bits), "TIFF", compression="group4"),
            bits[..., None].repeat(3, 2) * np.uint8(255),
        ),
        (corrupt.encode(palette, "PNG"), blocks(2)),
        (corrupt.encode(palette, "GIF"), blocks(2)),
    ]
    for file, expected in cases:
        np.testing.assert_array_equal(images.decode(file), expected)


def test_transparency_is_laid_over_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[..., 0] = 100
    rgba[..., 3] = [[0, 51, 255]] * 2
    expected = [[255, 255, 255], [224, 204, 204], [100, 0, 0]]  # 100 * a + 255 * (1 - a), a = 0, 0.2, 1
    for format in ("PNG", "TIFF"):
        decoded = images.decode(corrupt.encode(Image.fromarray(rgba), format))
        assert np.abs(decoded[0].astype(int) - expected).max() <= 1

    la = np.array([[[0, 0], [0, 255]]], np.uint8)
    np.testing.assert_array_equal(images.decode(corrupt.encode(Image.fromarray(la, "LA"), "PNG"))[0, :, 0], [255, 0])
    key = corrupt.encode(Image.fromarray(blocks(2)), "PNG", transparency=(255, 0, 0))
    assert (images.decode(key)[:2, :2] == 255).all()
    palette = Image.fromarray(blocks(2)).quantize(6)
    transparent = corrupt.encode(palette, "PNG", transparency=palette.getpixel((0, 0)))
    np.testing.assert_array_equal(images.decode(transparent)[0, ::2], [[255] * 3, [0, 255, 0], [0, 0, 255]])


def test_cmyk_jpeg_is_not_inverted():
    file = corrupt.encode(Image.fromarray(blocks()).convert("CMYK"), "JPEG", quality=95)
    middles = images.decode(file)[8::16, 8::16].astype(int)
    assert np.abs(middles - TILES).max() < 16


@pytest.mark.parametrize(("top", "scale"), [(255, 255), (1000, 1023), (4095, 4095), (16383, 16383), (65535, 65535)])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_deep_grey_is_scaled_by_its_depth_and_never_clipped(top, scale, format):
    ramp = np.linspace(0, top, 256).astype(np.uint16).reshape(16, 16)
    decoded = images.decode(corrupt.encode(Image.fromarray(ramp), format))
    np.testing.assert_allclose(decoded[..., 0], ramp * (255 / scale), atol=0.5)
    assert (decoded == decoded[..., :1]).all()


def test_sixteen_bit_copy_of_an_eight_bit_image_is_that_image():
    grey = np.random.default_rng(0).integers(0, 256, (9, 11), dtype=np.uint8)
    grey[0, 0] = 255
    file = corrupt.encode(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    np.testing.assert_array_equal(images.decode(file)[..., 1], grey)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=2, max_size=40))
def test_float_scaling_keeps_order_and_uses_the_range(values):
    array = np.array([values], np.float32)
    scaled = images.to_uint8(array)
    order = np.argsort(array[0], kind="stable")
    assert (np.diff(scaled[0, order].astype(int)) >= 0).all()
    unit = array.min() >= 0 and array.max() <= 1
    if not unit and array.min() < array.max():
        assert (scaled.min(), scaled.max()) == (0, 255)


def test_nan_pixels_become_the_darkest_and_only_nan_is_refused():
    values = np.array([[np.nan, -1.0, np.inf, 3.0]], np.float32)
    np.testing.assert_array_equal(images.to_uint8(values), [[0, 0, 0, 255]])
    file = corrupt.encode(Image.fromarray(values), "TIFF")
    np.testing.assert_array_equal(images.decode(file)[0, :, 0], [0, 0, 0, 255])
    with pytest.raises(BadSample, match="finite"):
        images.to_uint8(np.full((2, 2), np.nan, np.float32))


@pytest.mark.parametrize("reduced", [1, 2, 4, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"comment": b"\xff\xc0 no frame"}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_are_pillows_to_the_last_bit_at_every_scale(mode, options, reduced):
    image = Image.fromarray(blocks(48)).resize((149, 101), Image.Resampling.BICUBIC).convert(mode)
    file = corrupt.encode(image, "JPEG", **options)
    expected = Image.open(io.BytesIO(file))
    expected.draft(None, (149 // reduced, 101 // reduced))
    decoded = images.decode(file, shortest=101 // reduced)
    np.testing.assert_array_equal(decoded, np.asarray(expected.convert("RGB")))
    fewest = 149 * 101 // reduced**2
    np.testing.assert_array_equal(images.decode(file, fewest=fewest), np.asarray(expected.convert("RGB")))
    assert decoded.flags.writeable
    assert decoded.flags.c_contiguous


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_counts(format):
    first, second = Image.fromarray(blocks(4)), Image.fromarray(blocks(4)[::-1].copy())
    lossless = {"lossless": True} if format == "WEBP" else {}
    file = corrupt.encode(first, format, save_all=True, append_images=[second], **lossless)
    np.testing.assert_array_equal(images.decode(file), blocks(4))
    assert images.header(file).animated


@pytest.mark.parametrize(
    ("width", "height", "shortest"), [(640, 480, 60), (640, 481, 60), (481, 640, 61), (97, 3000, 96)]
)
def test_reduced_decoding_stays_above_the_needed_size(width, height, shortest):
    gradient = np.linspace(0, 255, width, dtype=np.uint8)[None, :, None] * np.ones((height, 1, 3), np.uint8)
    file = corrupt.encode(Image.fromarray(gradient), "JPEG")
    decoded = images.decode(file, shortest=shortest)
    factor = round(min(height, width) / min(decoded.shape[:2]))
    assert min(decoded.shape[:2]) >= shortest
    assert factor in (1, 2, 4, 8)
    assert factor == 8 or min(height, width) // (2 * factor) < shortest
    expected = np.asarray(Image.fromarray(gradient).reduce(factor)).astype(int)
    assert np.abs(decoded.astype(int) - expected).mean() < 2  # the same picture, only smaller


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9])
def test_cut_files_are_called_truncated(format, fraction):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    if format == "TIFF":
        options = {"compression": "tiff_lzw"}
    file = corrupt.encode(Image.fromarray(noise), format, **options)
    with pytest.raises(BadSample, match=r"^truncated|^damaged TIFF"):  # a cut TIFF may have lost its directory
        images.decode(file[: int(len(file) * fraction)])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_damage_gives_an_image_or_a_reason(data):
    format = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]))
    frames = {"save_all": True, "append_images": [Image.fromarray(blocks(8)[::-1].copy())]}
    file = bytearray(corrupt.encode(Image.fromarray(blocks(8)), format, **(frames if format == "GIF" else {})))
    for _ in range(data.draw(st.integers(1, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            images.header(bytes(file), max_pixels=10**6)
            decoded = images.decode(bytes(file), max_pixels=10**6)
        except BadSample as bad:
            reason = str(bad)
        else:
            reason = "fine" if decoded.dtype == np.uint8 and decoded.shape[2:] == (3,) else ""
    assert reason
    assert not caught


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "empty file"),
        (b"\0" * 5000, "only zero bytes"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\n\n<html lang='en'>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa", "git lfs pull"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\x03\x04\x14\x00", "zip"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0", "video"),
        (b'{"error": 404}', "JSON"),
        (b"just words", "text"),
        ("Grüße aus dem Süden, liebe Leute, kommt bald".encode(), "text"),
        (b"BMW is a maker of cars and of motorcycles", "text"),
        (bytes(range(128, 255)), "unknown data"),
    ],
)
def test_what_is_no_image_is_named(head, words):
    with pytest.raises(BadSample, match=words):
        images.decode(head)


def test_giant_images_are_refused_from_the_header():
    with pytest.raises(BadSample, match="60000 x 60000 pixels, more than max_pixels=100000000"):
        images.decode(corrupt.giant_png())
    small = corrupt.encode(Image.fromarray(blocks()), "WEBP")
    with pytest.raises(BadSample, match="48 x 32"):
        images.decode(small, max_pixels=48 * 32 - 1)
    assert images.decode(small, max_pixels=48 * 32).shape == blocks().shape


def test_the_limit_on_pixels_is_ours_and_not_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for format in ("JPEG", "PNG", "GIF", "BMP"):
        assert images.decode(corrupt.encode(Image.fromarray(blocks()), format)).shape == blocks().shape


def test_zero_sized_image_is_refused():
    file = corrupt.giant_png(0)
    with pytest.raises(BadSample):
        images.decode(file)


def test_missing_file_is_an_oserror(tmp_path):
    with pytest.raises(FileNotFoundError):
        images.decode(tmp_path / "absent.jpg")


def test_good_kinds_decode_and_bad_kinds_do_not(tmp_path: Path):
    written = corrupt.write_images(tmp_path, good=16, bad=8, seed=3)
    assert set(written.values()) == set(corrupt.GOOD) | set(corrupt.BAD)
    for path, kind in written.items():
        if kind in corrupt.GOOD:
            assert min(images.decode(path).shape[:2]) >= 40, kind
        else:
            with pytest.raises(BadSample):
                images.decode(path)


def test_decoding_agrees_with_pillows_own_route(shared):
    with zipfile.ZipFile(shared / "data/clothing10/clothing10.zip") as archive:
        for name in archive.namelist()[::150]:
            file = archive.read(name)
            expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB"))
            np.testing.assert_array_equal(images.decode(file), expected)
