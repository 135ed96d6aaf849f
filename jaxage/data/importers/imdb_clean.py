"""IMDB-CLEAN: cleaned ages of a part of IMDb's photos, with splits (Lin, Shen, Wang and Pantic, 2021).

`csvs/imdb_train_new.csv`, `imdb_valid_new.csv` and `imdb_test_new.csv` of its repository have the columns filename, age
and gender; a filename is a path in imdb_crop, and names the person (`nm0000001`). The tables' boxes lie in the whole
photos: where a photo shows several people, its crop in imdb_crop may show another one than the box.

Nobody in test is in another split, but some people are in both train and validation: Paplhám and Franc's benchmark
(CVPR 2024) checks it. Of several rows of one image the last is taken.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jaxage.data.files import Files, open_files
from jaxage.data.importers.csv_table import named_cells, read_table
from jaxage.data.importers.importer import FilterStep, ImportedFaces, Importer, LayoutError
from jaxage.data.importers.labels import Label, labeled_faces
from jaxage.data.records import DataError
from jaxage.types import Split
from jaxage.utils.text import parse_number, quoted

_TABLES: dict[str, Split] = {
    "imdb_train_new.csv": "train",
    "imdb_valid_new.csv": "validation",
    "imdb_test_new.csv": "test",
}
_COLUMNS = ("filename", "age", "gender")
_PERSON = re.compile(r"(?:.*/)?(nm\d+)_.*")
_GENDERS = {"m": "male", "f": "female"}
_IMAGES = ("imdb_crop", "data/imdb_crop", "imdb_crop.tar", "data/imdb_crop.tar")


@dataclass(frozen=True)
class ImdbCleanOptions:
    """Where IMDB-CLEAN and the crops of IMDB-WIKI are."""

    source: Path
    """A folder with the three CSVs, or with csvs/ that holds them, and with imdb_crop or imdb_crop.tar."""


@contextmanager
def _open(options: ImdbCleanOptions, seed: int) -> Iterator[ImportedFaces]:
    source = options.source
    tables = _tables(source)
    images = next((source / name for name in _IMAGES if (source / name).exists()), None)
    if images is None:
        raise DataError(
            f"{quoted(source)} holds neither imdb_crop nor imdb_crop.tar: download the crops of IMDB-WIKI into it"
        )
    with open_files(images) as files:
        rows = [row for path, split in tables.items() for row in _labels(path, split)]
        labels = dict(rows)
        prefix = "" if images.is_dir() else _prefix(files, labels)
        labels = {prefix + path: label for path, label in labels.items()}
        about = {
            "source": str(source),
            "source_sha256": hashlib.sha256(b"".join(path.read_bytes() for path in tables)).hexdigest(),
            "age_formula": "given",
        }
        steps = [
            FilterStep("records", len(rows), 0),
            FilterStep("other image", len(labels), len(rows) - len(labels)),
        ]
        yield labeled_faces("imdb-clean", source.resolve(), labels, files.read, steps, about)


def _tables(source: Path) -> dict[Path, Split]:
    """The CSV of each split. Raises LayoutError if one is missing."""
    for folder in (source, source / "csvs"):
        found = {folder / name: split for name, split in _TABLES.items() if (folder / name).is_file()}
        if len(found) == len(_TABLES):
            return found
    with open_files(source) as files:
        raise LayoutError(f"{quoted(source)} holds no {', '.join(_TABLES)}, and no csvs with them", files.paths())


def _labels(path: Path, split: Split) -> Iterator[tuple[str, Label]]:
    for line, row in named_cells(read_table(path, _COLUMNS), path, _COLUMNS):
        try:
            age = parse_number(row["age"])
        except (KeyError, ValueError) as error:
            raise DataError(f"{quoted(path)}: line {line} has no age: download it again") from error
        person = _PERSON.fullmatch(row["filename"])
        gender = _GENDERS.get(row.get("gender", "")[:1].lower(), "")
        yield str(PurePosixPath(row["filename"])), Label(age, person[1] if person else "", gender, split)


def _prefix(files: Files, labels: dict[str, Label]) -> str:
    """The folder that the paths start from in an archive: none, or imdb_crop/."""
    present = set(files.paths())
    return next((prefix for prefix in ("", "imdb_crop/") if any(prefix + path in present for path in labels)), "")


IMDB_CLEAN = Importer(
    "imdb-clean",
    "IMDB-CLEAN: cleaned ages of IMDb's crops, with its own splits.",
    ImdbCleanOptions,
    _open,
    tfds_name="imdb_clean",
    homepage="https://github.com/yiminglin-ai/imdb-clean",
    citation="""\
@article{lin2021fpage,
  author = {Yiming Lin and Jie Shen and Yujiang Wang and Maja Pantic},
  title = {{FP-Age}: Leveraging Face Parsing Attention for Facial Age Estimation in the Wild},
  journal = {arXiv:2106.11145},
  year = {2021},
}""",
    terms="Labels under the MIT license; images for academic, non-commercial research only, as for IMDB-WIKI.",
    is_named=lambda path: PurePosixPath(path).name in _TABLES,
)
