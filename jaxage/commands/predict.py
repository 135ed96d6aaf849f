"""`jaxage predict`: every face of photos, with its age, by the model of a run."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxage.data.decode import ImageError, strict_warnings
from jaxage.data.parallel import in_order
from jaxage.photos.faces import TOO_SMALL, FaceFinder, FoundFace, make_face_finder
from jaxage.photos.files import list_photos, read_photo
from jaxage.training.predictor import Estimate, Predictor, load_predictor
from jaxage.types import FacesIn, RunPath, UserError


class Face(NamedTuple):
    """A face of a photo and its age.

    box: left, top, right, bottom of the face in pixels of the upright photo; None if the photo was taken as a crop
        without looking for a face.
    score: how sure the detector is, 0-1; None likewise.
    estimate: the age; None for a face that is too small, with the `reason`.
    """

    box: tuple[float, ...] | None
    score: float | None
    estimate: Estimate | None
    reason: str = ""


class Photo(NamedTuple):
    """A photo and its faces from left to right; `reason` says why there are none."""

    path: str
    faces: tuple[Face, ...]
    reason: str = ""

    @property
    def failed(self) -> bool:
        """Whether the photo gave no age."""
        return all(face.estimate is None for face in self.faces)


def predict(
    run: RunPath, images: Sequence[str | Path], faces: FacesIn = "auto", coverage: float = 0.9, batch_size: int = 32
) -> Iterator[Photo]:
    """The faces of each photo with their ages, in the order of the photos.

    A photo that cannot be read, or that shows no face, has a reason and no faces; the others go on. Memory does not
    grow with the number of photos.

    Args:
        run: The folder of a finished run, its `model/` folder, or `hf://owner/name@revision` on the Hugging Face Hub.
        images: Files, and folders with images in them or below them.
        faces: "photo" finds the faces and crops each as the training crops were; "crop" takes each image whole, as a
            crop like those of the training; "auto" takes an image whole if one face fills it as in the training.
        coverage: The probability with which an interval is to hold the true age.
        batch_size: Faces per step.

    Raises:
        UserError: for a run without a model, no images, and a missing extra `photos`.
        WeightsUnavailableError: if the detector cannot be downloaded.
    """
    predictor = load_predictor(run, batch_size, coverage)
    config = predictor.config
    if not images:
        raise UserError("no images: name at least one image file, or a folder")
    paths = list_photos(map(str, images))
    finder = make_face_finder(faces, config.image_size, config.input(), config.framing)
    return _estimate(predictor, partial(faces_of, finder), paths)


Found = list[FoundFace] | str
"""The faces of a photo, or why there are none."""


def faces_of(finder: FaceFinder, path: str) -> Found:
    """The faces of a photo file, or why there are none."""
    try:
        return finder(read_photo(path)) or "no face found"
    except ImageError as error:
        return str(error)


def _estimate(predictor: Predictor, find: Callable[[str], Found], paths: Sequence[str]) -> Iterator[Photo]:
    waiting: list[tuple[str, Found]] = []
    with strict_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for path, found in zip(paths, in_order(pool, find, paths, "photos", chunk=1), strict=True):
            waiting.append((path, found))
            if _count(waiting) >= predictor.batch_size:
                yield from estimate_faces(predictor, waiting)
                waiting = []
        yield from estimate_faces(predictor, waiting)


def estimate_faces(predictor: Predictor, photos: Iterable[tuple[str, Found]]) -> list[Photo]:
    """Ages of the faces that were found in photos, all of them together in batches."""
    photos = list(photos)
    pixels = [face.pixels for _, found in photos if not isinstance(found, str) for face in found]
    crops = [crop for crop in pixels if crop is not None]
    estimates = iter(predictor(np.stack(crops)) if crops else ())

    return [
        Photo(path, (), found) if isinstance(found, str) else name_faces(path, found, estimates)
        for path, found in photos
    ]


def name_faces(path: str, found: Iterable[FoundFace], estimates: Iterator[Estimate]) -> Photo:
    """A photo with its faces; each face that is large enough takes the next estimate."""

    def face(each: FoundFace) -> Face:
        if each.pixels is None:
            return Face(each.box, each.score, None, TOO_SMALL)
        return Face(each.box, each.score, next(estimates))

    return Photo(path, tuple(map(face, found)))


def _count(waiting: list[tuple[str, Found]]) -> int:
    return sum(1 if isinstance(found, str) else len(found) for _, found in waiting)
