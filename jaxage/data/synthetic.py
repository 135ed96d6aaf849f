"""Procedural faces: people who do not exist, at several ages each, for a demonstration that needs no data.

Age shows in shape (cranium and eyes of a child, jaw, nose and lips of the old), in texture (lines, bags, spots) and in
hair. It is blurred by how old a person looks for their age, and by pose, light, skin, hair style, glasses and camera.
"""

import numpy as np

from jaxage.data.drawing import Traits, draw
from jaxage.data.records import Records, make_records
from jaxage.types import UserError

_PHOTOS = 4
_BATCH = 32
_IDENTITY_TRAITS = 16
_PHOTO_TRAITS = 24


def synthetic_faces(n: int, size: int, seed: int) -> tuple[np.ndarray, Records]:
    """`n` faces, uint8 RGB (n, size, size, 3), and their records: whole years 0-100, four photos of each person.

    Face `i` depends on `seed`, `size` and `i` alone, so that a larger set extends a smaller one. Raises UserError for
    n < 1 and for size < 32.
    """
    if n < 1 or size < 32:
        raise UserError(f"{n} drawn faces of {size} px: at least one face and 32 px are needed")
    people = np.arange(n) // _PHOTOS
    images = np.empty((n, size, size, 3), np.uint8)
    ages = np.empty(n, np.float32)
    for start in range(0, n, _BATCH):
        rows = range(start, min(start + _BATCH, n))
        traits = [_traits(seed, i, size) for i in rows]
        batch = Traits(*(np.stack(column) for column in zip(*traits, strict=True)))
        ages[rows] = batch.age
        images[rows] = draw(batch, size)
    paths = [f"synthetic/{i:06}.png" for i in range(n)]
    return images, make_records(paths, ages.tolist(), [f"s{person:05}" for person in people])


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
