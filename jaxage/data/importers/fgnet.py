"""FG-NET: `001A43b.JPG`, 1,002 images of 82 people (Panis, Lanitis, Tsapatsoulis and Cootes, IET Biometrics 2016)."""

import re

from jaxage.data.importers.labels import Label, label_importer

_NAME = re.compile(r"(?:.*/)?(\d{3})A(\d{2})[a-z]?\.(?:jpe?g|png)", re.ASCII | re.IGNORECASE)


def parse_fgnet(path: str) -> Label | None:
    """The label of `001A43b.JPG`: person 001 at 43 years, the second image of that age."""
    name = _NAME.fullmatch(path)
    return Label(float(name[2]), name[1]) if name else None


FGNET = label_importer(
    "fgnet",
    "FG-NET: people and ages in file names.",
    parse_fgnet,
    "001A43b.JPG",
    homepage="https://yanweifu.github.io/FG_NET_data/",
    terms="For research only; the images belong to the people who gave them.",
    citation="""\
@article{panis2016overview,
  author = {Gabriel Panis and Andreas Lanitis and Nicholas Tsapatsoulis and Timothy F. Cootes},
  title = {Overview of research on facial ageing using the {FG-NET} ageing database},
  journal = {IET Biometrics},
  volume = {5}, number = {2}, pages = {37-46}, year = {2016},
}""",
)
