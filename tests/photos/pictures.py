"""Pictures with several drawn faces in them."""

import numpy as np
from PIL import Image

from jaxage.data.synthetic.faces import synthetic_faces


def drawn_faces(count: int, size: int = 160) -> np.ndarray:
    return synthetic_faces(count, size, seed=3)[0]


def album() -> tuple[Image.Image, list[tuple[int, int, int]], np.ndarray]:
    """Three faces of several sizes on a plain ground; their squares (left, top, side), and the faces themselves."""
    faces = drawn_faces(3)
    picture, squares = Image.new("RGB", (900, 600), (150, 170, 150)), [(40, 60, 160), (300, 250, 240), (650, 80, 200)]
    for face, (left, top, side) in zip(faces, squares, strict=True):
        picture.paste(Image.fromarray(face).resize((side, side)), (left, top))
    return picture, squares, faces
