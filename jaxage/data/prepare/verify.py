"""Check every image once, before anything is made of it."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from jaxage.data.archives import Refused
from jaxage.data.decode import ImageError, decode_image, strict_warnings
from jaxage.data.files import ReadImage, path_fault
from jaxage.data.parallel import in_order
from jaxage.data.prepare.duplicates import Fingerprint, fingerprint

STEPS = ("safe path", "found", "image", "no copy")
"""What an image must pass, in this order: its path leads to a regular file below the root; the file exists and can be
read; it decodes to an image that is not blank; no other file has the same bytes.
"""

_SIZE = 64


class InvalidImage(NamedTuple):
    """An image that is not used: the step of `STEPS` that it failed, and why."""

    path: str
    step: str
    reason: str


class ValidImage(NamedTuple):
    """An image that can be used: the SHA-256 and the number of its bytes, and its fingerprint."""

    sha256: str
    size: int
    fingerprint: Fingerprint


def verify_images(
    read: ReadImage, paths: Sequence[str], min_side: int, pool: ThreadPoolExecutor
) -> list[ValidImage | InvalidImage]:
    """Check the image at each path; the results are in the order of the paths.

    Args:
        read: Reads the images.
        paths: Their paths.
        min_side: The smallest height and width in pixels.
        pool: The threads that check.
    """
    with strict_warnings():
        return list(in_order(pool, partial(_verify, read, min_side), paths, "checking"))


def _verify(read: ReadImage, min_side: int, path: str) -> ValidImage | InvalidImage:
    if fault := path_fault(path):
        return InvalidImage(path, "safe path", fault)
    try:
        data = read(path)
        pixels = decode_image(data, _SIZE, min_side)
    except Refused as error:
        return InvalidImage(path, "safe path", str(error))
    except OSError as error:
        return InvalidImage(path, "found", error.strerror or str(error))
    except ImageError as error:
        return InvalidImage(path, "image", str(error))
    return ValidImage(hashlib.sha256(data).hexdigest(), len(data), fingerprint(pixels))
