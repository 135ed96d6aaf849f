"""Bytes of an image file to a checked square of RGB pixels."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, ImageStat, UnidentifiedImageError

from jaxage.types import UserError

# Not all that Pillow reads: for EPS it runs a program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000")
MIN_SIDE = 32
MAX_ASPECT = 4
MIN_SPREAD = 2.0

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageError(ValueError):
    """An image that cannot be used; the message is the short reason."""


@contextmanager
def strict_warnings() -> Iterator[None]:
    """What `decode_image` needs around it, once for all threads: oddities pass in silence, bombs are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_image(data: bytes, size: int, min_side: int = MIN_SIDE) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The first frame as RGB: upright by EXIF, shorter side resized to `size` (bilinear, antialiased), centre crop.

    Resizing is Pillow's and both roundings are torchvision's. Grey and palette images become RGB, 16-bit gray is
    divided by 257, CMYK is converted by Pillow without color profiles, transparent parts lie on white. EXIF data that
    cannot be read are ignored.

    Raises ImageError for what is no image in one of `FORMATS`; is truncated or corrupt; has more than Pillow's
    `MAX_IMAGE_PIXELS`, a side below `min_side`, or one more than `MAX_ASPECT` times the other; or is blank: the
    standard deviation of every channel of the result is below `MIN_SPREAD` of 255 levels. Executes and writes nothing.
    Safe to call from many threads.
    """
    if not data:
        raise ImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_shape(*image.size, min_side)
            image.load()
            square = _square(_to_rgb(_upright(image)), size)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("not an image in a known format") from None
    except _BOMBS:
        raise ImageError("too many pixels (decompression bomb)") from None
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise ImageError(f"truncated or corrupt ({str(error) or type(error).__name__})") from error
    if max(ImageStat.Stat(square).stddev) < MIN_SPREAD:
        raise ImageError("blank")
    return np.array(square)


def _check_shape(width: int, height: int, min_side: int) -> None:
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError
    if min(width, height) < min_side:
        raise ImageError(f"too small ({width}x{height}, at least {min_side} pixels a side)")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"too long ({width}x{height}, sides at most {MAX_ASPECT}:1)")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data are no reason to lose a face
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # convert() would clip at 255
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("gray values outside 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode == "F":
        raise ImageError("floating-point pixels")
    return image.convert("RGB")


def _square(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    short = min(width, height)
    width, height = size * width // short, size * height // short
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def decode_file(path: Path, size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """`decode_image` of a file. Raises UserError naming it if it cannot be used."""
    try:
        return decode_image(path.read_bytes(), size)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ImageError as error:
        raise UserError(f"{path}: {error}") from error
