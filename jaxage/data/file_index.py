"""Hashes of files that were read before: a file whose size and time of change are the same is not read again."""

import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

_SETTLED_NS = 2 * 10**9
"""A file that changed less than this before it was read may change again within the clock's resolution."""

_TABLE = "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, size INT, changed_ns INT, sha256 TEXT) WITHOUT ROWID"


class Stamp(NamedTuple):
    """size: of a file in bytes. changed_ns: when it was last changed, as the file system says."""

    size: int
    changed_ns: int


def read_index(file: Path) -> dict[str, tuple[Stamp, str]]:
    """The stamp and the SHA-256 of every path in the index; none if it is missing or damaged."""
    if not file.exists():
        return {}
    with suppress(sqlite3.Error), closing(sqlite3.connect(file)) as index:
        rows = index.execute("SELECT path, size, changed_ns, sha256 FROM files")
        return {path: (Stamp(size, changed), digest) for path, size, changed, digest in rows}
    return {}


def add_to_index(file: Path, rows: Iterable[tuple[str, Stamp, str]]) -> None:
    """Add paths, their stamps and hashes. An index that cannot be written is no loss: the files are read again.

    Args:
        file: The index, made if need be; one that is damaged is made anew.
        rows: Files that were just read.
    """
    settled = time.time_ns() - _SETTLED_NS
    values = [(path, *stamp, digest) for path, stamp, digest in rows if stamp.changed_ns < settled]
    if not values:
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            _insert(file, values)
        except sqlite3.OperationalError:  # locked, or no room
            return
        except sqlite3.DatabaseError:
            file.unlink()
            with suppress(sqlite3.Error):
                _insert(file, values)


def _insert(file: Path, values: list[tuple[str, int, int, str]]) -> None:
    with closing(sqlite3.connect(file)) as index, index:
        index.execute(_TABLE)
        index.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", values)
