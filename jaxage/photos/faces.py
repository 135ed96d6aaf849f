"""The faces of a photo, cropped for a model."""

import io
import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from jaxage.data.decode import MIN_SIDE, ImageError, open_image, square_pixels
from jaxage.data.image_cache import FaceCropper
from jaxage.photos.detector import Detections, Network, detect, iou, open_network, without_overlaps
from jaxage.photos.framing import IMDB_FRAMING, Square, cut, locate_face, place_of, square_of
from jaxage.types import FacesIn, Framing, InputContract

TOO_SMALL = f"face too small (its crop has less than {MIN_SIDE} pixels a side)"

_LARGE_FACES, _SMALL_FACES, _MARGIN = 320, 1280, 0.25
_LARGEST_CROP = 512
_AS_IN_TRAINING = 0.5

_VERSION = "faces of photos, version 1"

FaceFinder = Callable[[Image.Image], list["FoundFace"]]
"""The faces of an upright RGB image, from left to right; none is an empty list. Safe to call from many threads."""


class FoundFace(NamedTuple):
    """A face of a photo.

    box: left, top, right, bottom of the face in pixels of the upright photo; None for a crop that was taken as it is.
    score: the detector's, 0-1; None likewise.
    pixels: the square that the network takes; None if the face is too small.
    """

    box: tuple[float, ...] | None
    score: float | None
    pixels: UInt8[np.ndarray, "size size 3"] | None


def make_face_finder(faces: FacesIn, size: int, contract: InputContract, framing: Framing | None) -> FaceFinder:
    """A function that crops the faces of photos for a model.

    Args:
        faces: "crop" takes each image whole, as a crop like those of the training; "photo" finds the faces; "auto"
            takes an image whole if it shows one face that fills it as in the training.
        size: Height and width of the network's input in pixels.
        contract: How the network's input is resized.
        framing: Where faces sat in the model's training crops; without it, as in IMDb-crop.

    Raises:
        UserError: if the extra `photos` is not installed.
        WeightsUnavailableError: if the detector cannot be downloaded.
    """
    if faces == "crop":
        return lambda image: [FoundFace(None, None, _whole(image, size, contract))]
    if framing is None:
        framing = IMDB_FRAMING._replace(scale=IMDB_FRAMING.scale / contract.crop)
    return partial(_crop_faces, open_network(), faces == "auto", size, contract, framing)


def _whole(image: Image.Image, size: int, contract: InputContract) -> UInt8[np.ndarray, "size size 3"] | None:
    return square_pixels(image, size, contract) if min(image.size) >= MIN_SIDE else None


def _crop_faces(
    network: Network, auto: bool, size: int, contract: InputContract, framing: Framing, image: Image.Image
) -> list[FoundFace]:
    found = find_faces(network, image)
    squares = _squares(network, image, found, framing)
    if auto and len(squares) == 1 and iou(squares[0].box(), _network_sees(image, contract)) >= _AS_IN_TRAINING:
        box, score = _rounded(found.boxes[0]), float(found.scores[0])
        return [FoundFace(box, score, square_pixels(image, size, contract))]
    faces = []
    for face in np.argsort(found.boxes[:, 0], kind="stable"):
        square = squares[face]
        large = square.side >= MIN_SIDE
        pixels = np.asarray(cut(image, square, size, contract.interpolation)) if large else None
        faces.append(FoundFace(_rounded(found.boxes[face]), float(found.scores[face]), pixels))
    return faces


def _squares(network: Network, image: Image.Image, found: Detections, framing: Framing) -> list[Square]:
    """The square of each face that frames it as `framing` says, once it was looked at closely."""
    places = [place_of(found, face) for face in range(len(found.scores))]
    closer = [locate_face(network, image, square_of(place, framing)) or place for place in places]
    return [square_of(place, framing) for place in closer]


def find_faces(network: Network, image: Image.Image) -> Detections:
    """All faces of an image, large and small, the surest first, each of them once."""
    large = detect(network, image, _LARGE_FACES, _MARGIN)
    small = detect(network, image, min(_SMALL_FACES, 2 * max(image.size)))
    return without_overlaps(Detections(*map(np.concatenate, zip(large, small, strict=True))))


def cut_out_face(network: Network, data: bytes) -> bytes:
    """The face of a photo of one person as a JPEG file, framed as in IMDb-crop, in the photo's own resolution.

    Raises ImageError for a photo without a face or with several, and for a face that is too small.
    """
    image = open_image(data)
    found = find_faces(network, image)
    if len(found.scores) != 1:
        raise ImageError(_not_one(len(found.scores)))
    (square,) = _squares(network, image, found, IMDB_FRAMING)
    if square.side < MIN_SIDE:
        raise ImageError(TOO_SMALL)
    file = io.BytesIO()
    cut(image, square, min(round(square.side), _LARGEST_CROP), "lanczos").save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def only_face(faces: list[FoundFace]) -> UInt8[np.ndarray, "size size 3"]:
    """The crop of the face that a photo of one person shows. Raises ImageError for none, several, and a small one."""
    if len(faces) != 1:
        raise ImageError(_not_one(len(faces)))
    if faces[0].pixels is None:
        raise ImageError(TOO_SMALL)
    return faces[0].pixels


def make_cropper(faces: FacesIn, size: int, contract: InputContract, framing: Framing | None) -> FaceCropper:
    """Cut the face of each photo of a dataset, as `make_face_finder` does; a photo must show one person."""
    finder = make_face_finder(faces, size, contract, framing)
    key = json.dumps([_VERSION, faces, framing or IMDB_FRAMING])
    return FaceCropper(key, lambda data: only_face(finder(open_image(data))))


def _not_one(faces: int) -> str:
    return f"{faces} faces: whose age it is, is unknown" if faces else "no face found"


def _network_sees(image: Image.Image, contract: InputContract) -> Float[np.ndarray, "4"]:
    side = min(image.size) * contract.crop
    left, top = ((length - side) / 2 for length in image.size)
    return Square(left, top, side).box()


def _rounded(box: Float[np.ndarray, "4"]) -> tuple[float, ...]:
    return tuple(round(float(value), 1) for value in box)
