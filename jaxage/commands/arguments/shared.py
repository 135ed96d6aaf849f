"""Arguments that several commands have."""

from pathlib import Path
from typing import Annotated

import tyro

_IMAGES_HELP = "Photos, folders with photos in and below them, or - for a list of them from stdin, one a line."

RunFolder = tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
Images = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="IMAGE...", help=_IMAGES_HELP)]]
FACES_HELP = tyro.conf.arg(
    help="photo: find the faces, and crop each as the training crops were. crop: take each image whole, as such a "
    "crop. auto: take an image whole if one face fills it as in training."
)
