import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxage.photos.detector import Network, iou
from jaxage.photos.faces import find_faces
from jaxage.photos.framing import (
    Place,
    Square,
    cut,
    locate_face,
    measure_framing,
    place_of,
    square_of,
)
from jaxage.types import Framing
from tests.photos.pictures import album, drawn_faces


@settings(deadline=None, max_examples=30)
@given(st.integers(-60, 90), st.integers(-60, 90), st.integers(1, 120))
def test_a_cut_is_the_padded_picture_at_its_place(left: int, top: int, side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    padded = np.pad(pixels, ((100, 200), (100, 200), (0, 0)), mode="edge")
    found = cut(Image.fromarray(pixels), Square(left, top, side), side, "nearest")
    np.testing.assert_array_equal(np.asarray(found), padded[100 + top :, 100 + left :][:side, :side])


def test_a_face_sits_in_its_square_as_asked() -> None:
    square = square_of(Place(200, 100, 50), Framing(0.5, 0.6, 0.25))
    assert square == pytest.approx(Square(100, -20, 200))


def test_faces_in_a_picture_are_cropped_like_the_crops_that_were_measured(network: Network) -> None:
    picture, squares, _ = album()
    framing = measure_framing(network, list(drawn_faces(24)))
    assert framing is not None
    found = find_faces(network, picture)
    assert len(found.scores) == len(squares)
    places = [place_of(found, face) for face in range(len(squares))]
    located = [locate_face(network, picture, square_of(place, framing)) or place for place in places]
    for true in squares:
        best = max(iou(square_of(place, framing).box(), Square(*map(float, true)).box()) for place in located)
        assert best > 0.75


def test_crops_without_faces_have_no_framing(network: Network) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    assert measure_framing(network, list(noise)) is None
