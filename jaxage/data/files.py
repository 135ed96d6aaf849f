"""Bytes of images by their path: from a folder, or from inside an archive that stays packed."""

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from itertools import filterfalse
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from jaxage.data.archives import ENDINGS, Archive, Missing, Refused, open_archive
from jaxage.data.file_index import Stamp
from jaxage.data.records import DataError
from jaxage.utils.text import quoted

ReadImage = Callable[[str], bytes]
"""Gives a file's bytes by its relative path; safe to call from many threads.

A file whose name differs only by its Unicode form (NFC, NFD) or by the case of its ending is found too, if there is
one. Raises Missing for a path that does not exist, and Refused for a link, a folder or a device.
"""

NamesIn = Callable[[Path], dict[str, str]]


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
    if "://" in path:
        return "is an address: download the image, and give its path"
    if path.startswith("/") or PureWindowsPath(path).drive:
        return "is absolute: it must be relative to the images' folder"
    if ".." in path.split("/"):
        return "leads upwards by .."
    return None


def image_root(csv_path: Path, first: str) -> Path:
    """Where the images of a CSV file are: in the archive of the same name beside it, if there is one, or in its folder.

    A CSV that is a link lies in both folders: in its target's only if its own has no such archive and no first image.

    Args:
        csv_path: The CSV file.
        first: The path of its first image.

    Raises:
        DataError: if there are two such archives.
    """
    places = (csv_path, csv_path.resolve())
    for place in places:
        found = _archives_of(place)
        if len(found) > 1:
            names = " and ".join(quoted(path.name) for path in found)
            raise DataError(f"{names} are both beside {quoted(place)}: remove one, or give it another name")
        if found:
            return found[0]
        if _spelled(place.parent, first, _names_in).is_file():
            return place.parent
    return places[0].parent


class Files(NamedTuple):
    """The files in a folder or an archive.

    read: gives the bytes of one. paths: lists all regular files, sorted, without hidden ones and `__MACOSX` folders.
    stamp: the size and the time of change of one, or of the archive; None where only reading can tell.
    """

    read: ReadImage
    paths: Callable[[], list[str]]
    stamp: Callable[[str], Stamp | None]


@contextmanager
def open_files(root: Path) -> Iterator[Files]:
    """The files in a folder or an archive; they can be read until the context ends.

    Args:
        root: A folder, or a tar, tar.gz, tar.bz2, tar.xz or zip file, which is read in place.

    Raises:
        DataError: if there is no such file or folder, and as `open_archive` does.
    """
    if root.is_dir():
        read = partial(_read_file, root, cache(partial(_is_inside, root)), cache(_names_in))
        paths = cache(lambda: sorted(_walk(root)))
        yield Files(
            partial(_read_or_suggest, read, cache(lambda: _by_base_name(paths()))), paths, partial(_stamp, str(root))
        )
    elif root.is_file():
        with open_archive(root) as archive:
            read = partial(_read_member, archive, cache(partial(_by_spelling, archive.names)))
            paths = cache(lambda: sorted(filter(archive.is_file, filterfalse(_is_hidden, archive.names))))
            whole = _stamp(str(root.resolve().parent), root.resolve().name)
            yield Files(
                partial(_read_or_suggest, read, cache(lambda: _by_base_name(archive.names))), paths, lambda _: whole
            )
    else:
        raise DataError(f"{quoted(root)}: there is no such file or folder")


def _stamp(root: str, path: str) -> Stamp | None:
    try:
        found = os.lstat(f"{root}/{path}")
    except (OSError, ValueError):
        return None
    return Stamp(found.st_size, found.st_ctime_ns) if stat.S_ISREG(found.st_mode) else None


def _archives_of(csv_path: Path) -> list[Path]:
    names = {csv_path.stem + ending for ending in ENDINGS}
    beside = os.listdir(csv_path.parent) if csv_path.parent.is_dir() else ()  # noqa: PTH208
    found = (csv_path.parent / name for name in sorted(beside) if _lower_ending(name, csv_path.stem) in names)
    return [path for path in found if path.is_file()]


def _lower_ending(name: str, stem: str) -> str:
    return stem + name[len(stem) :].lower() if name.startswith(stem) else name


def _read_or_suggest(read: ReadImage, names: Callable[[], dict[str, str]], path: str) -> bytes:
    try:
        return read(path)
    except FileNotFoundError:
        similar = names().get(_base_name(path)) or names().get(_base_name(PurePosixPath(path).stem))
        raise Missing("missing" + (f", but there is {quoted(similar)}" if similar else "")) from None


def _by_base_name(names: Iterable[str]) -> dict[str, str]:
    """The first path of each base name, with and without its ending."""
    found: dict[str, str] = {}
    for name in names:
        found.setdefault(_base_name(name), name)
        found.setdefault(_base_name(PurePosixPath(name).stem), name)
    return found


def _base_name(path: str) -> str:
    """The last part of a path, without case, blanks and what cannot be seen."""
    name = unicodedata.normalize("NFKC", path.replace("\\", "/").rpartition("/")[2]).casefold()
    return "".join(character for character in name if character.isprintable() and not character.isspace())


def _read_file(root: Path, is_inside: Callable[[Path], bool], names: NamesIn, path: str) -> bytes:
    file = _spelled(root, path, names)
    mode = file.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise Refused(
            "a link, not a file: put a copy of the file there" if stat.S_ISLNK(mode) else "not a regular file"
        )
    if not is_inside(file.parent):
        raise Refused("in a folder that is a link: put the table beside the folder that the link leads to")
    return file.read_bytes()


def _is_inside(root: Path, folder: Path) -> bool:
    """Whether no folder between the root and this one is a link."""
    return folder.resolve() == root.resolve() / folder.relative_to(root)


def _spelled(root: Path, path: str, names: NamesIn) -> Path:
    """The file that the path names, as it is spelled on the disk; the path itself if there is none."""
    file = root / path
    if os.path.lexists(file):
        return file
    place = root
    for part in PurePosixPath(path).parts:
        found = part if os.path.lexists(place / part) else names(place).get(_spelling(part))
        if found is None:
            return file
        place = place / found
    return place


def _names_in(folder: Path) -> dict[str, str]:
    """Names in a folder by their spelling; none if it cannot be listed."""
    try:
        return _by_spelling(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return {}


def _read_member(archive: Archive, names: Callable[[], dict[str, str]], path: str) -> bytes:
    name = path if path in archive.names else names().get(_spelling(path))
    if name is None:
        raise FileNotFoundError(path)
    return archive.read(name)


def _by_spelling(names: Iterable[str]) -> dict[str, str]:
    """Names by their spelling, without those that are spelled like another one."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        found[_spelling(name)].append(name)
    return {spelling: alike[0] for spelling, alike in found.items() if len(alike) == 1}


def _spelling(path: str) -> str:
    """What two names have in common that differ by their Unicode form, or by the case of the ending."""
    stem, dot, ending = unicodedata.normalize("NFC", path).rpartition(".")
    return stem + dot + ending.lower() if dot and "/" not in ending else stem + dot + ending


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in files:
            path = Path(folder, name)
            if not _is_hidden(name) and path.is_file() and not path.is_symlink():
                yield path.relative_to(root).as_posix()


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))
