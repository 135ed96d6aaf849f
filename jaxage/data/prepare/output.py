"""Write a folder so that it appears complete or not at all, and so that nothing that is there is overwritten."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxage.data.prepared import MANIFEST, QUARANTINE, open_prepared, read_manifest
from jaxage.data.records import DataError
from jaxage.types import Json, Log
from jaxage.utils.files import lock_folder, name_errors, rename_folder


def is_prepared(out: Path, about: Json, log: Log) -> bool:
    """Whether `out` holds the dataset that `about` (of its manifest) describes, complete.

    An attempt that made no dataset may leave a manifest with counts, or a list of bad images: that is no dataset.

    Raises:
        DataError: if `out` holds anything else, or a damaged dataset.
    """
    if _names(out) <= {MANIFEST, QUARANTINE}:
        return False
    try:
        manifest = read_manifest(out)
    except DataError:
        raise DataError(f"{out} is not empty, and no dataset that jaxage has prepared: choose another folder") from None
    changed = [name for name in ("name", "source_sha256", "settings") if manifest.get(name) != about[name]]
    if changed:
        raise DataError(
            f"{out} holds a dataset of another {' and '.join(changed)}: choose another folder, or remove it first"
        )
    open_prepared(out)
    log(f"{out} is prepared already; remove it to check the images once more")
    return True


def require_empty(folder: Path) -> None:
    """Raise DataError unless the folder is empty or absent."""
    if _names(folder):
        raise DataError(f"{folder} is not an empty folder: choose another one")


@contextmanager
def unfinished_folder(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` for unfinished work; it is removed at the end.

    Raises:
        DataError: if another process is making `out`.
    """
    beside = out.with_name(f".{out.name}.partial")
    work = beside / "work"
    busy = DataError(f"{out} is being made by another process: wait for it, or choose another folder")
    try:
        with name_errors(out), lock_folder(beside, busy):
            try:
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir()
                yield work
            finally:
                shutil.rmtree(work, ignore_errors=True)
    finally:
        with suppress(OSError):  # another process works in it
            beside.rmdir()  # lock_folder leaves a folder that a killed process has made


def publish(folder: Path, out: Path) -> None:
    """Read a finished dataset back, write it through to the disk, and rename its folder to `out`."""
    open_prepared(folder)
    for path in folder.iterdir():
        with path.open("r+b") as file:
            os.fsync(file.fileno())
    for name in (MANIFEST, QUARANTINE):
        (out / name).unlink(missing_ok=True)
    move_into_place(folder, out)


def move_into_place(folder: Path, out: Path) -> None:
    """Rename a finished folder to `out`, which is empty or absent."""
    if out.exists():
        out.rmdir()
    if not rename_folder(folder, out):
        raise DataError(f"{out} was made by another process meanwhile: choose another folder")


def _names(folder: Path) -> set[str]:
    """What the folder holds; nothing if it is absent, itself if it is a file."""
    try:
        return {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return set()
    except NotADirectoryError:
        return {folder.name}
