"""`jaxage cache`: what is kept on disk between runs, and how to make room."""

import shutil
import time
from pathlib import Path
from typing import NamedTuple

from jaxage.types import Log

KINDS = {
    "decoded": "decoded images, in shards",
    "features": "features of frozen layers",
    "compiled": "compiled programs",
    "files": "hashes of image files",
}
_DAY_S = 86400


class CacheEntry(NamedTuple):
    """A file or folder of the cache.

    kind: a key of `KINDS`. path: where it is. nbytes: its size. used: when it was last used, seconds since 1970.
    """

    kind: str
    path: Path
    nbytes: int
    used: float


def list_cache(folder: Path) -> list[CacheEntry]:
    """The entries of a cache folder, those that were used last first."""
    found = [CacheEntry(kind, path, *_size_and_use(path)) for kind in KINDS for path in (folder / kind).glob("*")]
    return sorted(found, key=lambda entry: -entry.used)


def cache(folder: Path, unused_days: float | None = None, log: Log = print) -> list[CacheEntry]:
    """Log what the cache holds, or remove what was not used for some days.

    Args:
        folder: The cache folder.
        unused_days: Remove what was not used for so many days; None removes nothing.
        log: The logger.

    Returns:
        The entries that stay.
    """
    entries = list_cache(folder)
    old = [entry for entry in entries if unused_days is not None and time.time() - entry.used >= unused_days * _DAY_S]
    for entry in old:
        shutil.rmtree(entry.path) if entry.path.is_dir() else entry.path.unlink(missing_ok=True)
    kept = [entry for entry in entries if entry not in old]
    if unused_days is not None:
        freed = _gib(sum(entry.nbytes for entry in old))
        log(f"removed {len(old)} entries ({freed}) that were not used for {unused_days:g} days")
    log(f"{folder}:")
    for kind, about in KINDS.items():
        mine = [entry for entry in kept if entry.kind == kind]
        size = _gib(sum(entry.nbytes for entry in mine))
        used = f", last used {time.strftime('%Y-%m-%d', time.localtime(mine[0].used))}" if mine else ""
        log(f"  {kind:<9} {size:>10}  {len(mine):>5} entries  {about}{used}")
    return kept


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.2f} GiB"


def _size_and_use(path: Path) -> tuple[int, float]:
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    stats = [each.stat() for each in files]
    return sum(stat.st_size for stat in stats), max([path.stat().st_mtime, *(stat.st_mtime for stat in stats)])
