"""The arguments of `jaxage predict`."""

from pathlib import Path
from typing import Annotated

from tqdm import tqdm

from jaxage.commands.arguments.shared import FACES_HELP, Images, RunFolder
from jaxage.commands.photo_rows import photo_writer, screen_lines
from jaxage.commands.predict import predict as find_ages
from jaxage.photos.files import read_names
from jaxage.types import FacesIn, UserError
from jaxage.utils.runtime import prepare_jax


def predict(
    run: RunFolder,
    images: Images,
    faces: Annotated[FacesIn, FACES_HELP] = "auto",
    coverage: float = 0.9,
    out: Path | None = None,
) -> None:
    """Find the faces of photos, and print the age of each in years.

    Args:
        run: The folder of a finished run, or its model folder.
        coverage: The probability with which the interval after an age is to hold the true age, 0.5 to 0.99.
        out: A .csv or .jsonl file for all of it: box, score, age, interval, and the probability of each year.
    """
    prepare_jax()
    failed = 0
    with photo_writer(out) as write:
        for photo in find_ages(run, read_names(images), faces, coverage):
            write(photo)
            tqdm.write("\n".join(screen_lines(photo)))
            failed += photo.failed
    if failed:
        raise UserError(f"{failed} of the images gave no age; their lines say why")
