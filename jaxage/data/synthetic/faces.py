"""Drawn faces of people who do not exist, at several ages each: a demonstration that needs no data.

Age shows in shape (cranium and eyes of a child; jaw, nose and lips of old people), in texture (lines, bags, spots) and
in hair. Some people look younger or older than they are, and pose, light, skin, hair style, glasses and camera vary.
"""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxage.data.records import Records, make_records
from jaxage.data.synthetic.drawing import Traits, draw
from jaxage.data.synthetic.imdb_layout import Photo, write_tree
from jaxage.types import StoredImages, UserError, Years

_PHOTOS = 4
_BATCH = 32
_IDENTITY_TRAITS = 16
_PHOTO_TRAITS = 24


def synthetic_faces(n: int, size: int, seed: int) -> tuple[StoredImages, Records]:
    """Draw faces: uint8 RGB (n, size, size, 3), and their records, with ages of whole years and four photos per person.

    Face `i` depends only on `seed`, `size` and `i`, so a larger set extends a smaller one.

    Args:
        n: How many faces, 1 or more.
        size: Their height and width in pixels, 32 or more.
        seed: Another seed draws other faces.

    Raises:
        UserError: if `n` or `size` is too small.
    """
    images, ages = (np.concatenate(parts) for parts in zip(*_batches(n, size, seed), strict=True))
    paths = [f"synthetic/{i:06}.png" for i in range(n)]
    return images, make_records(paths, ages.tolist(), [f"s{i // _PHOTOS:05}" for i in range(n)])


def write_synthetic(root: Path, n: int, size: int, seed: int) -> None:
    """Write drawn faces like IMDb-crop (see `write_tree`), with faults like those of the real one.

    For every 100 faces there is one record without a face, one with two faces, one with a low score, and one with an
    impossible age. For every 800 faces there is one missing file, one blank image, one truncated file, one copy, and
    one path that leads upwards.

    Args:
        root: The folder to write into.
        n: How many faces, 1 or more.
        size: Their height and width in pixels, 32 or more.
        seed: Another seed draws other faces.

    Raises:
        UserError: if `n` or `size` is too small.
    """
    write_tree(root, "imdb", _photos(n, size, seed))


def _photos(n: int, size: int, seed: int) -> Iterator[Photo]:
    faces = (face for batch in _batches(n, size, seed) for face in zip(*batch, strict=True))
    for i, (pixels, age) in enumerate(faces):
        jpeg = _jpeg(pixels)
        photo = Photo(jpeg, int(age), i // _PHOTOS)
        yield photo
    nobody = Photo(None, 30, n // _PHOTOS + 1)
    for _ in range(n // 100):
        yield nobody._replace(face_score=-np.inf)
        yield nobody._replace(second_face_score=2.0)
        yield nobody._replace(face_score=1.0)
        yield nobody._replace(age=120)
    for i in range(n // 800):
        yield nobody
        yield nobody._replace(image=_jpeg(np.zeros_like(pixels)))
        yield nobody._replace(image=jpeg[: len(jpeg) // 2])
        yield photo
        yield nobody._replace(path=f"../{i}.jpg")


def _jpeg(pixels: UInt8[np.ndarray, "size size 3"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0)
    return file.getvalue()


def _batches(n: int, size: int, seed: int) -> Iterator[tuple[StoredImages, Years]]:
    """Images and ages, `_BATCH` at a time."""
    if n < 1 or size < 32:
        raise UserError(f"{n} drawn faces of {size} px: at least one face and 32 px are needed")
    for start in range(0, n, _BATCH):
        traits = [_traits(seed, i, size) for i in range(start, min(start + _BATCH, n))]
        batch = Traits(*(np.stack(column) for column in zip(*traits, strict=True)))
        yield draw(batch, size), batch.age


def _traits(seed: int, i: int, size: int) -> Traits:
    """Everything random about photo `i`."""
    person = np.random.default_rng((seed, 0, i // _PHOTOS))
    who = person.random(_IDENTITY_TRAITS, np.float32)
    photo = np.random.default_rng((seed, 1, i))
    centre = np.select(
        [who[0] < 0.2, who[0] < 0.8],
        [person.uniform(0, 22), person.normal(38, 12)],
        person.uniform(58, 92),
    )
    age = np.clip(np.rint(centre + photo.normal(0, 10)), 0, 100) + 0.0  # no -0
    looks = person.normal(0, 0.05) * age + photo.normal(0, 1.5)
    return Traits(
        age=np.asarray(age, np.float32),
        looks=np.asarray(np.clip(age + looks, 0, 105), np.float32),
        who=who,
        photo=photo.random(_PHOTO_TRAITS, np.float32),
        blotches=photo.standard_normal((9, 9), np.float32),
        grain=photo.standard_normal((3, size, size), np.float32),
    )
