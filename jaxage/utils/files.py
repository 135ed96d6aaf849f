"""Files that appear whole or not at all, and folders that one process at a time works in."""

import csv
import errno
import io
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from jaxage.config import cache_folder
from jaxage.types import UserError
from jaxage.utils.text import quoted

LOCK = ".lock"
_TRIES = 100
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)


class NoLocksError(UserError):
    """A file system without locks, on which nobody can tell whether another process works in a folder."""


@contextmanager
def atomic_write(path: Path, unfinished_path: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` for writing; it is synced and renamed to `path` if the block succeeds.

    Args:
        path: The file to write. Its folder must exist.
        unfinished_path: Where to keep what was written if the block fails; without it, nothing is kept.

    Raises:
        OSError: if the disk is full or the folder cannot be written to; `path` is then as it was before.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with name_errors(path, unfinished), unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        if unfinished_path is not None and unfinished.exists():
            unfinished.replace(unfinished_path)
        unfinished.unlink(missing_ok=True)


@contextmanager
def name_errors(path: Path, hidden: Path | None = None) -> Iterator[None]:
    """An OSError that names no file, as on a full disk, or a hidden one, names this file or folder."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(hidden)):
            error.filename = str(path)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all (see `atomic_write`)."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all (see `atomic_write`)."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON whole or not at all (see `atomic_write`). Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write UTF-8 CSV with line feeds, whole or not at all (see `atomic_write`)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def reserve_space(file: IO[bytes], size: int) -> None:
    """Let the file occupy `size` bytes of the disk now, so that a full disk is an error here and no signal later.

    Systems without `posix_fallocate` (macOS) only set the length.

    Raises:
        OSError: if the disk has no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def require_space(folder: Path, size: int) -> None:
    """Check that `size` bytes can be written to the folder now, by disk and quota: a file is reserved and removed.

    Raises:
        OSError: naming the folder, if there is no room.
    """
    scratch = folder / f".{uuid.uuid4().hex}.partial"
    try:
        with name_errors(folder), scratch.open("xb") as file:
            reserve_space(file, size)
    finally:
        scratch.unlink(missing_ok=True)


@contextmanager
def lock_file(path: Path) -> Iterator[None]:
    """Wait for a lock that one process at a time holds, in a folder that exists.

    Raises:
        NoLocksError: if the file system has no locks.
        OSError: if the file cannot be written.
    """
    lock = FileLock(path)
    with _explained(path.parent):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise NoLocksError(
            f"{quoted(folder)}: its file system has no locks ({error.strerror}): choose a folder on another one"
        ) from error


@contextmanager
def lock_folder(folder: Path, busy: UserError) -> Iterator[None]:
    """Keep every other process and thread out of the folder, which is made if need be.

    Only the holder of the lock cleans up: at the end, a folder that holds nothing but the lock is removed again, with
    the folders above it that were made for it. A folder that was there before stays.

    Args:
        folder: The folder to lock.
        busy: Raised if somebody else holds the lock. Nothing is touched then.
    """
    made: list[Path] = []
    try:
        lock = _acquire(folder, busy, made)
    except (OSError, NoLocksError) as error:
        if isinstance(error, NoLocksError) and folder in made:
            (folder / LOCK).unlink(missing_ok=True)
        _remove_empty(made)
        raise
    try:
        yield
    finally:
        if not {path.name for path in folder.glob("*")} - {LOCK}:
            (folder / LOCK).unlink(missing_ok=True)
            _remove_empty(made)
        lock.release()


def _acquire(folder: Path, busy: UserError, made: list[Path]) -> FileLock:
    """The lock, held; `made` gets the folders that were made, innermost first, by us or by a process that was killed.

    A holder may remove the lock file between our opening and our locking it: a lock counts only if its file is still in
    its place.
    """
    lock = FileLock(folder / LOCK)
    for _ in range(_TRIES):
        made += [each for each in (folder, *folder.parents) if not each.exists() and each not in made]
        if (folder / LOCK).exists() and folder not in made:
            made.insert(0, folder)
        with suppress(FileNotFoundError):  # a holder is removing the folder
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except FileExistsError:
                if folder.is_file():  # else a holder has removed the folder meanwhile, and perhaps another made it
                    raise
                continue
            try:
                with _explained(folder):
                    lock.acquire(timeout=0)
            except Timeout:
                raise busy from None
            if _is_in_place(lock, folder / LOCK):
                return lock
            lock.release()
    raise busy


def _is_in_place(lock: FileLock, path: Path) -> bool:
    descriptor = lock._context.lock_file_fd  # filelock has no public way to ask for it
    try:
        return descriptor is not None and os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # not made after all, or somebody else has put something there
            folder.rmdir()


def rename_folder(unfinished: Path, folder: Path) -> bool:
    """Rename a finished folder to `folder`, and whether that was done: not if another one with content is there."""
    try:
        unfinished.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        return False
    return True


def explain_os_error(error: OSError) -> str:
    """What a file, folder or disk lacks, and what to do, in one sentence."""
    if error.errno is None:
        return str(error)
    name = quoted(Path(str(error.filename))) if error.filename is not None else "a file"
    remedy = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = ": make room and start again (a run goes on when it is resumed), or choose another disk"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        remedy = ": choose a folder that you may write to"
    if remedy and _is_in_cache(error.filename):
        remedy += " (JAXAGE_CACHE names another cache folder)"
    return f"{name}: {error.strerror}{remedy}"


def _is_in_cache(name: Any) -> bool:
    with suppress(UserError, TypeError):
        return Path(name).resolve().is_relative_to(cache_folder().resolve())
    return False
