"""Images in a folder for each age, as torchvision's ImageFolder has classes: `30/x.jpg`, or `train/30/x.jpg`.

The folders of IMDB-WIKI (`00/nm0000100_...jpg`) and AFAD (`15/111/...jpg`) are numbers too, but not the age.
"""

import re
from pathlib import PurePosixPath

from jaxage.data.formats import image_endings
from jaxage.data.importers.afad import parse_afad
from jaxage.data.importers.csv_file import SPLIT_NAMES
from jaxage.data.importers.imdb_mat import collection_of
from jaxage.data.importers.labels import Label, label_importer

_AGE = re.compile(r"\d{1,3}", re.ASCII)


def parse_age_folder(path: str) -> Label | None:
    """The label of `train/30/x.jpg`: 30 years, in the training split."""
    parts = PurePosixPath(path.lower()).parts
    if len(parts) < 2 or not _AGE.fullmatch(parts[-2]) or not parts[-1].endswith(image_endings()):
        return None
    if collection_of(path) or parse_afad(path):
        return None
    return Label(float(parts[-2]), split=SPLIT_NAMES.get(parts[-3], "") if len(parts) > 2 else "")


FOLDER = label_importer(
    "folder",
    "Images in a folder for each age: 30/x.jpg, or train/30/x.jpg, val/30/y.jpg and test/30/z.jpg.",
    parse_age_folder,
    "30/x.jpg",
)
