"""Files inside an archive that stays packed: tar, compressed tar, and zip."""

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from jaxage.data.records import DataError
from jaxage.utils.text import quoted

ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
"""How the names of the archives end that can be read."""

_COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, NotImplementedError)
_ENCRYPTED = 1


class Missing(FileNotFoundError):
    """A file that does not exist; the message says so, and which file has a similar name."""


class Refused(OSError):
    """A link, or something else that is no regular file: it is never read."""


class Archive(NamedTuple):
    """names: of its members; `is_file` says whether one is a regular file. read: the bytes of one, from any thread."""

    names: Mapping[str, Any]
    is_file: Callable[[str], bool]
    read: Callable[[str], bytes]


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive, known by its content.

    A compressed tar is decompressed into a temporary file, which is gone when the context ends.

    Raises:
        DataError: if the file is none of tar, tar.gz, tar.bz2, tar.xz and zip, is cut short, or is encrypted, and if
            there is no room for the temporary file.
    """
    with path.open("rb") as file:
        if file.read(4) in (b"PK\x03\x04", b"PK\x05\x06"):
            with _explained(path):
                archive = zipfile.ZipFile(file)
            with archive:
                members = _index_zip(path, archive)
                yield Archive(members, lambda name: _is_plain(members[name]), partial(_read_zip, archive, members))
        else:
            with _decompressed(path, file) as tar:
                with _explained(path):
                    places = _index_tar(tar)
                yield Archive(places, lambda name: places[name] is not None, partial(_read_tar, tar.fileno(), places))


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (*_BROKEN, OSError) as error:
        raise DataError(
            f"{quoted(path)} cannot be read as a tar or zip file ({error}): copy it again, or unpack it and remove it"
        ) from error


@contextmanager
def _decompressed(path: Path, file: IO[bytes]) -> Iterator[IO[bytes]]:
    file.seek(0)
    start = file.read(8)
    file.seek(0)
    opened = next((function for magic, function in _COMPRESSED.items() if start.startswith(magic)), None)
    if opened is None:
        yield file
        return
    with tempfile.TemporaryFile() as plain:
        with _explained(path), opened(file) as packed:
            while chunk := packed.read(1 << 20):
                _append(path, plain, chunk)
        plain.seek(0)
        yield plain


def _append(path: Path, plain: IO[bytes], chunk: bytes) -> None:
    try:
        plain.write(chunk)
        plain.flush()
    except OSError as error:
        raise DataError(
            f"{quoted(path)} cannot be decompressed in {tempfile.gettempdir()} ({error.strerror}): set TMPDIR to a "
            "folder with more room, or decompress it yourself"
        ) from error


def _index_tar(tar: IO[bytes]) -> dict[str, tuple[int, int] | None]:
    """Offset and length of the data of every regular member; None for links and everything else.

    A hard link to a member before it is that member under a second name. Archives that were joined with `cat` count as
    one.
    """
    members: dict[str, tuple[int, int] | None] = {}
    start: int | None = 0
    while start is not None:
        tar.seek(start)
        with tarfile.open(fileobj=tar, mode="r:") as file:
            while (member := file.next()) is not None:
                name = _normalized(member.name)
                if member.islnk():
                    members[name] = members.get(_normalized(member.linkname))
                else:
                    plain = member.isreg() and not member.issparse()
                    members[name] = (member.offset_data, member.size) if plain else None
                file.members.clear()  # type: ignore[attr-defined]  # or it keeps every header
            start = _next_header(tar, file.offset)
    return members


def _next_header(tar: IO[bytes], offset: int) -> int | None:
    """Where another archive begins behind the zeros that end the one before `offset`.

    Raises ReadError if there are no zeros: then tarfile has stopped at a header that is damaged, and said nothing.
    """
    end = offset
    tar.seek(offset)
    while block := tar.read(tarfile.BLOCKSIZE):
        if block.strip(b"\0"):
            if offset == end:
                raise tarfile.ReadError(f"damaged at byte {offset}")
            return offset if block[257:262] == b"ustar" else None
        offset += tarfile.BLOCKSIZE
    return None


def _read_tar(file: int, members: Mapping[str, tuple[int, int] | None], name: str) -> bytes:
    place = members[name]
    if place is None:
        raise Refused("a link or no regular file: pack the file itself")
    offset, size = place
    data = os.pread(file, size, offset)
    if len(data) != size:
        raise OSError("cut short: the tar file ends before it")
    return data


def _index_zip(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    slashed = ((info.filename.replace("\\", "/"), info) for info in archive.infolist())  # some of Windows have none
    members = {_normalized(name): info for name, info in slashed if not name.endswith("/")}
    if any(info.flag_bits & _ENCRYPTED for info in members.values()):
        raise DataError(f"{quoted(path)} is encrypted: unpack it with its password, and use the unpacked folder")
    return members


def _is_plain(info: zipfile.ZipInfo) -> bool:
    return stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)


def _read_zip(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], name: str) -> bytes:
    if not _is_plain(members[name]):
        raise Refused("a link or no regular file: pack the file itself")
    try:
        return archive.read(members[name])
    except _BROKEN as error:
        raise OSError(f"broken in the zip file: {error}") from error


def _normalized(name: str) -> str:
    return str(PurePosixPath(name))
