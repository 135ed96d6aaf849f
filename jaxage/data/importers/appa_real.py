"""APPA-REAL: 7,591 photos with a real and an apparent age (Agustsson et al., FG 2017).

`gt_avg_train.csv`, `gt_avg_valid.csv` and `gt_avg_test.csv` have the columns file_name, num_ratings, apparent_age_avg,
apparent_age_std and real_age. The face of `train/000000.jpg`, with 40 % of it on each side, is
`train/000000.jpg_face.jpg`.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from jaxage.data.files import Files, open_files
from jaxage.data.importers.csv_table import named_cells, parse_table
from jaxage.data.importers.importer import FilterStep, ImportedFaces, Importer, LayoutError
from jaxage.data.importers.labels import Label, labeled_faces
from jaxage.data.records import DataError
from jaxage.types import Split
from jaxage.utils.text import parse_number, quoted

_SPLITS: dict[str, Split] = {"train": "train", "valid": "validation", "test": "test"}
_COLUMNS = ("file_name", "num_ratings", "apparent_age_avg", "apparent_age_std", "real_age")


@dataclass(frozen=True)
class AppaRealOptions:
    """Where APPA-REAL is, and which age is learned."""

    source: Path
    """The folder appa-real-release, the one with it in it, or the zip file, which is read in place."""

    age: Literal["real", "apparent"] = "real"
    """The person's age, or the mean of what about 38 people guessed."""


@contextmanager
def _open(options: AppaRealOptions, seed: int) -> Iterator[ImportedFaces]:
    source = options.source
    with open_files(source) as files:
        tables = _tables(source, files)
        labels: dict[str, Label] = {}
        apparent: dict[str, list[float]] = {}
        for name, (path, data) in tables.items():
            for row in _rows(data, source / path):
                face = str(PurePosixPath(path).parent / name / f"{row['file_name']}_face.jpg")
                ratings, mean, spread, real = (parse_number(row[column]) for column in _COLUMNS[1:])
                labels[face] = Label(real if options.age == "real" else mean, split=_SPLITS[name])
                apparent[face] = [mean, spread, ratings]
        about = {
            "source": str(source),
            "source_sha256": hashlib.sha256(b"".join(data for _, data in tables.values())).hexdigest(),
            "age_formula": options.age,
            "apparent_ages": apparent,
        }
        steps = [FilterStep("records", len(labels), 0)]
        faces = labeled_faces("appa-real", source.resolve().parent, labels, files.read, steps, about)
        yield faces._replace(settings={"age": options.age})


def _tables(source: Path, files: Files) -> dict[str, tuple[str, bytes]]:
    """Path and bytes of the CSV of each split. Raises LayoutError if one is missing."""
    paths = {PurePosixPath(path).name: path for path in files.paths()}
    names = {name: f"gt_avg_{name}.csv" for name in _SPLITS}
    if missing := [name for name in names.values() if name not in paths]:
        raise LayoutError(
            f"{quoted(source)} holds no {' and no '.join(missing)}: give the folder appa-real-release",
            list(paths.values()),
        )
    return {name: (paths[table], files.read(paths[table])) for name, table in names.items()}


def _rows(data: bytes, path: Path) -> Iterator[dict[str, str]]:
    for line, row in named_cells(parse_table(data, path, _COLUMNS), path, _COLUMNS):
        try:
            [parse_number(row[column]) for column in _COLUMNS[1:]]
        except (KeyError, ValueError) as error:
            raise DataError(f"{quoted(path)}: line {line} is incomplete ({error}): download APPA-REAL again") from error
        yield row


APPA_REAL = Importer(
    "appa-real",
    "APPA-REAL: real and apparent ages, with its own splits.",
    AppaRealOptions,
    _open,
    tfds_name="appa_real",
    homepage="https://chalearnlap.cvc.uab.cat/dataset/26/description/",
    citation="""\
@inproceedings{agustsson2017appareal,
  author = {Eirikur Agustsson and Radu Timofte and Sergio Escalera and Xavier Bar{\\'o} and Isabelle Guyon and
            Rasmus Rothe},
  title = {Apparent and real age estimation in still images with deep residual regressors on {APPA-REAL} database},
  booktitle = {IEEE International Conference on Automatic Face and Gesture Recognition},
  year = {2017},
}""",
    terms="For research only, as its authors ask.",
    is_named=lambda path: PurePosixPath(path).name in {f"gt_avg_{name}.csv" for name in _SPLITS},
)
