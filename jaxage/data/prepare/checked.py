"""Faces that have passed every check and have their splits: what is written to a prepared folder."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from jaxage.data.files import ReadImage
from jaxage.data.records import Records
from jaxage.types import Json


class CheckedFaces(NamedTuple):
    """One row for each image.

    records: every row has a split.
    face_score: (n,) float32, the detector's score, NaN if unknown.
    sha256, sizes: the hash and the number of each file's bytes.
    read: gives an image's bytes by its path.
    about: for the manifest and the TFDS metadata.
    """

    records: Records
    face_score: Float32[np.ndarray, " n"]
    sha256: list[str]
    sizes: Int64[np.ndarray, " n"]
    read: ReadImage
    about: Json


def table_rows(faces: CheckedFaces) -> list[tuple[str, ...]]:
    """The lines of `faces.csv`, with the columns `jaxage.data.prepared.COLUMNS` and those of `Records.labels`."""
    records = faces.records
    ages, scores = ([f"{value:.9g}" for value in column.tolist()] for column in (records.age, faces.face_score))
    columns = (
        records.path,
        ages,
        records.identity,
        records.split,
        records.gender,
        scores,
        faces.sha256,
        *records.labels.values(),
    )
    return list(zip(*columns, strict=True))
