import io

import numpy as np
import pytest
from PIL import Image

from jaxage.data.decode import ImageError
from jaxage.photos.detector import Network
from jaxage.photos.faces import FoundFace, cut_out_face, find_faces, make_cropper, make_face_finder, only_face
from jaxage.photos.framing import measure_framing
from jaxage.types import Framing, InputContract
from tests.photos.pictures import album, drawn_faces


@pytest.fixture(scope="module")
def framing(network: Network) -> Framing:
    measured = measure_framing(network, list(drawn_faces(24)))
    assert measured is not None
    return measured


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_a_photo_gives_its_faces_from_left_to_right(framing: Framing) -> None:
    picture, squares, faces = album()
    for mode in ("auto", "photo"):
        found = make_face_finder(mode, 64, InputContract(), framing)(picture)
        assert [face.box is not None and face.box[0] for face in found] == sorted(face.box[0] for face in found)
        lefts = sorted(left for left, _, _ in squares)
        order = np.argsort([left for left, _, _ in squares])
        for face, left, number in zip(found, lefts, order, strict=True):
            assert face.box is not None
            assert face.pixels is not None
            assert abs(face.box[0] - left) < 90
            alike = [np.corrcoef(face.pixels.ravel(), small(other).ravel())[0, 1] for other in faces]
            assert np.argmax(alike) == number


def small(face: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(face).resize((64, 64), Image.Resampling.BILINEAR))


def test_a_crop_like_those_of_the_training_is_taken_whole(framing: Framing) -> None:
    for size, contract in ((64, InputContract()), (48, InputContract(crop=0.875, interpolation="bicubic"))):
        crop = Image.fromarray(drawn_faces(1)[0])
        inner = framing._replace(scale=framing.scale / contract.crop)
        (auto,) = make_face_finder("auto", size, contract, inner)(crop)
        (whole,) = make_face_finder("crop", size, contract, inner)(crop)
        np.testing.assert_array_equal(auto.pixels, whole.pixels)
        assert auto.box is not None
        assert whole.box is None


def test_without_a_framing_photos_get_the_margin_of_imdb_crop(network: Network) -> None:
    picture, _, _ = album()
    height = float(np.diff(find_faces(network, picture).boxes[:, [1, 3]]).max())
    image = Image.open(io.BytesIO(cut_out_face(network, png(picture.crop((280, 200, 600, 600))))))
    assert image.size[0] == image.size[1] == pytest.approx(1.8 * height, rel=0.12)


def test_a_photo_of_a_data_set_must_show_one_person(network: Network, framing: Framing) -> None:
    picture, _, _ = album()
    cropper = make_cropper("photo", 32, InputContract(), framing)
    for image, reason in ((picture, "3 faces"), (Image.new("RGB", (300, 200), "white"), "no face found")):
        with pytest.raises(ImageError, match=reason):
            cropper.crop(png(image))
        with pytest.raises(ImageError, match=reason):
            cut_out_face(network, png(image))
    assert cropper.crop(png(picture.crop((0, 0, 280, 300)))).shape == (32, 32, 3)
    other = make_cropper("photo", 32, InputContract(), framing._replace(scale=0.5))
    assert len({cropper.key, other.key, make_cropper("auto", 32, InputContract(), framing).key}) == 3


def test_a_tiny_face_has_no_pixels() -> None:
    with pytest.raises(ImageError, match="less than 32 pixels"):
        only_face([FoundFace((1.0, 2.0, 9.0, 12.0), 0.9, None)])
    (tiny,) = make_face_finder("crop", 64, InputContract(), None)(Image.new("RGB", (20, 40)))
    assert tiny.pixels is None
