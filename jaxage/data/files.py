"""Bytes of images by their path: from a folder, or from inside a tar file that stays packed."""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from jaxage.data.records import DataError

ReadImage = Callable[[str], bytes]
"""Gives a file's bytes by its relative path; safe to call from many threads.

Raises FileNotFoundError for a path that does not exist, and Refused for a link, a folder or a device.
"""


class Refused(OSError):
    """A link, or something else that is no regular file: it is never read."""


def path_fault(path: str) -> str | None:
    """Why a path cannot name an image below the data's root, or None if it can. The file need not exist."""
    if not path.strip() or PurePosixPath(path) == PurePosixPath():
        return "is empty"
    if "\0" in path:
        return "holds a NUL character"
    if any(character < " " for character in path):
        return "holds a control character"
    if "\\" in path:
        return "holds a backslash: separate folders by /"
    if path.startswith("/") or PureWindowsPath(path).drive:
        return "is absolute: it must be relative to the images' folder"
    if ".." in path.split("/"):
        return "leads upwards by .."
    return None


def image_root(csv_path: Path) -> Path:
    """Where the images of a CSV file are: the `.tar` of the same name beside it if there is one, else its folder."""
    tar = csv_path.with_suffix(".tar")
    return tar if tar.is_file() else csv_path.parent


@contextmanager
def open_files(root: Path) -> Iterator[ReadImage]:
    """A function that reads the files in a folder or in a tar file; it works until the context ends.

    Args:
        root: A folder, or an uncompressed tar file, which is read in place.

    Raises:
        DataError: if the tar file is compressed, cut short, or no tar file.
    """
    if root.is_dir():
        yield partial(_read_file, root, cache(partial(_is_inside, root)))
    else:
        members = _index(root)
        with root.open("rb") as file:
            yield partial(_read_member, file.fileno(), members)


def _read_file(root: Path, is_inside: Callable[[Path], bool], path: str) -> bytes:
    file = root / path
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise Refused("a link, not a file" if stat.S_ISLNK(mode) else "not a regular file")
    if not is_inside(file.parent):
        raise Refused("in a folder that is a link")
    return file.read_bytes()


def _is_inside(root: Path, folder: Path) -> bool:
    """Whether no folder between the root and this one is a link."""
    return folder.resolve() == root.resolve() / folder.relative_to(root)


def _index(tar: Path) -> dict[str, tuple[int, int] | None]:
    """Offset and length of the data of every regular member; None for links and everything else."""
    members: dict[str, tuple[int, int] | None] = {}
    try:
        with tarfile.open(tar, "r:") as file:
            while (member := file.next()) is not None:
                plain = member.isreg() and not member.issparse()
                members[str(PurePosixPath(member.name))] = (member.offset_data, member.size) if plain else None
                file.members.clear()  # type: ignore[attr-defined]  # or it keeps every header
    except (tarfile.TarError, OSError) as error:
        raise DataError(
            f"{tar}: cannot be read as an uncompressed tar file ({error}): copy it again, or unpack it and remove it"
        ) from error
    return members


def _read_member(file: int, members: dict[str, tuple[int, int] | None], path: str) -> bytes:
    if path not in members:
        raise FileNotFoundError(path)
    place = members[path]
    if place is None:
        raise Refused("a link or no regular file")
    offset, size = place
    data = os.pread(file, size, offset)
    if len(data) != size:
        raise OSError("cut short: the tar file ends before it")
    return data
