"""All importers. A further one is a file with its options and its open function, and an entry here."""

from collections.abc import Sequence
from typing import Any

from jaxage.data.formats import image_endings
from jaxage.data.importers.afad import AFAD
from jaxage.data.importers.age_folders import FOLDER
from jaxage.data.importers.agedb import AGEDB
from jaxage.data.importers.appa_real import APPA_REAL
from jaxage.data.importers.csv_file import CSV
from jaxage.data.importers.fgnet import FGNET
from jaxage.data.importers.imdb_clean import IMDB_CLEAN
from jaxage.data.importers.imdb_crops import IMDB_CROP, WIKI_CROP
from jaxage.data.importers.importer import Importer
from jaxage.data.importers.morph import MORPH
from jaxage.data.importers.utkface import UTKFACE

_ALL = (IMDB_CROP, WIKI_CROP, IMDB_CLEAN, UTKFACE, AGEDB, APPA_REAL, AFAD, FGNET, MORPH, FOLDER, CSV)

IMPORTERS: dict[str, Importer[Any]] = {each.name: each for each in _ALL}
"""Importers by the name of their command."""

_CERTAIN = 3
_MOST = 0.5


def recognize(paths: Sequence[str]) -> str | None:
    """The importer whose tables are among these files, or whose dataset most of the images are of; None if unknown."""
    counts = {name: sum(map(importer.is_named, paths)) for name, importer in IMPORTERS.items()}
    tables = [name for name in ("appa-real", "imdb-clean") if counts[name] >= _CERTAIN]
    images = sum(path.lower().endswith(image_endings()) for path in paths)
    most = [name for name, count in counts.items() if count > _MOST * images]
    return next(iter(tables + most), None)
