"""Read a folder that `jaxage prepare` has made: its table, its manifest, and the images in its TFDS dataset."""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxage.data.files import ReadImage
from jaxage.data.records import SPLITS, DataError, Records, make_records
from jaxage.types import Json, SplitRule
from jaxage.utils.text import quoted

TABLE, MANIFEST, QUARANTINE = "faces.csv", "manifest.json", "quarantine.csv"
COLUMNS = ("path", "age", "identity", "split", "gender", "face_score", "sha256")
"""The columns of the table; the names of `Records.labels` follow."""


class Prepared(NamedTuple):
    """A prepared dataset.

    name: what it calls itself.
    records: rows in the order of its table.
    sha256: of every image file.
    read: gives an image's bytes by its path.
    split: the rule that decided its splits.
    """

    name: str
    records: Records
    sha256: list[str]
    read: ReadImage
    split: SplitRule | Literal["given"]


def open_prepared(folder: Path) -> Prepared:
    """Open a prepared folder.

    Raises:
        DataError: if the folder is not complete, or its files have been changed.
    """
    from jaxage.data.prepare.tfds_format import open_dataset  # TFDS is slow to import and not there on every system

    table = folder / TABLE
    manifest = read_manifest(folder)
    if not table.is_file():
        raise DataError(
            f"{folder} has a {MANIFEST} and no faces: prepare it with its images, not only with its metadata"
        )
    text = table.read_bytes()
    if hashlib.sha256(text).hexdigest() != manifest.get("table_sha256"):
        raise DataError(f"{table} has been changed since it was prepared: prepare it again")
    header, *lines = csv.reader(io.StringIO(text.decode(), newline=""))
    columns = dict(zip(header, zip(*lines, strict=True), strict=True))
    ages = [float(age) for age in columns["age"]]
    labels = {name: column for name, column in columns.items() if name not in COLUMNS}
    records = make_records(columns["path"], ages, columns["identity"], columns["split"], columns["gender"], labels)
    sources = open_dataset(folder)
    places: dict[str, tuple[Any, int]] = {}
    for split in SPLITS:
        rows = records.rows_of(split)
        if len(sources[split]) != len(rows):
            raise DataError(
                f"{folder}: {len(sources[split])} images in {split}, {len(rows)} in {TABLE}: prepare it again"
            )
        places |= {path: (sources[split], i) for i, path in enumerate(records.path[rows].tolist())}

    def read(path: str) -> bytes:
        source, index = places[path]
        try:
            data: bytes = source[index]["image"]
        except Exception as error:  # of TFDS or array_record, for files that are gone, cut short or altered
            raise DataError(
                f"{quoted(folder)}: {quoted(path)} cannot be read from it ({error}): prepare it again"
            ) from error
        return data

    return Prepared(manifest["name"], records, list(columns["sha256"]), read, manifest["split"])


def read_manifest(folder: Path) -> Json:
    """The manifest of a prepared folder. Raises DataError if there is none, or it cannot be read."""
    try:
        manifest: Json = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(
            f"{folder} holds no {MANIFEST}: give a CSV file, or a folder that jaxage prepare has written"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST} cannot be read ({error}): prepare it again") from error
    if not isinstance(manifest, dict) or not {"name", "split", "settings"} <= manifest.keys():
        raise DataError(f"{folder / MANIFEST} is not one that jaxage prepare has written: prepare it again")
    return manifest
