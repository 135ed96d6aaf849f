"""The arguments of `jaxage explain`."""

from pathlib import Path
from typing import Annotated

from jaxage.commands.arguments.shared import FACES_HELP, Images, RunFolder
from jaxage.commands.explain import explain as explain_images
from jaxage.photos.files import read_names
from jaxage.types import FacesIn
from jaxage.utils.runtime import prepare_jax


def explain(
    run: RunFolder,
    images: Images,
    faces: Annotated[FacesIn, FACES_HELP] = "auto",
    out: Path = Path("explained"),
) -> None:
    """Show where a model looks: for each face, what makes it say older or younger.

    Args:
        run: The folder of a finished run, or its model folder.
        out: The folder for a picture of each.
    """
    prepare_jax()
    explain_images(run, read_names(images), out, faces)
