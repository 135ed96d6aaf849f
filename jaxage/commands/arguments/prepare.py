"""The arguments of `jaxage prepare`: a subcommand for each importer, and one that draws faces."""

from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from jaxage.commands.prepare import prepare as prepare_faces
from jaxage.commands.prepare import prepare_synthetic
from jaxage.data.importers.importer import Importer
from jaxage.data.importers.table import IMPORTERS
from jaxage.data.load import DEMO_FACES, DEMO_SIZE
from jaxage.data.prepare.options import PrepareOptions


def _prepare_command(importer: Importer[Any]) -> Any:
    """The command of an importer, as a type for tyro."""

    def command(source: Any, options: Annotated[PrepareOptions, tyro.conf.arg(name="")]) -> None:
        prepare_faces(importer, source, options)

    command.__annotations__["source"] = Annotated[importer.options, tyro.conf.arg(name="")]
    about = tyro.conf.subcommand(importer.name, description=importer.title, constructor=command)
    return Annotated[Any, about, tyro.conf.OmitArgPrefixes]


def draw_synthetic(root: Path, faces: int = DEMO_FACES, size: int = DEMO_SIZE, seed: int = 0) -> None:
    """Draw faces, and write them as a tree of IMDb-crop for prepare imdb-crop.

    Args:
        root: The folder to write imdb.mat and the images into.
        faces: How many.
        size: Their height and width in pixels.
        seed: Another seed draws other faces.
    """
    prepare_synthetic(root, faces, size, seed)


_PREPARATIONS = [
    *(_prepare_command(importer) for importer in IMPORTERS.values()),
    Annotated[Any, tyro.conf.subcommand("synthetic", constructor=draw_synthetic)],
]
_Preparation: Any = Union[tuple(_PREPARATIONS)]  # noqa: UP007


def prepare(done: Annotated[_Preparation, tyro.conf.arg(name="")]) -> None:
    """Choose, check and divide faces, and pack them for train --data."""
