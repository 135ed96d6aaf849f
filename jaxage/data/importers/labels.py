"""Datasets of faces whose labels stand in the names of their files and folders."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxage.data.files import ReadImage, open_files
from jaxage.data.importers.importer import FilterStep, ImportedFaces, Importer, LayoutError, require_some
from jaxage.data.records import SPLITS, DataError, Records, make_records
from jaxage.types import Json, Split
from jaxage.utils.text import quoted, visible

_LISTED = 100


class Label(NamedTuple):
    """What a path says of a face; "" where it says nothing."""

    age: float
    identity: str = ""
    gender: str = ""
    split: Split | str = ""
    ethnicity: str = ""


ParseLabel = Callable[[str], Label | None]
"""The label that a file's path gives, or None for a file of another name."""


@dataclass(frozen=True)
class LabelsOptions:
    """Where a dataset is."""

    source: Path
    """The folder as it was unpacked, or the tar, tar.gz or zip file as it was downloaded, which is read in place."""


def label_importer(name: str, title: str, parse: ParseLabel, example: str, **about: Any) -> Importer[LabelsOptions]:
    """An importer of a dataset whose labels stand in its paths.

    Args:
        name: Of the importer and of the dataset.
        title: A sentence for its help.
        parse: Reads a path.
        example: A path of the dataset, for messages.
        about: `homepage`, `citation` and `terms`.
    """
    return Importer(
        name=name,
        title=title,
        options=LabelsOptions,
        open=partial(_open, name, parse, example),
        tfds_name=name.replace("-", "_"),
        is_named=lambda path: parse(path) is not None,
        **about,
    )


@contextmanager
def _open(name: str, parse: ParseLabel, example: str, options: LabelsOptions, seed: int) -> Iterator[ImportedFaces]:
    source = options.source
    with open_files(source) as files:
        labels = {path: parse(path) if _is_text(path) else None for path in files.paths()}
        found = {path: label for path, label in labels.items() if label is not None}
        if not found:
            raise LayoutError(
                f"{quoted(source)}: none of its {len(labels):,} files is named as {name} names them ({example})",
                list(labels),
            )
        steps = [FilterStep("files", len(labels), 0), FilterStep("name", len(found), len(labels) - len(found))]
        others = [visible(path) for path, label in labels.items() if label is None]
        about = {
            "source": str(source),
            "source_sha256": hashlib.sha256("\n".join(labels).encode(errors="surrogateescape")).hexdigest(),
            "age_formula": "given",
            "other_names": others[:_LISTED],
        }
        yield labeled_faces(name, source.resolve().parent, found, files.read, steps, about)


def _is_text(path: str) -> bool:
    """Whether a name of the file system is UTF-8, so that tables can hold it."""
    return path == path.encode(errors="ignore").decode()


def labeled_faces(
    name: str, folder: Path, labels: dict[str, Label], read: ReadImage, steps: Sequence[FilterStep], about: Json
) -> ImportedFaces:
    """The labeled faces with ages in 0-100.

    Args:
        name: Of the dataset.
        folder: Where the prepared folder is made.
        labels: By the path of each image.
        read: Reads the images.
        steps: The filters so far.
        about: For the manifest.

    Raises:
        DataError: if no age is left, and as `label_records` does.
    """
    kept = {path: label for path, label in labels.items() if 0 <= label.age <= 100}
    steps = [*steps, FilterStep("age", len(kept), len(labels) - len(kept))]
    where = quoted(Path(about["source"]))
    require_some(steps, where, "ages must lie in 0-100")
    return ImportedFaces(
        name=name,
        folder=folder,
        records=label_records(kept, where),
        face_score=np.full(len(kept), np.nan, np.float32),
        read=read,
        steps=steps,
        about=about,
        settings={},
    )


def label_records(labels: dict[str, Label], where: str) -> Records:
    """The table of labels by path; `where` names their source in errors.

    Raises:
        DataError: if some images have a split and others have none, or if one of the three splits has no image.
    """
    splits = [label.split for label in labels.values()]
    found = sorted({split for split in splits if split})
    if found and ("" in splits or len(found) < len(SPLITS)):
        raise DataError(
            f"{where} has folders for {' and '.join(found)}, but not every image lies in one of "
            f"{', '.join(SPLITS)}, or one of these is missing: make all three, or none"
        )
    ethnicities = [label.ethnicity for label in labels.values()]
    return make_records(
        list(labels),
        [label.age for label in labels.values()],
        [label.identity for label in labels.values()],
        splits,
        [label.gender for label in labels.values()],
        {"ethnicity": ethnicities} if any(ethnicities) else None,
    )
