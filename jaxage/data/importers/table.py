"""All importers. A further one is a file with its options and its open function, and an entry here."""

from typing import Any

from jaxage.data.importers.csv_file import CSV
from jaxage.data.importers.imdb_crops import IMDB_CROP, WIKI_CROP
from jaxage.data.importers.importer import Importer

IMPORTERS: dict[str, Importer[Any]] = {each.name: each for each in (IMDB_CROP, WIKI_CROP, CSV)}
"""Importers by the name of their command."""
