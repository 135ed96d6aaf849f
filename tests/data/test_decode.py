import io
import struct
import warnings
import zlib
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from jaxage.data.decode import ImageError, decode_image
from jaxage.types import Interpolation


def scene(width: int = 64, height: int = 64) -> Image.Image:
    """No two corners alike, smooth enough for JPEG."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    pixels = np.stack([200 * x + 20, 180 * y + 40, 120 * x * y + 60], -1)
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def close(a: np.ndarray, b: Image.Image, within: float) -> None:
    np.testing.assert_allclose(a.astype(int), np.asarray(b, int), atol=within)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats(form: str) -> None:
    pixels = decode_image(encode(scene(), form), 64)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    close(pixels, scene(), 0)


@pytest.mark.parametrize(("form", "within"), [("JPEG", 8), ("WEBP", 12), ("GIF", 40), ("JPEG2000", 2)])
def test_other_formats(form: str, within: float) -> None:
    close(decode_image(encode(scene(), form), 64), scene(), within)


@pytest.mark.parametrize(
    ("shape", "resized", "corner"),
    [((96, 96), (40, 40), (0, 0)), ((120, 60), (80, 40), (20, 0)), ((61, 100), (40, 65), (0, 12))],
)
def test_resize_and_crop_are_pillows(shape: Any, resized: Any, corner: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (shape[1], shape[0], 3), np.uint8))
    left, top = corner
    expected = image.resize(resized, Image.Resampling.BILINEAR).crop((left, top, left + 40, top + 40))
    close(decode_image(encode(image, "PNG"), 40), expected, 0)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_interpolation_and_crop(interpolation: Interpolation) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (100, 61, 3), np.uint8)
    image = Image.fromarray(pixels)
    resized = image.resize((46, 75), Image.Resampling[interpolation.upper()])  # 40 / 0.875 is 45.7
    found = decode_image(encode(image, "PNG"), 40, interpolation=interpolation, crop=0.875)
    close(found, resized.crop((3, 18, 43, 58)), 0)


@pytest.mark.parametrize("crop", [0.0, 1.01, -0.5])
def test_a_crop_that_is_none(crop: float) -> None:
    with pytest.raises(ValueError, match="crop must lie in"):
        decode_image(encode(scene(), "PNG"), 40, crop=crop)


def test_small_images_grow() -> None:
    close(decode_image(encode(scene(32, 32), "PNG"), 96), scene(32, 32).resize((96, 96), Image.Resampling.BILINEAR), 0)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_orientation(form: str) -> None:
    seen = set()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(scene(64, 48), form, exif=exif)
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert upright.size == ((64, 48) if orientation < 5 else (48, 64))
        left, top = (8, 0) if orientation < 5 else (0, 8)
        pixels = decode_image(data, 48)
        close(pixels, upright.crop((left, top, left + 48, top + 48)).convert("RGB"), 0)
        seen.add(pixels.tobytes())
    assert len(seen) == 8


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0MM\0*\0\0"])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        close(decode_image(encode(scene(), "JPEG", exif=exif), 64), scene(), 8)


def test_grey() -> None:
    gray = scene().convert("L")
    for form in ("PNG", "JPEG"):
        close(decode_image(encode(gray, form), 64), gray.convert("RGB"), 8)
    two = scene().convert("1")
    close(decode_image(encode(two, "PNG"), 64), two.convert("RGB"), 0)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_not_clipped(form: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (256, 1))
    pixels = decode_image(encode(Image.fromarray(ramp), form), 256)
    np.testing.assert_allclose(pixels[:, :, 0].astype(int), np.tile(np.arange(256), (256, 1)), atol=1)
    assert (pixels[:, :, 0] == pixels[:, :, 1]).all()


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_fewer_bits_in_a_sixteen_bit_file_are_as_bright(bits: int) -> None:
    ramp = np.tile(np.linspace(0, 2**bits - 1, 256).astype(np.uint16), (256, 1))
    pixels = decode_image(encode(Image.fromarray(ramp), "PNG"), 256)
    np.testing.assert_allclose(pixels[:, :, 0].astype(int), np.tile(np.arange(256), (256, 1)), atol=1)


def test_values_without_a_known_scale_are_refused() -> None:
    ramp = np.tile(np.linspace(0, 1e6, 64), (64, 1))
    for dtype in (np.int32, np.float32):
        with pytest.raises(ImageError, match=r"outside 16 bits|floating-point"):
            decode_image(encode(Image.fromarray(ramp.astype(dtype)), "TIFF"), 64)


def test_cmyk() -> None:
    close(decode_image(encode(scene().convert("CMYK"), "JPEG", quality=95), 64), scene(), 10)


def test_transparent_parts_are_white() -> None:
    mask = Image.new("L", (64, 64), 255)
    mask.paste(0, (0, 0, 32, 64))
    face = scene()
    face.putalpha(mask)
    white = scene()
    white.paste((255, 255, 255), (0, 0, 32, 64))
    for form in ("PNG", "TIFF"):
        close(decode_image(encode(face, form), 64), white, 0)
    close(decode_image(encode(face.convert("LA"), "PNG"), 64), white.convert("L").convert("RGB"), 1)


@pytest.mark.parametrize("form", ["PNG", "GIF"])
def test_palette_with_transparency(form: str) -> None:
    indices = np.zeros((64, 64), np.uint8)
    indices[:, 32:], indices[32:] = 1, 2
    image = Image.frombytes("P", (64, 64), indices.tobytes())
    image.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    pixels = decode_image(encode(image, form, transparency=2), 64)
    assert pixels[0, 0].tolist() == [10, 20, 30]
    assert pixels[0, 63].tolist() == [200, 100, 50]
    assert pixels[63, 0].tolist() == [255, 255, 255]


def test_palette_with_partial_transparency() -> None:
    image = Image.frombytes("P", (64, 64), bytes([0, 1] * 2048))
    image.putpalette([0, 0, 0, 255, 0, 0])
    pixels = decode_image(encode(image, "PNG", transparency=bytes([128, 255])), 64)
    assert pixels[0, 0].tolist() == [127, 127, 127]
    assert pixels[0, 1].tolist() == [255, 0, 0]


def png(width: int, height: int, body: bytes, bits: int = 8) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_bomb_is_not_unpacked(side: int, action: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(ImageError, match="decompression bomb"):
            decode_image(png(side, side, b""), 64)


def rgb_of_12_bits() -> bytes:
    """A PNG of 16 bits with values up to 4095, of which Pillow keeps the upper 8 bits."""
    values = (np.asarray(scene(), np.uint16) * 16).astype(">u2")
    body = b"".join(b"\0" + row.tobytes() for row in values)
    return png(64, 64, body, bits=16)


BROKEN = {
    "zero bytes": (b"", "empty file"),
    "text": (b"path,age\na.jpg,3\n", "not an image"),
    "html": (b"\r\n<!DOCTYPE html><html>404</html>", "an HTML page, not an image: download it again"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "run git lfs pull"),
    "annex": (b"/annex/objects/MD5E-s9--d41d8cd9.jpg\n", "run git annex get"),
    "svg": (b'<svg xmlns="x"/>', "convert it to PNG"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0heicmif1" + b"\0" * 200, "pillow-heif|truncated or corrupt"),
    "video": (b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + b"\0" * 200, "convert it to JPEG"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/tmp/x) (w) file\n", "not an image"),
    "half a jpeg": (encode(scene(), "JPEG")[:600], "truncated or corrupt"),
    "head of a jpeg": (encode(scene(), "JPEG")[:20], "not an image|truncated or corrupt"),
    "half a png": (encode(scene(), "PNG")[:200], "truncated or corrupt"),
    "png without pixels": (png(64, 64, b""), "truncated or corrupt"),
    "black": (encode(Image.new("RGB", (64, 64)), "JPEG"), "^blank$"),
    "one colour": (encode(Image.new("RGB", (64, 64), (255, 0, 40)), "PNG"), "^blank$"),
    "transparent": (encode(Image.new("RGBA", (64, 64), (9, 9, 9, 0)), "PNG"), "^fully transparent$"),
    "12 bits in 16": (rgb_of_12_bits(), "almost black: are its values of 12 bits stored in 16"),
    "small": (encode(scene(31, 64), "PNG"), "too small .31x64"),
    "dot": (encode(scene(1, 1), "PNG"), "too small"),
    "strip": (encode(scene(161, 40), "PNG"), "too long .161x40"),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data, 48)


def test_almost_blank() -> None:
    noise = np.random.default_rng(0).normal(128, 1, (64, 64, 3)).round().astype(np.uint8)
    with pytest.raises(ImageError, match="blank"):
        decode_image(encode(Image.fromarray(noise), "PNG"), 64)
    faint = (np.asarray(scene(), float) / 16 + 100).astype(np.uint8)
    assert decode_image(encode(Image.fromarray(faint), "PNG"), 64).std() > 2


def test_at_the_limits() -> None:
    assert decode_image(encode(scene(32, 128), "PNG"), 40).shape == (40, 40, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "JPEG2000"])
@settings(max_examples=40)
@given(data=st.data())
def test_no_damage_raises_anything_else(form: str, data: st.DataObject) -> None:
    whole = encode(scene(40, 36), form)
    broken = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4)) if broken else 0):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ImageError):
        assert decode_image(bytes(broken), 32).shape == (32, 32, 3)
