"""AgeDB: `NUMBER_NAME_AGE_GENDER.jpg`, 16,488 images of 568 people (Moschoglou et al., CVPR Workshops 2017)."""

import re

from jaxage.data.importers.labels import Label, label_importer

_NAME = re.compile(r"(?:.*/)?\d+_(\D.*)_(\d{1,3})_([mf])\.(?:jpe?g|png)", re.ASCII | re.IGNORECASE)
_GENDERS = {"m": "male", "f": "female"}


def parse_agedb(path: str) -> Label | None:
    """The label of `0_MariaCallas_35_f.jpg`: 35 years, female, and who it is."""
    name = _NAME.fullmatch(path)
    return Label(float(name[2]), name[1], _GENDERS[name[3].lower()]) if name else None


AGEDB = label_importer(
    "agedb",
    "AgeDB: people, ages and genders in file names.",
    parse_agedb,
    "0_MariaCallas_35_f.jpg",
    homepage="https://ibug.doc.ic.ac.uk/resources/agedb/",
    terms="For non-commercial research only, as its authors ask; the images belong to their owners.",
    citation="""\
@inproceedings{moschoglou2017agedb,
  author = {Stylianos Moschoglou and Athanasios Papaioannou and Christos Sagonas and Jiankang Deng and
            Irene Kotsia and Stefanos Zafeiriou},
  title = {{AgeDB}: the first manually collected, in-the-wild age database},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition Workshops},
  year = {2017},
}""",
)
