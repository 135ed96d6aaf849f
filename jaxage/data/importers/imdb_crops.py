"""The importers of the two halves of IMDB-WIKI's face crops (Rothe, Timofte and Van Gool, IJCV 2018)."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from jaxage.data.files import path_fault
from jaxage.data.importers.filters import Criteria, filter_records
from jaxage.data.importers.imdb_files import open_crops
from jaxage.data.importers.imdb_mat import Collection, Metadata, collection_of, parse_metadata
from jaxage.data.importers.importer import ImportedFaces, Importer, require_some
from jaxage.data.records import Records, make_records
from jaxage.types import Rows

_CITATION = """\
@article{Rothe-IJCV-2018,
  author = {Rasmus Rothe and Radu Timofte and Luc Van Gool},
  title = {Deep expectation of real and apparent age from a single image without facial landmarks},
  journal = {International Journal of Computer Vision},
  volume = {126}, number = {2-4}, pages = {144-157}, year = {2018},
}"""


@dataclass(frozen=True)
class CropsOptions:
    """One half of IMDB-WIKI's face crops."""

    root: Path
    """The folder with imdb_crop.tar or wiki_crop.tar (read in place), that tar, or the extracted folder."""

    criteria: Criteria = field(default_factory=Criteria)
    """What a record must meet."""

    metadata_only: bool = False
    """Read the .mat file alone, print how many records each criterion keeps, and write manifest.json."""


@contextmanager
def _open(collection: Collection, source: CropsOptions, seed: int) -> Iterator[ImportedFaces]:
    root, criteria = source.root, source.criteria
    with open_crops(root, collection) as (where, mat, read):
        metadata = parse_metadata(mat, where, collection)
        kept, steps = filter_records(metadata, criteria, seed)
        require_some(steps, where, "lower min_face_score, widen the ages, or keep a larger fraction")
        rows = np.flatnonzero(kept)
        yield ImportedFaces(
            name=f"{collection}_crop",
            folder=root if root.is_dir() else root.parent,
            records=_records(metadata, rows, criteria),
            face_score=metadata.face_score[rows].astype(np.float32),
            read=read,
            steps=steps,
            about={
                "source": where,
                "source_sha256": hashlib.sha256(mat).hexdigest(),
                "age_formula": criteria.age_formula,
            },
            settings=asdict(criteria),
            metadata_only=source.metadata_only,
        )


def _records(metadata: Metadata, rows: Rows, criteria: Criteria) -> Records:
    paths = metadata.path[rows].tolist()
    gender = metadata.gender[rows]
    return make_records(
        [path if path_fault(path) else str(PurePosixPath(path)) for path in paths],
        metadata.ages(criteria.age_formula)[rows].astype(float).tolist(),
        metadata.identity[rows].tolist(),
        gender=np.select([gender == 0, gender == 1], ["female", "male"], "").tolist(),
    )


def _importer(collection: Collection, half: str) -> Importer[CropsOptions]:
    return Importer(
        name=f"{collection}-crop",
        title=f"The {half} half of IMDB-WIKI's face crops.",
        options=CropsOptions,
        open=partial(_open, collection),
        tfds_name=f"{collection}_crop",
        is_named=lambda path: collection_of(path) == collection or PurePosixPath(path).name == f"{collection}.mat",
        homepage="https://data.vision.ee.ethz.ch/cvl/rrothe/imdb-wiki/",
        citation=_CITATION,
        terms="For academic, non-commercial research only, as its authors ask.",
    )


IMDB_CROP = _importer("imdb", "IMDb")
WIKI_CROP = _importer("wiki", "Wikipedia")
