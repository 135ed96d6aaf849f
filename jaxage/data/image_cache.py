"""Decoded images on disk: each set of files is decoded once and found again by the hash of its contents."""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import PIL
from jaxtyping import UInt8

from jaxage.data.decode import ImageError, decode_image, strict_warnings
from jaxage.data.file_index import add_to_index, read_index
from jaxage.data.files import Files, ReadImage
from jaxage.data.formats import image_formats
from jaxage.data.parallel import in_order
from jaxage.data.records import DataError, Failure
from jaxage.data.shards import Shards
from jaxage.types import DatasetImages, InputContract
from jaxage.utils import cluster
from jaxage.utils.files import atomic_write, explain_os_error, rename_folder, write_json
from jaxage.utils.text import quoted

FAILURES = "failures.json"
_IMAGES = "images.npy"
_DECODER = f"jaxage decoded images, version 2, pillow {PIL.__version__}"
_SHARD = 8192
_STALE_SECONDS = 3600

Pixels = UInt8[np.ndarray, "size size 3"]


class FaceCropper(NamedTuple):
    """Cuts the face out of a photo, in place of decoding the whole image.

    key: what decides the result besides the file and the size; part of the cache's key.
    crop: the bytes of a file -> the face's pixels, uint8 (size, size, 3). Raises ImageError. Used by many threads.
    """

    key: str
    crop: Callable[[bytes], Pixels]


class ImageFile(NamedTuple):
    """A file's path, and its SHA-256 or why it cannot be read."""

    path: str
    digest: str | Failure


class DecodedImages(NamedTuple):
    """What was decoded, and where it is kept.

    folder: holds `failures.json`.
    images: read-only memory maps of the images that could be decoded, in the order of the files.
    failures: the other files, in their order.
    """

    folder: Path
    images: DatasetImages
    failures: tuple[Failure, ...]


def hash_files(files: Files, paths: Sequence[str], index: Path, pool: ThreadPoolExecutor) -> list[ImageFile]:
    """The SHA-256 of every file, or why it cannot be read, in the order of the paths.

    Args:
        files: Gives their bytes, sizes and times of change.
        paths: Which of them.
        index: The file that remembers hashes (see `jaxage.data.file_index`).
        pool: The threads that read.
    """
    stamps = list(pool.map(files.stamp, paths, chunksize=256))
    known = read_index(index)
    found = dict[str, ImageFile]()
    for path, stamp in zip(paths, stamps, strict=True):
        before, digest = known.get(path, (None, ""))
        if stamp is not None and stamp == before:
            found[path] = ImageFile(path, digest)
    unknown = [path for path in paths if path not in found]
    found |= {file.path: file for file in in_order(pool, partial(_hash_file, files.read), unknown, "reading")}
    stamp_of = dict(zip(paths, stamps, strict=True))
    read = ((path, stamp_of[path], found[path].digest) for path in unknown)
    add_to_index(index, ((path, stamp, digest) for path, stamp, digest in read if stamp and isinstance(digest, str)))
    return [found[path] for path in paths]


def load_images(
    read: ReadImage,
    files: Sequence[ImageFile],
    size: int,
    contract: InputContract,
    cache: Path,
    pool: ThreadPoolExecutor,
    cropper: FaceCropper | None = None,
) -> DecodedImages:
    """The decoded images that `cache` holds for these files; they are decoded now if it does not hold them.

    They lie in shards of 8,192 files, each in `cache/KEY`, renamed into place when complete: decoding that was stopped
    goes on, and one more file makes one new shard. KEY is the SHA-256 of JSON lines: the decoder's version, the formats
    that it reads, and the size (and interpolation and crop where they are not the default, and the cropper's key), then
    path and SHA-256 of every file. Memory does not grow with the number of images. Several processes divide the shards.

    Args:
        read: Reads the files.
        files: The files, in the order of the result.
        size: Height and width of the result in pixels.
        contract: How images are resized and cropped (see `decode_image`).
        cache: The folder for all entries.
        pool: The threads that decode.
        cropper: Cuts faces out of photos; without it, each image is decoded whole.

    Raises:
        DataError: if the cache cannot be written or has no room for all images, or a file has changed since it was
            hashed.
    """
    form = (contract.interpolation, contract.crop)
    head = [
        _DECODER,
        *image_formats(),
        size,
        *(() if form == (InputContract().interpolation, InputContract().crop) else form),
    ]
    head += [cropper.key] if cropper else []
    remove_stale(cache)
    parts = [files[start : start + _SHARD] for start in range(0, max(1, len(files)), _SHARD)]
    shards = [_Shard(cache / _key(head, part), part) for part in parts]
    missing = [i for i, shard in enumerate(shards) if _find(shard.folder, len(shard.files), size) is None]
    _require_space(cache, size * size * 3 * sum(len(shards[i].files) for i in missing))

    def load(i: int) -> DecodedImages:
        shard, number = shards[i], f" {i + 1} of {len(shards)}" * (len(shards) > 1)
        if (entry := _find(shard.folder, len(shard.files), size)) is None:
            with strict_warnings():
                decode = partial(_decode, read, size, contract, cropper)
                decoded = in_order(pool, decode, shard.files, f"decoding{number}")
                entry = _build(shard.folder, len(shard.files), size, decoded)
        with suppress(OSError):
            os.utime(shard.folder)  # `jaxage cache` shows when it was last used
        return entry._replace(folder=shard.folder)

    for i in missing:
        if i % cluster.count() == cluster.index():
            load(i)
    cluster.gather(None)  # those of the others are there now, if the cache is shared
    entries = [load(i) for i in range(len(shards))]
    unread = {file.path: file.digest for file in files if isinstance(file.digest, Failure)}
    failures = tuple(  # why they are missing today
        unread.get(failure.path, failure) for entry in entries for failure in entry.failures
    )
    if len(entries) == 1:
        return entries[0]._replace(failures=failures)
    folder = cache / _key(head, files)
    folder.mkdir(exist_ok=True)
    write_json(folder / FAILURES, [asdict(failure) for failure in failures])
    return DecodedImages(folder, Shards([np.asarray(entry.images) for entry in entries]), failures)


class _Shard(NamedTuple):
    """The entry of some files: its folder, and what it holds."""

    folder: Path
    files: Sequence[ImageFile]


def _key(head: Sequence[Any], files: Sequence[ImageFile]) -> str:
    contents = ([file.path, None if isinstance(file.digest, Failure) else file.digest] for file in files)
    return hash_json([head, *contents])


def _require_space(cache: Path, size: int) -> None:
    """Raise DataError before the first image is decoded if the disk cannot hold all of them."""
    place = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if size > (free := shutil.disk_usage(place).free):
        raise DataError(
            f"the decoded images need {size / 2**30:.1f} GiB, and the disk of {quoted(cache)} has {free / 2**30:.1f} "
            "free: make room, choose a smaller --image-size, or another folder (JAXAGE_CACHE)"
        )


def hash_json(lines: Iterable[Sequence[Any]]) -> str:
    """SHA-256 of the values as lines of JSON."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(json.dumps(line).encode() + b"\n")
    return digest.hexdigest()


def remove_stale(cache: Path) -> None:
    """Remove unfinished entries that nobody has written to for an hour: killed processes leave them."""
    for unfinished in cache.glob(".*"):
        with suppress(OSError):
            newest = max(path.stat().st_mtime for path in (unfinished, *unfinished.glob("*")))
            if time.time() - newest > _STALE_SECONDS:
                shutil.rmtree(unfinished) if unfinished.is_dir() else unfinished.unlink()


def _hash_file(read: ReadImage, path: str) -> ImageFile:
    try:
        return ImageFile(path, hashlib.sha256(read(path)).hexdigest())
    except OSError as error:
        return ImageFile(path, Failure(path, error.strerror or str(error)))


def _decode(
    read: ReadImage, size: int, contract: InputContract, cropper: FaceCropper | None, file: ImageFile
) -> Pixels | Failure:
    if isinstance(file.digest, Failure):
        return file.digest
    data = read(file.path)
    if hashlib.sha256(data).hexdigest() != file.digest:
        raise OSError(f"{quoted(file.path)} has changed since it was first read")
    try:
        if cropper is not None:
            return cropper.crop(data)
        return decode_image(data, size, interpolation=contract.interpolation, crop=contract.crop)
    except ImageError as error:
        return Failure(file.path, str(error))


def _find(folder: Path, count: int, size: int) -> DecodedImages | None:
    """The entry for `count` files, or None if there is none or it is damaged."""
    try:
        failures = tuple(Failure(**fault) for fault in json.loads((folder / FAILURES).read_text(encoding="utf-8")))
        images = np.lib.format.open_memmap(folder / _IMAGES, mode="r")
        length = (folder / _IMAGES).stat().st_size
    except (OSError, ValueError, TypeError):
        return None
    fits = images.dtype == np.uint8 and images.shape == (count - len(failures), size, size, 3)
    return DecodedImages(folder, images, failures) if fits and length == images.offset + images.nbytes else None


def _build(folder: Path, count: int, size: int, decoded: Iterable[Pixels | Failure]) -> DecodedImages:
    """Write an entry beside `folder` and rename it; a valid one that another process has put there meanwhile stays."""
    unfinished = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        unfinished.mkdir(parents=True)
        _write(unfinished, count, size, decoded)
        entry = _find(unfinished, count, size)
        if entry is None:
            raise OSError("verification failed: the file differs from what was written")
        if _find(folder, count, size) is None:
            shutil.rmtree(folder, ignore_errors=True)
            rename_folder(unfinished, folder)
        return entry
    except OSError as error:
        reason = error if error.errno is None else OSError(error.errno, error.strerror, str(folder.parent))
        raise DataError(f"images could not be decoded: {explain_os_error(reason)}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(folder: Path, count: int, size: int, decoded: Iterable[Pixels | Failure]) -> None:
    failures = []
    with atomic_write(folder / _IMAGES) as file:
        _write_header(file, count, size)
        for result in decoded:
            if isinstance(result, Failure):
                failures.append(asdict(result))
            else:
                file.write(result.data)
        file.seek(0)
        _write_header(file, count - len(failures), size)  # NumPy pads it to the same length
    write_json(folder / FAILURES, failures)


def _write_header(file: IO[bytes], count: int, size: int) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    np.lib.format.write_array_header_1_0(file, header)
