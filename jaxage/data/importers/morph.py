"""MORPH: `009055_1M54.JPG` (Ricanek and Tesafaye, FG 2006); 55,134 images in album 2 (arXiv:1811.06446)."""

import re

from jaxage.data.importers.labels import Label, label_importer

_NAME = re.compile(r"(?:.*/)?(\d{3,})_\d+([MF])(\d{1,3})\.(?:jpe?g|png)", re.ASCII | re.IGNORECASE)
_GENDERS = {"M": "male", "F": "female"}


def parse_morph(path: str) -> Label | None:
    """The label of `009055_1M54.JPG`: person 009055, photo 1, male, 54 years."""
    name = _NAME.fullmatch(path)
    return Label(float(name[3]), name[1], _GENDERS[name[2].upper()]) if name else None


MORPH = label_importer(
    "morph",
    "MORPH: people, genders and ages in file names.",
    parse_morph,
    "009055_1M54.JPG",
    homepage="https://uncw.edu/myuncw/research/innovation-commercialization/technology-portfolio/morph",
    terms="As the license that it was obtained under says; the academic one is for research only.",
    citation="""\
@inproceedings{ricanek2006morph,
  author = {Karl Ricanek and Tamirat Tesafaye},
  title = {{MORPH}: A Longitudinal Image Database of Normal Adult Age-Progression},
  booktitle = {IEEE International Conference on Automatic Face and Gesture Recognition},
  year = {2006},
}""",
)
