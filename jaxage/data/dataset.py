"""A dataset ready to train on: checked rows, and their pixels, decoded once and kept on disk."""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxage.data.files import ReadImage, image_root, open_files
from jaxage.data.image_cache import FAILURES, DecodedImages, FaceCropper, ImageFile, hash_files, hash_json, load_images
from jaxage.data.importers.csv_file import read_csv
from jaxage.data.notes import Copies, count_copies, notes_on
from jaxage.data.prepared import open_prepared
from jaxage.data.records import SPLITS, DataError, Failure, Records, listed_failures
from jaxage.data.splits import assign_splits, leakage, require_identities, require_splits
from jaxage.types import DatasetImages, InputContract, Json, SplitChoice
from jaxage.utils.text import quoted

_IMAGENET = InputContract()
_NO_COPIES = Copies(0, 0)


class LoadOptions(NamedTuple):
    """How `load_dataset` divides the images, and how many may be bad.

    split: "given" keeps the splits that the data have, and divides at random what has none; "random" and "identity"
        divide anew what was not divided by this rule; None leaves the splits as they are, and some may be empty.
    seed: decides the splits.
    max_bad: the largest share of images that may be missing or broken, 0-1.
    workers: threads that read and decode; None takes one for each core.
    """

    split: SplitChoice | None = "given"
    seed: int = 0
    max_bad: float = 0.01
    workers: int | None = None


_DEFAULTS = LoadOptions()


@dataclass(frozen=True, eq=False)
class Dataset:
    """Faces whose images have passed every check.

    Attributes:
        name: for people: the CSV's name without its ending, or what a prepared folder calls itself.
        records: one row for each image.
        images: RGB, a read-only memory map in the order of `records`.
        failures: the images that cannot be used, in the order of the data.
        sha256: identifies the data: the hash of a JSON line for each row, `[path, age, identity, split, sha256 of the
            file]`.
        split: the rule that decided the splits; "given" if a CSV has them; None if they were left as they are.
        images_sha256: the same without the split: it identifies the data before they are divided.
        digests: the SHA-256 of each image's file.
        copies: how many images have the same bytes as others.
    """

    name: str
    records: Records
    images: DatasetImages
    failures: tuple[Failure, ...]
    sha256: str
    split: SplitChoice | None
    images_sha256: str = ""
    digests: tuple[str, ...] = ()
    copies: Copies = _NO_COPIES

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user is to know of the data (see `notes_on`)."""
        return notes_on(self.records, self.copies)


def load_dataset(
    data: Path,
    size: int,
    *,
    cache: Path,
    contract: InputContract = _IMAGENET,
    options: LoadOptions = _DEFAULTS,
    cropper: FaceCropper | None = None,
) -> Dataset:
    """Read faces and decode their images into squares of `size` pixels.

    The decoded images are kept in `cache/decoded` and found again there (see `load_images`). A prepared folder has the
    hashes of its images in its table, and those of other files are kept in `cache/files` (see `hash_files`), so none of
    them is read a second time. Images that cannot be used are left out.

    Args:
        data: A folder that `jaxage prepare` has made (see `open_prepared`), or a CSV (see `read_csv`) whose images lie
            in its folder or in a tar file beside it (see `image_root`).
        size: Height and width of the images in pixels.
        cache: The folder for decoded images.
        contract: How images are resized and cropped; mean and std play no part.
        options: How the images are divided, and how many may be bad.
        cropper: Cuts faces out of photos; without it, images are taken whole.

    Raises:
        DataError: if the data have faults, more than `options.max_bad` of the images cannot be used, a split has no
            image, or the cache cannot be written.
    """
    with _open(data, cache) as table, ThreadPoolExecutor(options.workers or os.cpu_count()) as pool:
        if options.split == "identity":
            require_identities(table.records)
        files = table.hash_files(pool)
        decoded = load_images(table.read, files, size, contract, cache / "decoded", pool, cropper)
    _refuse_too_many(data, table, decoded, options.max_bad)
    records, decided_by = _usable_records(data, table, decoded.failures, options)
    failed = {failure.path for failure in decoded.failures}
    digests = [file.digest for file in files if isinstance(file.digest, str) and file.path not in failed]
    path, age, identity, split = (
        column.tolist() for column in (records.path, records.age, records.identity, records.split)
    )
    return Dataset(
        name=table.name,
        records=records,
        images=decoded.images,
        failures=decoded.failures,
        sha256=hash_json(zip(path, age, identity, split, digests, strict=True)),
        images_sha256=hash_json(zip(path, age, identity, digests, strict=True)),
        digests=tuple(digests),
        split=decided_by,
        copies=count_copies(records, digests),
    )


def read_records(data: Path, options: LoadOptions = _DEFAULTS) -> Records:
    """The table of a dataset, divided as the options say; no image is read.

    Raises:
        DataError: as `load_dataset` does for the table.
    """
    with _open(data, Path()) as table:
        return table.records if options.split is None else _divide(table, options.split, options.seed)[0]


def describe_data(dataset: Dataset) -> Json:
    """What a report says of a dataset: name, split, hash, size in pixels, counts, and who is in train and test."""
    records = dataset.records
    return {
        "name": dataset.name,
        "split": dataset.split,
        "sha256": dataset.sha256,
        "image_size": dataset.images.shape[1],
        "counts": {split: len(records.rows_of(split)) for split in SPLITS} | {"failed": len(dataset.failures)},
        "leakage": leakage(records),
        "copies": dataset.copies._asdict(),
    }


class _Table(NamedTuple):
    """What is known before any image is decoded."""

    name: str
    root: Path
    records: Records
    hash_files: Callable[[ThreadPoolExecutor], list[ImageFile]]
    read: ReadImage
    decided_by: SplitChoice | None


@contextmanager
def _open(data: Path, cache: Path) -> Iterator[_Table]:
    if data.is_dir():
        prepared = open_prepared(data)
        hashed = [ImageFile(*row) for row in zip(prepared.records.path.tolist(), prepared.sha256, strict=True)]
        yield _Table(prepared.name, data, prepared.records, lambda _: hashed, prepared.read, prepared.split)
    else:
        records = read_csv(data)
        root = image_root(data, str(records.path[0]))
        index = cache / "files" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()}.sqlite"
        decided_by: SplitChoice | None = "given" if (records.split != "").any() else None
        with open_files(root) as files:
            hash_all = partial(hash_files, files, records.path.tolist(), index)
            yield _Table(data.stem, root, records, hash_all, files.read, decided_by)


def _refuse_too_many(data: Path, table: _Table, decoded: DecodedImages, max_bad: float) -> None:
    failures, count = decoded.failures, len(table.records)
    if len(failures) > max_bad * count:
        raise DataError(
            f"{quoted(data)}: {len(failures)} of {count} images in {quoted(table.root)} cannot be used: mend them "
            f"or their paths, remove their lines, or allow a larger share than max_bad {max_bad:g}; all of them are in "
            f"{decoded.folder / FAILURES}\n"
            f"{listed_failures(failures)}"
        )


def _usable_records(
    data: Path, table: _Table, failures: tuple[Failure, ...], options: LoadOptions
) -> tuple[Records, SplitChoice | None]:
    """The records without those that failed, divided as the options say, and the rule that decided the splits."""
    usable = ~np.isin(table.records.path, [failure.path for failure in failures])
    if options.split is None:
        return table.records.take(usable), None
    try:
        records, decided_by = _divide(table, options.split, options.seed)
        records = records.take(usable)
        require_splits(records)
    except DataError as error:
        if not failures:
            raise DataError(f"{quoted(data)}: {error}") from error
        raise DataError(
            f"{quoted(data)}: {len(failures)} images cannot be used:\n{listed_failures(failures)}\nand {error}"
        ) from error
    return records, decided_by


def _divide(table: _Table, split: SplitChoice, seed: int) -> tuple[Records, SplitChoice]:
    """All records with the splits that `split` asks for, and the rule that decided them.

    Images that cannot be used take part, so that the others keep their splits when those are mended.
    """
    rule = (table.decided_by or "random") if split == "given" else split
    if rule == "given" or rule == table.decided_by:
        return table.records, rule
    undivided = replace(table.records, split=np.full(len(table.records), ""))
    return assign_splits(undivided, rule, seed), rule
