"""Arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import tyro

RunFolder = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]

_IMAGES_HELP = "Photos, folders with photos in and below them, or - for a list of them from stdin, one a line."
_FACES_HELP = (
    "photo: find the faces, and crop each as the training crops were. crop: take each image whole, as such a crop. "
    "auto: take an image whole if one face fills it as in training."
)

Images = Annotated[
    tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE...")]],
    tyro.conf.arg(help=_IMAGES_HELP),
]
FACES_HELP = tyro.conf.arg(help=_FACES_HELP)
