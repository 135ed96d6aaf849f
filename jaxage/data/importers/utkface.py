"""UTKFace: `AGE_GENDER_RACE_DATE.jpg.chip.jpg` (Zhang, Song and Qi, CVPR 2017).

The names are those of the dataset's page: ages 0-116, gender 0 for male and 1 for female, race 0-4, and a date of 17
digits. A few names have a broken date or ending, or lack gender or race; their ages are still the first number. Where
one field is left nobody can tell which (`61_1_...`, `61_3_...`: 3 can only be a race), so the gender is unknown.
"""

import re

from jaxage.data.importers.labels import Label, label_importer

_NAME = re.compile(r"(?:.*/)?(\d{1,3})_(?:(\d?)_(\d?)_|\d_)?\d{12,}\D.*", re.ASCII)
_GENDERS = {"0": "male", "1": "female"}
_ETHNICITIES = {"0": "White", "1": "Black", "2": "Asian", "3": "Indian", "4": "other"}


def parse_utkface(path: str) -> Label | None:
    """The label of `30_1_2_20170116174525125.jpg.chip.jpg`: 30 years, female, Asian."""
    name = _NAME.fullmatch(path)
    if name is None:
        return None
    gender, ethnicity = _GENDERS.get(name[2] or "", ""), _ETHNICITIES.get(name[3] or "", "")
    return Label(float(name[1]), gender=gender, ethnicity=ethnicity)


UTKFACE = label_importer(
    "utkface",
    "UTKFace: ages in file names; no identities.",
    parse_utkface,
    "30_1_2_20170116174525125.jpg.chip.jpg",
    homepage="https://susanqq.github.io/UTKFace/",
    terms="For non-commercial research only, as its authors ask; the images belong to their owners.",
    citation="""\
@inproceedings{zhang2017age,
  author = {Zhifei Zhang and Yang Song and Hairong Qi},
  title = {Age Progression/Regression by Conditional Adversarial Autoencoder},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2017},
}""",
)
