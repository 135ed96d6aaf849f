"""What an importer is: a source of faces, and all that the command line, the manifest and TFDS say of it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float32

from jaxage.data.files import ReadImage
from jaxage.data.records import DataError, Records
from jaxage.types import Json

Source = TypeVar("Source")


class FilterStep(NamedTuple):
    """How many records a filter kept and dropped, of those that the filters before it had kept."""

    step: str
    kept: int
    dropped: int


class ImportedFaces(NamedTuple):
    """The faces that an importer offers; their images are not checked yet.

    name: names the dataset, and the folder NAME-prepared.
    folder: where that folder is made if no other is asked for.
    records: one row for each image that is wanted; paths may be unsafe.
    face_score: (n,) float32, the detector's score, NaN if unknown.
    read: gives an image's bytes by its path.
    steps: the filters that led to the records; the first one counts all of them.
    about: for the manifest, with `source`, `source_sha256` and `age_formula`.
    settings: for the manifest: what the source's options are. A prepared folder with other settings is not reused.
    metadata_only: whether only the counts are wanted, and no image is to be read.
    """

    name: str
    folder: Path
    records: Records
    face_score: Float32[np.ndarray, " n"]
    read: ReadImage
    steps: Sequence[FilterStep]
    about: Json
    settings: Json
    metadata_only: bool = False


class LayoutError(DataError):
    """A source that is laid out otherwise than the importer expects; `paths` are those of its files."""

    def __init__(self, message: str, paths: Sequence[str]) -> None:
        super().__init__(message)
        self.paths = paths


def is_never_named(path: str) -> bool:
    """No path names a label: for importers that read their labels from tables."""
    return False


@dataclass(frozen=True)
class Importer(Generic[Source]):
    """A kind of source that `jaxage prepare NAME` reads.

    name: of the command.
    title: a sentence for its help.
    options: a frozen dataclass that says where the source is and what is wanted of it. The docstrings of its fields are
        their help; a field `file` or `source` is given without a flag.
    open: (options, seed) -> a context that gives the faces; their images can be read until it ends. Raises DataError
        for a source that cannot be used.
    tfds_name, homepage, citation, terms: what the TFDS dataset says of itself.
    is_named: whether a file's path is one of this dataset's; with it, the dataset is recognized.
    """

    name: str
    title: str
    options: type[Source]
    open: Callable[[Source, int], AbstractContextManager[ImportedFaces]]
    tfds_name: str
    homepage: str | None = None
    citation: str = ""
    terms: str = "The terms of the images are those of their source."
    is_named: Callable[[str], bool] = is_never_named


def funnel_table(steps: Sequence[FilterStep]) -> str:
    """A line for each filter, for the screen."""
    lines = [f"{'':<12}{'kept':>10}{'dropped':>10}"]
    return "\n".join(lines + [f"{step:<12}{kept:>10,}{dropped:>10,}" for step, kept, dropped in steps])


def require_some(steps: Sequence[FilterStep], where: str, remedy: str) -> None:
    """Raise DataError if the filters drop everything; it names the filter that drops the last records."""
    empty = next((step for step in steps if not step.kept), None)
    if empty is not None:
        raise DataError(f"{where}: the criterion {empty.step!r} drops all records: {remedy}\n{funnel_table(steps)}")
