"""Every image looked at once, before anything is made of it."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from jaxage.data.decode import ImageError, decode_image, strict_warnings
from jaxage.data.files import Read, Refused, path_fault
from jaxage.data.parallel import in_order
from jaxage.data.prepare.duplicates import fingerprint

STEPS = ("safe path", "found", "image", "no copy")
"""What an image must pass, in this order: its path leads to a plain file below the root, the file is there and can be
read, it decodes to a picture of something, and no other file has its bytes.
"""

_SIZE = 64


class InvalidImage(NamedTuple):
    """Why an image is not used; `step` is that of `STEPS` which it failed."""

    path: str
    step: str
    reason: str


class ValidImage(NamedTuple):
    """An image that can be used: SHA-256 and number of its bytes, and its fingerprint."""

    sha256: str
    size: int
    fingerprint: np.ndarray


def verify_images(
    read: Read, paths: Sequence[str], min_side: int, pool: ThreadPoolExecutor
) -> list[ValidImage | InvalidImage]:
    """What is found at each path, in their order; an image with a side below `min_side` pixels is a fault."""
    with strict_warnings():
        return list(in_order(pool, partial(_verify, read, min_side), paths, "checking"))


def _verify(read: Read, min_side: int, path: str) -> ValidImage | InvalidImage:
    if fault := path_fault(path):
        return InvalidImage(path, "safe path", fault)
    try:
        data = read(path)
        pixels = decode_image(data, _SIZE, min_side)
    except Refused as error:
        return InvalidImage(path, "safe path", str(error))
    except FileNotFoundError:
        return InvalidImage(path, "found", "missing")
    except OSError as error:
        return InvalidImage(path, "found", error.strerror or str(error))
    except ImageError as error:
        return InvalidImage(path, "image", str(error))
    return ValidImage(hashlib.sha256(data).hexdigest(), len(data), fingerprint(pixels))
