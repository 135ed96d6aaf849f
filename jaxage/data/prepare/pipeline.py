"""From imported faces to a dataset that trains at full speed: checked, divided, packed, with every choice recorded."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxage.data.importers.importer import FilterStep, ImportedFaces, Importer, funnel_table, require_some
from jaxage.data.prepare.checked import CheckedFaces, table_rows
from jaxage.data.prepare.duplicates import copies, join, near_pairs
from jaxage.data.prepare.options import PrepareOptions
from jaxage.data.prepare.output import is_prepared, publish, unfinished_folder
from jaxage.data.prepare.verify import STEPS, InvalidImage, ValidImage, verify_images
from jaxage.data.prepared import COLUMNS, MANIFEST, QUARANTINE, TABLE
from jaxage.data.records import SPLITS, DataError, Failure, Records, listed_failures
from jaxage.data.splits import assign_splits, leakage, require_splits
from jaxage.types import Json, Log
from jaxage.utils.files import write_csv, write_json
from jaxage.utils.text import quoted

Source = TypeVar("Source")

BeforePublish = Callable[[Path, CheckedFaces], None]
"""Called on the finished folder before it is renamed: what it adds to the folder appears together with the dataset."""


def _add_nothing(folder: Path, faces: CheckedFaces) -> None:
    pass


def prepare_dataset(
    importer: Importer[Source],
    source: Source,
    options: PrepareOptions,
    before_publish: BeforePublish = _add_nothing,
    log: Log = print,
) -> Path:
    """Check, divide and pack the faces of a source; the folder that then holds them.

    `tfds.builder_from_directory` reads the folder (see `tfds_format`). It also has `faces.csv` (a line for each image,
    with its SHA-256), `quarantine.csv` (every image that is not used, and why) and `manifest.json`: `source_sha256`,
    `funnel` and `images` (what each filter kept and dropped, of the metadata and of the images), `age_formula`,
    `splits`, `leakage`, and all settings. The folder appears when it is complete, or not at all. If it is there already
    and complete, nothing is done.

    If the source asks for its metadata alone, no image is read and the folder has only `manifest.json`.

    Args:
        importer: An entry of `IMPORTERS`, or one of your own.
        source: The importer's options: where the source is and what is wanted of it.
        options: How the images are checked and divided, and where the folder is made.
        before_publish: Adds to the folder before it is published.
        log: Takes the counts.

    Raises:
        DataError: if the source cannot be used, a split stays empty, more images than `options.max_bad` are bad, the
            folder holds something else, or another process is preparing it.
    """
    with importer.open(source, options.seed) as faces:
        out = (options.out or faces.folder / f"{faces.name}-prepared").resolve()
        settings = {name: value for name, value in asdict(options).items() if name != "out"}
        about = {"name": faces.name, **faces.about, "settings": settings | faces.settings}
        if is_prepared(out, about, log):
            return out
        about["funnel"] = [step._asdict() for step in faces.steps]
        with unfinished_folder(out) as work:
            if is_prepared(out, about, log):
                return out
            log(funnel_table(faces.steps))
            if faces.metadata_only:
                _write_counts(faces, about, options, out, log)
                return out
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                checked, invalid = _check(faces, about, options, out, pool, log)
            folder = _pack(checked, importer, invalid, work)
            before_publish(folder, checked)
            publish(folder, out)
    log(_summary(checked.about))
    log(f"written: {out}")
    return out


def _write_counts(faces: ImportedFaces, about: Json, options: PrepareOptions, out: Path, log: Log) -> None:
    records = _divide(faces.records, options, str(about["source"]))
    out.mkdir(exist_ok=True)
    write_json(out / MANIFEST, about | {"images": [], "split": options.split, **_split_counts(records)})
    log(f"written: {out / MANIFEST}; no image was read")


def _check(
    faces: ImportedFaces, about: Json, options: PrepareOptions, out: Path, pool: ThreadPoolExecutor, log: Log
) -> tuple[CheckedFaces, list[InvalidImage]]:
    """The images that can be used, with splits and anonymous people, and the images that cannot."""
    found = verify_images(faces.read, faces.records.path.tolist(), options.min_side, pool)
    found = _without_copies(faces.records, found)
    invalid = [each for each in found if isinstance(each, InvalidImage)]
    steps = _image_steps(len(found), invalid)
    log(funnel_table(steps))
    _refuse_too_many(str(about["source"]), invalid, len(found), options.max_bad, out)
    if invalid:
        require_some(
            steps, quoted(str(about["source"])), f"the first is {quoted(invalid[0].path)}: {invalid[0].reason}"
        )
    valid = [each for each in found if isinstance(each, ValidImage)]
    rows = np.asarray([row for row, each in enumerate(found) if isinstance(each, ValidImage)], np.int64)
    records = faces.records.take(rows)
    pairs = near_pairs(np.asarray([each.fingerprint for each in valid], np.uint64).reshape(-1, 2), pool)
    joined = join(records.identity.tolist(), records.path.tolist(), pairs)
    records = _divide(replace(records, identity=np.asarray(joined, str)), options, str(about["source"]))
    records = replace(records, identity=np.asarray([_anonymous(name) for name in joined], str))
    about = about | {
        "images": [step._asdict() for step in steps],
        "near_duplicates": {
            "pairs": len(pairs),
            "images": len(np.unique(pairs)),
            "pairs_of_other_age": int((np.diff(records.age[pairs]) != 0).sum()),
        },
        "split": "given" if (faces.records.split != "").any() else options.split,
        **_split_counts(records),
    }
    digests, sizes = [each.sha256 for each in valid], np.asarray([each.size for each in valid], np.int64)
    return CheckedFaces(records, faces.face_score[rows], digests, sizes, faces.read, about), invalid


def _refuse_too_many(source: str, invalid: list[InvalidImage], count: int, max_bad: float, out: Path) -> None:
    """Raise DataError and write `quarantine.csv` if too many images are bad; copies do not count."""
    bad = [Failure(each.path, each.reason) for each in invalid if each.step != STEPS[-1]]
    if len(bad) > max_bad * count:
        out.mkdir(exist_ok=True)
        _write_quarantine(out, invalid)
        raise DataError(
            f"{quoted(source)}: {len(bad)} of {count} images cannot be used: mend them, or allow a larger share than "
            f"max_bad {max_bad:g}; all of them are in {out / QUARANTINE}\n{listed_failures(bad)}"
        )


def _write_quarantine(folder: Path, invalid: list[InvalidImage]) -> None:
    write_csv(folder / QUARANTINE, ("path", "reason"), ((each.path, each.reason) for each in invalid))


def _pack(faces: CheckedFaces, importer: Importer[Source], invalid: list[InvalidImage], work: Path) -> Path:
    """Write a folder below `work` with all files of the dataset."""
    from jaxage.data.prepare.tfds_format import write_dataset  # TFDS is slow to import and not there on every system

    folder = write_dataset(importer, faces, work / "tfds")
    _write_quarantine(folder, invalid)
    write_csv(folder / TABLE, (*COLUMNS, *faces.records.labels), table_rows(faces))
    table_sha256 = hashlib.sha256((folder / TABLE).read_bytes()).hexdigest()
    write_json(folder / MANIFEST, faces.about | {"table_sha256": table_sha256})
    return folder


def _without_copies(records: Records, found: list[ValidImage | InvalidImage]) -> list[ValidImage | InvalidImage]:
    rows = [row for row, each in enumerate(found) if isinstance(each, ValidImage)]
    digests = [each.sha256 for each in found if isinstance(each, ValidImage)]
    reasons = copies(digests, records.path[rows].tolist(), records.age[rows].tolist())
    left = list(found)
    for index, reason in reasons.items():
        left[rows[index]] = InvalidImage(str(records.path[rows[index]]), STEPS[-1], reason)
    return left


def _image_steps(count: int, invalid: list[InvalidImage]) -> list[FilterStep]:
    steps = []
    for name in STEPS:
        dropped = sum(each.step == name for each in invalid)
        count -= dropped
        steps.append(FilterStep(name, count, dropped))
    return steps


def _divide(records: Records, options: PrepareOptions, source: str) -> Records:
    try:
        if (records.split != "").any():
            require_splits(records)
            return records
        return assign_splits(records, options.split, options.seed, options.ratios())
    except DataError as error:
        raise DataError(f"{quoted(source)}: {error}") from error


def _split_counts(records: Records) -> Json:
    counts = {split: len(records.rows_of(split)) for split in SPLITS}
    return {"splits": counts, "leakage": leakage(records)}


def _summary(about: Json) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in about["splits"].items())
    leaks = about["leakage"]
    known, seen = leaks["test_images_known"], leaks["test_images_seen"]
    people = f"of {known:,} test images with an identity {seen:,} show someone seen in training"
    return f"{counts}; {about['near_duplicates']['pairs']:,} pairs of near-duplicates; " + (
        people if known else "no identities in test"
    )


def _anonymous(identity: str) -> str:
    return hashlib.blake2b(identity.encode(), digest_size=8).hexdigest() if identity else ""
