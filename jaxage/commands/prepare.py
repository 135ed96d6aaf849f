"""Prepare faces for training: the dataset, and pictures of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from jaxage.data.decode import decode_image, strict_warnings
from jaxage.data.importers.importer import ImportedFaces, Importer, LayoutError
from jaxage.data.importers.table import recognize
from jaxage.data.prepare.checked import CheckedFaces
from jaxage.data.prepare.options import PrepareOptions
from jaxage.data.prepare.output import move_into_place, require_empty, unfinished_folder
from jaxage.data.prepare.pipeline import prepare_dataset
from jaxage.data.records import SPLITS, DataError, spread
from jaxage.data.synthetic.faces import write_synthetic
from jaxage.photos.detector import open_network
from jaxage.photos.faces import cut_out_face
from jaxage.report.contact_sheet import contact_sheet
from jaxage.report.plots import age_histograms
from jaxage.types import Log

Source = TypeVar("Source")

_SHOWN, _SHOWN_SIZE = 48, 128


def prepare(importer: Importer[Source], source: Source, options: PrepareOptions, log: Log = print) -> Path:
    """Prepare a dataset (see `prepare_dataset`), with `ages.png` and `sample.png` in its folder."""
    if options.faces == "photo":
        importer = with_faces_cut_out(importer)
    try:
        out = prepare_dataset(importer, source, options, add_pictures, log)
    except LayoutError as error:
        found = recognize(error.paths)
        raise DataError(
            f"{error}" + (f"; its files are named as those of {found}: prepare {found}" * bool(found))
        ) from error
    log(f"go on with: jaxage train --data {out}")
    return out


def with_faces_cut_out(importer: Importer[Source]) -> Importer[Source]:
    """The importer with the face of each photo in place of the photo."""
    network = open_network()

    @contextmanager
    def opened(source: Source, seed: int) -> Iterator[ImportedFaces]:
        with importer.open(source, seed) as faces:
            yield faces._replace(read=lambda path: cut_out_face(network, faces.read(path)))

    return replace(importer, open=opened)


def add_pictures(folder: Path, faces: CheckedFaces) -> None:
    """Draw histograms of the ages, and a contact sheet of faces of all ages, the youngest first."""
    ages, records = faces.records.age, faces.records
    age_histograms(folder / "ages.png", {split: ages[records.rows_of(split)] for split in SPLITS})
    by_age = np.argsort(ages, kind="stable")
    shown = spread(by_age, _SHOWN)
    with strict_warnings():
        images = [decode_image(faces.read(str(records.path[row])), _SHOWN_SIZE) for row in shown]
    contact_sheet(folder / "sample.png", np.stack(images), [f"{ages[row]:g}" for row in shown], columns=8)


def prepare_synthetic(root: Path, faces: int, size: int, seed: int, log: Log = print) -> None:
    """Draw faces and write them like IMDb-crop (see `write_synthetic`), for `prepare imdb-crop`.

    Args:
        root: The folder to make; it must be empty or absent. It appears when it is complete, or not at all.
        faces: How many faces are drawn.
        size: Their height and width in pixels.
        seed: Another seed draws other faces.

    Raises:
        DataError: if the folder is not empty, or another process is making it.
        UserError: for fewer than 1 face or 32 pixels.
    """
    root = root.resolve()
    require_empty(root)
    with unfinished_folder(root) as work:
        require_empty(root)
        write_synthetic(work, faces, size, seed)
        move_into_place(work, root)
    log(f"written: {root}; go on with: jaxage prepare imdb-crop --root {root}")
