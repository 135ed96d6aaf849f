"""AFAD, the Asian Face Age Dataset: `AGE/GENDER/NUMBER-n.jpg` (Niu, Zhou, Wang, Gao and Hua, CVPR 2016).

The folder 111 is male, 112 female, as the dataset's page says. Images of one number are taken as one person's.
AFAD-Lite is laid out alike.
"""

import re

from jaxage.data.importers.labels import Label, label_importer

_NAME = re.compile(r"(?:.*/)?(\d{1,3})/(111|112)/(\d+)(?:-\d+)?\.(?:jpe?g|png)", re.ASCII | re.IGNORECASE)
_GENDERS = {"111": "male", "112": "female"}


def parse_afad(path: str) -> Label | None:
    """The label of `15/111/638660-1.jpg`: 15 years, male, person 638660."""
    name = _NAME.fullmatch(path)
    return Label(float(name[1]), name[3], _GENDERS[name[2]]) if name else None


AFAD = label_importer(
    "afad",
    "AFAD: ages and genders in folder names.",
    parse_afad,
    "15/111/638660-1.jpg",
    homepage="https://github.com/John-niu-07/tarball",
    terms="For academic, non-commercial research only, as its authors ask.",
    citation="""\
@inproceedings{niu2016ordinal,
  author = {Zhenxing Niu and Mo Zhou and Le Wang and Xinbo Gao and Gang Hua},
  title = {Ordinal Regression with Multiple Output {CNN} for Age Estimation},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2016},
}""",
)
