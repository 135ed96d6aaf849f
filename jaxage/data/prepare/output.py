"""The folder that `prepare` makes: it appears whole or not at all, and nothing that is there is overwritten."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxage.data.prepared import MANIFEST, QUARANTINE, open_prepared, read_manifest
from jaxage.data.records import DataError
from jaxage.types import Log
from jaxage.utils.files import lock_folder


def is_prepared(out: Path, about: dict[str, Any], log: Log) -> bool:
    """Whether the dataset that `about` (of its manifest) describes is there and whole.

    Raises DataError for anything else, but for what a try that made no dataset leaves: counts, or a list of faults.
    """
    if not out.exists() or (out.is_dir() and {path.name for path in out.iterdir()} <= {MANIFEST, QUARANTINE}):
        return False
    try:
        manifest = read_manifest(out)
    except DataError:
        raise DataError(f"{out} is not empty, and no dataset that jaxage has prepared: choose another --out") from None
    changed = [name for name in ("name", "source_sha256", "settings") if manifest.get(name) != about[name]]
    if changed:
        raise DataError(
            f"{out} holds a dataset of another {' and '.join(changed)}: choose another --out, or remove it first"
        )
    open_prepared(out)
    log(f"{out} is prepared already; remove it to check the images once more")
    return True


@contextmanager
def making(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` for unfinished work, which no other process has, and which is gone afterwards."""
    partial = out.with_name(f".{out.name}.partial")
    work = partial / "work"
    busy = DataError(f"{out} is being prepared by another process: wait for it, or choose another --out")
    with lock_folder(partial, busy):
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def put(folder: Path, out: Path) -> None:
    """Move a finished folder to `out`, once it has been read back."""
    open_prepared(folder)
    if out.exists():
        for name in (MANIFEST, QUARANTINE):
            (out / name).unlink(missing_ok=True)
        out.rmdir()
    os.sync()
    folder.rename(out)
