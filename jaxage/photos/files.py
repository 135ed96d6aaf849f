"""Photo files: which ones are meant, and their pixels."""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

from jaxage.data.decode import ImageError, open_image
from jaxage.data.formats import image_endings


def read_photo(path: str) -> Image.Image:
    """The pixels of a photo, RGB, upright.

    Raises:
        ImageError: if the file cannot be read or is no photo; the message is the short reason.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise ImageError("a folder without an image")
        if file.exists() and not file.is_file():
            raise ImageError("not a regular file")  # reading a pipe would wait for ever
        data = file.read_bytes()
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageError(getattr(error, "strerror", None) or str(error)) from error
    return open_image(data)


def read_names(names: Iterable[str]) -> list[str]:
    """The names, with the lines of stdin in place of "-"; NUL may separate them too, as in `find -print0`."""
    read: list[str] = []
    for name in names:
        if name != "-":
            read.append(name)
            continue
        text = os.fsdecode(sys.stdin.buffer.read())
        read += [line for line in (text.split("\0") if "\0" in text else text.splitlines()) if line.strip()]
    return read


def list_photos(paths: Iterable[str]) -> list[str]:
    """Files as they are named, and of each folder all images in it and below it, in order.

    Hidden files and folders are left out, and so are links to folders. Images of a folder are known by their endings.

    Args:
        paths: Files and folders. What does not exist, and a folder without an image, stays in the list as it is:
            `read_photo` says what is wrong with it.
    """
    photos: list[str] = []
    for path in paths:
        photos += list(_walk(path)) or [path]
    return photos


def _walk(folder: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(image_endings()):
                yield os.path.join(place, name)  # noqa: PTH118
