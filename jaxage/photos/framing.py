"""Crop faces from photos as the faces that a model was trained on were cropped."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from jaxage.data.decode import FILTERS
from jaxage.photos.detector import Detections, Network, Pixels, detect
from jaxage.types import Framing, Interpolation

IMDB_FRAMING = Framing(x=0.5, y=0.534, scale=1 / 1.8)
"""IMDb-crop's convention: the face's box and 40 % of its height on each side. In 700 faces of UTKFace the landmarks lie
6 % of the height of CenterFace's box below its center."""

_ZOOMS, _ZOOM_SIZE = (1.25, 1.5, 2.0), 256
_LOWEST_SCORE = 0.3
_FEWEST = 0.5


class Square(NamedTuple):
    """A square of an image, in pixels; it may reach over the image's edges."""

    left: float
    top: float
    side: float

    def box(self) -> Float[np.ndarray, "4"]:
        """Left, top, right, bottom."""
        return np.array([self.left, self.top, self.left + self.side, self.top + self.side], np.float32)


class Place(NamedTuple):
    """Where a face is in an image, in pixels.

    x, y: the mean point of its landmarks. size: the height of its box, which differs less between babies and adults
    than its width.
    """

    x: float
    y: float
    size: float


def place_of(found: Detections, face: int) -> Place:
    """The place of one of the faces that a detector has found."""
    x, y = found.landmarks[face].mean(axis=0).tolist()
    return Place(x, y, float(found.boxes[face, 3] - found.boxes[face, 1]))


def square_of(place: Place, framing: Framing) -> Square:
    """The square in which a face sits as `framing` says."""
    side = place.size / framing.scale
    return Square(place.x - framing.x * side, place.y - framing.y * side, side)


def locate_face(network: Network, image: Image.Image, square: Square) -> Place | None:
    """Where the largest face of a square is, seen three times with more and less around it; None if it is not found.

    A single detection depends on how large the face is in the photo; the mean of three in squares of one size does not.
    """
    places = []
    for zoom in _ZOOMS:
        side = square.side * zoom
        wider = Square(square.left - (side - square.side) / 2, square.top - (side - square.side) / 2, side)
        found = detect(network, cut(image, wider, _ZOOM_SIZE, "bilinear"), _ZOOM_SIZE, threshold=_LOWEST_SCORE)
        if len(found.scores):
            largest = int(np.argmax(np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)))
            x, y, size = (value * side / _ZOOM_SIZE for value in place_of(found, largest))
            places.append((wider.left + x, wider.top + y, size))
    return Place(*np.mean(places, axis=0).tolist()) if places else None


def measure_framing(network: Network, crops: Iterable[Pixels]) -> Framing | None:
    """Where faces sit in square crops: the medians over all of them, or None if few of them show a face.

    Args:
        network: Finds faces.
        crops: The squares that a model was trained on; about 100 are enough.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(partial(_share_of_crop, network), crops))
    known = [place for place in found if place is not None]
    if len(known) < max(1, _FEWEST * len(found)):
        return None
    return Framing(*(round(value, 4) for value in np.median(np.asarray(known), axis=0).tolist()))


def _share_of_crop(network: Network, crop: Pixels) -> tuple[float, ...] | None:
    place = locate_face(network, Image.fromarray(crop), Square(0, 0, len(crop)))
    return place and tuple(value / len(crop) for value in place)


def cut(image: Image.Image, square: Square, size: int, interpolation: Interpolation) -> Image.Image:
    """A square of an image, resized to `size` pixels (antialiased); beyond the edges the edge pixels are repeated."""
    first = np.floor(square.box()[:2]).astype(int) - 1
    last = np.ceil(square.box()[2:]).astype(int) + 1
    inside_first = np.clip(first, 0, np.array(image.size) - 1)
    inside_last = np.clip(last, inside_first + 1, np.array(image.size))
    part = np.asarray(image.crop((*inside_first.tolist(), *inside_last.tolist())))
    before, after = np.maximum(inside_first - first, 0), np.maximum(last - inside_last, 0)
    part = np.pad(part, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="edge")
    left, top = square.left - first[0], square.top - first[1]
    box = (left, top, left + square.side, top + square.side)
    return Image.fromarray(part).resize((size, size), FILTERS[interpolation], box=box)
