"""One process at a time in a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from jaxage.types import UserError

LOCK = ".lock"


@contextmanager
def hold(folder: Path, busy: UserError) -> Iterator[None]:
    """Keep other processes out of the folder, which is made if need be. Raises `busy` if one is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise busy from None
    try:
        yield
    finally:
        lock.release()
