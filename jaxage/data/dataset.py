"""A dataset ready to train on: checked rows and their pixels, decoded once and kept on disk."""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import numpy as np
import PIL
from jaxtyping import UInt8

from jaxage.data.decode import ImageError, decode_image, strict_warnings
from jaxage.data.files import Read, image_root, open_source
from jaxage.data.importers.csv_file import read_csv
from jaxage.data.parallel import in_order
from jaxage.data.prepared import open_prepared
from jaxage.data.records import SPLITS, DataError, Records, listed
from jaxage.data.splits import assign_splits, leakage, require_splits
from jaxage.types import SplitChoice, SplitRule

_DECODER = f"jaxage decoded images, version 1, pillow {PIL.__version__}"
_IMAGES, _FAILURES = "images.npy", "failures.json"
_STALE_SECONDS = 3600


@dataclass(frozen=True)
class Failure:
    """An image that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Faces whose images have passed every check.

    name: for people: the CSV's name without its ending, or what a prepared folder calls itself.
    records: one row per image, every split with at least one.
    images: RGB, a read-only memory map in the order of `records`.
    failures: the other images, in the order of the CSV.
    sha256: of what is learned from: for each row, the JSON line `[path, age, identity, split, sha256 of the file]`.
    split: the rule that decided the splits, "given" if a CSV did, None if they were left as they are.
    """

    name: str
    records: Records
    images: UInt8[np.ndarray, "n size size 3"]
    failures: tuple[Failure, ...]
    sha256: str
    split: SplitRule | Literal["given"] | None


_Entry = tuple[np.ndarray, tuple[Failure, ...]]


def load_dataset(
    data: Path,
    size: int,
    *,
    split: SplitChoice | None = "given",
    seed: int = 0,
    cache: Path,
    workers: int | None = None,
    max_bad: float = 0.01,
) -> Dataset:
    """Read a prepared folder (see `open_prepared`), or a CSV (see `read_csv`) and its images (see `image_root`).

    Images become squares of `size` pixels (see `decode_image`).

    `split` "given" keeps the splits that the data have, and divides at random by `seed` what has none; another rule
    divides anew what was not divided by it. None may be empty. With None they are left as they are.

    Pixels are decoded by `workers` threads (default: one per core) into `cache/decoded/KEY/images.npy`, renamed into
    place when complete and found again by KEY: the SHA-256 of JSON lines with the versions of the decoder, `size`, and
    path and SHA-256 of every image file (a prepared folder has them in its table, so that no image is read to find the
    entry). Labels are no part of it. Memory does not grow with the images.

    Raises DataError for data with faults, for a share of failed images above `max_bad`, for a split without images, and
    for a cache that cannot be written.
    """
    with _open(data) as table, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        records, decided_by = table.records, table.decided_by
        if split is not None:
            rule = (table.decided_by or "random") if split == "given" else split
            if rule != table.decided_by:
                undivided = replace(records, split=np.full(len(records), ""))
                records = assign_splits(undivided, cast(SplitRule, rule), seed)
            decided_by = rule
            require_splits(records)
        paths = records.path.tolist()
        digests: Sequence[str | Failure] = table.digests
        if not digests:
            digests = list(in_order(pool, partial(_digest, table.read), paths, "reading"))
        folder, images, failures = _load_images(table.read, paths, digests, size, cache / "decoded", pool)
    if len(failures) > max_bad * len(records):
        faults = [f"{failure.path}: {failure.reason}" for failure in failures]
        raise DataError(
            f"{data}: {len(failures)} of {len(records)} images in {table.root} cannot be used; mend them, remove their "
            f"lines, or allow a larger share than --max-bad {max_bad:g}; all of them are in {folder / _FAILURES}\n"
            f"{listed(faults)}"
        )
    kept = ~np.isin(records.path, [failure.path for failure in failures])
    records = records.take(kept)
    if split is not None:
        require_splits(records)
    columns = [column.tolist() for column in (records.path, records.age, records.identity, records.split)]
    kept_digests = [digest for digest, keep in zip(digests, kept, strict=True) if keep]
    sha256 = _hash(zip(*columns, kept_digests, strict=True))
    return Dataset(table.name, records, images, failures, sha256, decided_by if split is not None else None)


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """What a report says of it: name, split, hash, size in pixels, counts, and who is seen on both sides."""
    records = dataset.records
    return {
        "name": dataset.name,
        "split": dataset.split,
        "sha256": dataset.sha256,
        "image_size": dataset.images.shape[1],
        "counts": {split: len(records.rows_of(split)) for split in SPLITS} | {"failed": len(dataset.failures)},
        "leakage": leakage(records),
    }


class _Table(NamedTuple):
    """What is known before any image is decoded; `digests` is empty where files must be read to know them."""

    name: str
    root: Path
    records: Records
    digests: list[str]
    read: Read
    decided_by: SplitRule | Literal["given"] | None


@contextmanager
def _open(data: Path) -> Iterator[_Table]:
    if data.is_dir():
        prepared = open_prepared(data)
        yield _Table(prepared.name, data, prepared.records, prepared.sha256, prepared.read, prepared.split)
    else:
        records, root = read_csv(data), image_root(data)
        with open_source(root) as read:
            yield _Table(data.stem, root, records, [], read, "given" if (records.split != "").any() else None)


def _load_images(
    read: Read, paths: list[str], digests: Sequence[str | Failure], size: int, cache: Path, pool: ThreadPoolExecutor
) -> tuple[Path, np.ndarray, tuple[Failure, ...]]:
    """The folder, pixels and failures that `cache` has, or now gets, for these files."""
    rows = list(zip(paths, digests, strict=True))
    contents = ([path, None if isinstance(digest, Failure) else digest] for path, digest in rows)
    folder = cache / _hash([[_DECODER, size], *contents])
    remove_stale(cache)
    entry = _find(folder, len(rows), size)
    if entry is None:
        with strict_warnings():
            decoded = in_order(pool, lambda row: _decode(read, size, *row), rows, "decoding")
            entry = _build(folder, len(rows), size, decoded)
    return folder, *entry


def _digest(read: Read, path: str) -> str | Failure:
    try:
        return hashlib.sha256(read(path)).hexdigest()
    except FileNotFoundError:
        return Failure(path, "missing")
    except OSError as error:
        return Failure(path, error.strerror or str(error))


def _decode(read: Read, size: int, path: str, digest: str | Failure) -> np.ndarray | Failure:
    if isinstance(digest, Failure):
        return digest
    data = read(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise OSError(f"{path} has changed since it was first read")
    try:
        return decode_image(data, size)
    except ImageError as error:
        return Failure(path, str(error))


def _find(folder: Path, count: int, size: int) -> _Entry | None:
    """Pixels and failures kept for `count` images, unless there are none or they are damaged."""
    try:
        failures = tuple(Failure(**fault) for fault in json.loads((folder / _FAILURES).read_text(encoding="utf-8")))
        images = np.lib.format.open_memmap(folder / _IMAGES, mode="r")
        length = (folder / _IMAGES).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    fits = images.dtype == np.uint8 and images.shape == (count - len(failures), size, size, 3)
    return (images, failures) if fits and length == images.offset + images.nbytes else None


def _build(folder: Path, count: int, size: int, decoded: Iterable[np.ndarray | Failure]) -> _Entry:
    """Write an entry beside `folder` and rename it; a sound one that another process put there meanwhile stays."""
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        _write(partial, count, size, decoded)
        entry = _find(partial, count, size)
        if entry is None:
            raise OSError("what was written reads back otherwise")
        if _find(folder, count, size) is None:
            shutil.rmtree(folder, ignore_errors=True)
            _rename(partial, folder)
        return entry
    except OSError as error:
        raise DataError(f"images could not be decoded into {folder.parent}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(partial: Path, count: int, size: int, decoded: Iterable[np.ndarray | Failure]) -> None:
    failures = []
    with _synced(partial / _IMAGES) as file:
        _write_header(file, count, size)
        for result in decoded:
            if isinstance(result, Failure):
                failures.append(asdict(result))
            else:
                file.write(result.data)
        file.seek(0)
        _write_header(file, count - len(failures), size)  # NumPy pads it to the same length
    with _synced(partial / _FAILURES) as file:
        file.write(json.dumps(failures, indent=1).encode())


def _write_header(file: BinaryIO, count: int, size: int) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)


@contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _rename(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def remove_stale(cache: Path) -> None:
    """What killed processes left: unfinished entries that nobody has written to for an hour."""
    for unfinished in cache.glob(".*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (unfinished, *unfinished.glob("*")))
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()


def _hash(lines: Iterable[Sequence[Any]]) -> str:
    """SHA-256 of each value as JSON and a line loader."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()
