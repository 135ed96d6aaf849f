"""From the bytes of an image file to a checked square of RGB pixels."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from jaxage.data.formats import image_formats, unknown_kind
from jaxage.types import InputContract, Interpolation

MIN_SIDE = 32
MAX_ASPECT = 4
MIN_SPREAD = 2.0
MIN_WHITE = 32
_LEVELS = np.arange(256)
_GRAY_BITS = (8, 10, 12, 16)

FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
SizeCheck = Callable[[int, int], None]

_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)


class ImageError(ValueError):
    """An image that cannot be used; the message is the short reason."""


class UnknownFormatError(ImageError):
    """A file that is no image in a known format."""


class TooManyPixelsError(ImageError):
    """An image with more pixels than Pillow's limit."""


@contextmanager
def strict_warnings() -> Iterator[None]:
    """Set warnings for `decode_image`, once for all threads: odd files are ignored, decompression bombs are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def decode_image(
    data: bytes, size: int, min_side: int = MIN_SIDE, interpolation: Interpolation = "bilinear", crop: float = 1.0
) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The first frame of an image as a square of RGB pixels, uint8 (size, size, 3).

    The image is turned upright as its EXIF data say, its shorter side is resized to `round(size / crop)`, and the
    central square is cut out. Resizing is Pillow's, antialiased; the longer side is rounded down and the margins are
    rounded as torchvision does. Gray and palette images become RGB, CMYK is converted without color profiles, and
    transparent parts become white. White is the largest value of 8, 10, 12 or 16 bits, whichever are the fewest that
    hold all values of a 16-bit gray image: cameras write 12 bits into 16. EXIF data that cannot be read are ignored.

    Nothing is executed or written. Safe to call from many threads.

    Args:
        data: The bytes of the file, in a format that Pillow reads (see `image_formats`).
        size: Height and width of the result in pixels.
        min_side: The smallest height and width of the file's image in pixels.
        interpolation: Pillow's filter.
        crop: The share of the resized image's shorter side that is kept, above 0 and up to 1.

    Raises:
        ImageError: if this is no image in a known format; is truncated or corrupt; has more pixels than Pillow's
            `MAX_IMAGE_PIXELS`; has a side below `min_side`, or one more than `MAX_ASPECT` times the other; is blank:
            every channel of the result has a standard deviation below `MIN_SPREAD` of 255 levels; or is almost black:
            no level is `MIN_WHITE` or more.
        ValueError: if `crop` lies outside (0, 1].
    """
    if not 0 < crop <= 1:
        raise ValueError(f"crop must lie in (0, 1], got {crop}")
    image = open_image(data, partial(_check_crop, min_side=min_side))
    return square_pixels(image, size, InputContract(interpolation=interpolation, crop=crop))


def open_image(data: bytes, check: SizeCheck | None = None) -> Image.Image:
    """The first frame of an image, RGB, upright as its EXIF data say (see `decode_image` for other modes).

    Args:
        data: The bytes of the file.
        check: Raises ImageError for a width and height in pixels that cannot be used; called before pixels are read.

    Raises:
        ImageError: if this is no image in a known format, is truncated or corrupt, or has more pixels than Pillow's
            `MAX_IMAGE_PIXELS`.
    """
    if not data:
        raise ImageError("empty file")
    try:
        with Image.open(io.BytesIO(data), formats=image_formats()) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError
            if check is not None:
                check(*image.size)
            image.load()
            return _to_rgb(_upright(image))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise UnknownFormatError(unknown_kind(data)) from None
    except _BOMBS:
        raise TooManyPixelsError(
            f"too many pixels (a decompression bomb, or make it smaller than {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} "
            "million)"
        ) from None
    except Exception as error:  # Pillow raises a dozen kinds for broken files
        raise ImageError(f"truncated or corrupt ({str(error) or type(error).__name__})") from error


def square_pixels(image: Image.Image, size: int, contract: InputContract) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The central square of an RGB image as a network takes it. Raises ImageError if it is blank or almost black."""
    square = _square(image, size, contract.interpolation, contract.crop)
    histogram = np.array(square.histogram()).reshape(3, 256)
    mean, mean_square = (histogram @ _LEVELS**power / square.size[0] ** 2 for power in (1, 2))
    if (mean_square - mean**2).max() < MIN_SPREAD**2:
        raise ImageError("blank")
    if not histogram[:, MIN_WHITE:].any():
        raise ImageError("almost black: are its values of 12 bits stored in 16? save it with 8 bits")
    return np.array(square)


def _check_crop(width: int, height: int, min_side: int) -> None:
    if min(width, height) < min_side:
        raise ImageError(f"too small ({width}x{height}, at least {min_side} pixels a side)")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageError(f"too long ({width}x{height}, sides at most {MAX_ASPECT}:1)")


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # exif_transpose would copy it
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data are no reason to lose a face
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # convert() would clip at 255
        values = np.asarray(image).astype(np.int64)
        white = next((2**bits - 1 for bits in _GRAY_BITS if values.max() < 2**bits), 0)
        if values.min() < 0 or not white:
            raise ImageError("gray values outside 16 bits")
        image = Image.fromarray(np.round(values * (255 / white)).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() == (0, 0):
            raise ImageError("fully transparent")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    if image.mode == "F":
        raise ImageError("floating-point pixels: save it with 8 bits")
    return image if image.mode == "RGB" else image.convert("RGB")


def _square(image: Image.Image, size: int, interpolation: Interpolation, crop: float) -> Image.Image:
    width, height = image.size
    short, resized = min(width, height), round(size / crop)
    width, height = resized * width // short, resized * height // short
    image = image.resize((width, height), FILTERS[interpolation])
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))
