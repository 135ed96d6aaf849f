"""A dataset ready to train on: checked rows and their pixels, decoded once and kept on disk."""

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeVar

import numpy as np
import PIL
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from jaxage.data.csv import read_csv
from jaxage.data.decode import ImageError, decode_image
from jaxage.data.records import DataError, Records, listed
from jaxage.data.source import Read, image_root, open_source
from jaxage.data.splits import assign_splits, require_splits
from jaxage.types import SplitRule

T = TypeVar("T")

_DECODER = f"jaxage decoded images, version 1, pillow {PIL.__version__}"
_IMAGES, _FAILURES = "images.npy", "failures.json"
_CHUNK, _CHUNKS_AHEAD = 8, 64
_STALE_SECONDS = 3600


@dataclass(frozen=True)
class Failure:
    """An image that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Dataset:
    """Faces whose images have passed every check.

    name: for people, the CSV's name without its ending.
    records: one row per image, every split with at least one.
    images: RGB, a read-only memory map in the order of `records`.
    failures: the other images, in the order of the CSV.
    sha256: of what is learned from: for each row, the JSON line `[path, age, identity, split, sha256 of the file]`.
    split: the rule that decided the splits, "given" if the CSV did, None if they are as the CSV has them.
    """

    name: str
    records: Records
    images: UInt8[np.ndarray, "n size size 3"]
    failures: tuple[Failure, ...]
    sha256: str
    split: SplitRule | Literal["given"] | None


_Entry = tuple[np.ndarray, tuple[Failure, ...]]


def load_dataset(
    csv_path: Path,
    size: int,
    *,
    split: SplitRule | None = "random",
    seed: int = 0,
    cache: Path,
    workers: int | None = None,
    max_bad: float = 0.01,
) -> Dataset:
    """Read a CSV (see `read_csv`) and its images (see `image_root`, `decode_image`), `size` pixels a side.

    `split` and `seed` decide the splits if the CSV does not, and none may be empty; None leaves them as they are.

    Pixels are decoded by `workers` threads (default: one per core) into `cache/decoded/KEY/images.npy`, renamed into
    place when complete and found again by KEY: the SHA-256 of JSON lines with the versions of the decoder, `size`, and
    path and SHA-256 of every image file. Labels are no part of it. Memory does not grow with the images.

    Raises DataError for a CSV or tar file with faults, for a share of failed images above `max_bad`, for a split
    without images, and for a cache that cannot be written.
    """
    records = read_csv(csv_path)
    decided_by: SplitRule | Literal["given"] | None = split
    if split is not None:
        decided_by = "given" if (records.split != "").any() else split
        records = records if decided_by == "given" else assign_splits(records, split, seed)
        require_splits(records)
    root = image_root(csv_path)
    with open_source(root) as read, ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        digests, folder, (images, failures) = _load_images(read, records.path.tolist(), size, cache / "decoded", pool)
    if len(failures) > max_bad * len(records):
        faults = [f"{failure.path}: {failure.reason}" for failure in failures]
        raise DataError(
            f"{csv_path}: {len(failures)} of {len(records)} images in {root} cannot be used; mend them, remove their "
            f"lines, or allow a larger share than --max-bad {max_bad:g}; all of them are in {folder / _FAILURES}\n"
            f"{listed(faults)}"
        )
    kept = ~np.isin(records.path, [failure.path for failure in failures])
    records = records.take(kept)
    if split is not None:
        require_splits(records)
    columns = [column.tolist() for column in vars(records).values()]
    kept_digests = [digest for digest, keep in zip(digests, kept, strict=True) if keep]
    sha256 = _hash(zip(*columns, kept_digests, strict=True))
    return Dataset(csv_path.stem, records, images, failures, sha256, decided_by)


def _load_images(
    read: Read, paths: list[str], size: int, cache: Path, pool: ThreadPoolExecutor
) -> tuple[list[str | Failure], Path, _Entry]:
    """SHA-256 of every image file, or why it cannot be read; and what `cache` has, or now gets, for these files, and
    in which folder.
    """
    digests = list(_in_order(pool, lambda path: _digest(read, path), paths, "reading"))
    rows = list(zip(paths, digests, strict=True))
    contents = ([path, None if isinstance(digest, Failure) else digest] for path, digest in rows)
    folder = cache / _hash([[_DECODER, size], *contents])
    _remove_stale(cache)
    entry = _find(folder, len(rows), size)
    if entry is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, for oddities that it can live with
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            decoded = _in_order(pool, lambda row: _decode(read, size, *row), rows, "decoding")
            entry = _build(folder, len(rows), size, decoded)
    return digests, folder, entry


def _in_order(pool: ThreadPoolExecutor, function: Callable[[Any], T], items: Sequence[Any], what: str) -> Iterator[T]:
    """`function` of each item, in their order, under a progress bar; a bounded number of results waits."""
    waiting: deque[Future[list[T]]] = deque()
    with tqdm(total=len(items), desc=what, unit=" images", disable=None) as bar:
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            waiting.append(pool.submit(lambda chunk: [function(item) for item in chunk], chunk))
            while len(waiting) > (_CHUNKS_AHEAD if start + _CHUNK < len(items) else 0):
                results = waiting.popleft().result()
                yield from results
                bar.update(len(results))


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


def _remove_stale(cache: Path) -> None:
    """What killed processes left: unfinished entries that nobody has written to for an hour."""
    for partial in cache.glob(".*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (partial, *partial.iterdir()))
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(partial)


def _hash(lines: Iterable[Sequence[Any]]) -> str:
    """SHA-256 of each value as JSON and a line feed."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()
