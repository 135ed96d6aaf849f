import numpy as np
import pytest
from PIL import Image

from jaxage.photos.detector import Detections, Network, decode_outputs, detect, iou, without_overlaps
from tests.photos.pictures import album, drawn_faces


def test_one_place_is_decoded_as_the_paper_says() -> None:
    """Xu et al. 2019, section 3.1: centers on a map of stride 4 with offsets, log sizes, landmarks by box."""
    heat, size, offset, marks = (np.zeros((n, 8, 8), np.float32) for n in (1, 2, 2, 10))
    heat[0, 5, 2] = 0.9
    size[:, 5, 2] = np.log([10, 5])  # height, width, in units of 4 pixels
    offset[:, 5, 2] = [0.25, -0.25]
    marks[:, 5, 2] = np.tile([0.5, 0.25], 5)
    found = decode_outputs(heat, size, offset, marks, threshold=0.5)
    np.testing.assert_allclose(found.boxes, [[-1, 3, 19, 43]], atol=1e-4)
    np.testing.assert_allclose(found.landmarks, np.full((1, 5, 2), [4.0, 23.0]), atol=1e-4)
    assert not len(decode_outputs(heat, size, offset, marks, threshold=0.95).scores)


def test_of_overlapping_boxes_the_surest_stays() -> None:
    boxes = np.float32([[0, 0, 10, 10], [1, 1, 11, 11], [20, 0, 30, 10], [0, 0, 10, 3]])
    found = without_overlaps(Detections(boxes, np.float32([0.6, 0.9, 0.7, 0.5]), np.zeros((4, 5, 2), np.float32)))
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.5])
    assert iou(boxes[0], boxes[1]) == pytest.approx(81 / 119)
    assert iou(boxes[0], boxes[2]) == 0


def test_every_face_of_a_picture_is_found_where_it_is(network: Network) -> None:
    picture, squares, _ = album()
    found = detect(network, picture, 900)
    assert len(found.scores) == len(squares)
    centers = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    for left, top, side in squares:
        inside = ((centers > [left, top]) & (centers < [left + side, top + side])).all(axis=1)
        assert inside.sum() == 1
        marks = found.landmarks[inside][0]
        assert marks[0, 0] < marks[1, 0], "left eye, right eye"
        assert marks[3:, 1].min() > marks[:2, 1].max(), "the mouth is below the eyes"


def test_coordinates_do_not_depend_on_the_size_that_the_network_sees(network: Network) -> None:
    face = Image.fromarray(drawn_faces(1)[0]).resize((300, 260))
    small, large = (detect(network, face, longest, margin=0.25) for longest in (256, 384))
    np.testing.assert_allclose(small.landmarks[0], large.landmarks[0], atol=12)


def test_an_empty_picture_has_no_face(network: Network) -> None:
    assert not len(detect(network, Image.new("RGB", (3000, 7), "white"), 320).scores)
