"""A tree of IMDb-crop made from faces at hand, with every trouble of the real one planted in it.

python -m tests.crops utkface.csv FOLDER
"""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jaxage.data.files import ReadImage, image_root, open_files
from jaxage.data.importers.csv_file import read_csv
from jaxage.data.synthetic.imdb_layout import Photo, write_tree

TRAPS = {"face": 41, "single face": 30, "face score": 19, "age": 10}
"""Records that each criterion drops."""

IMAGE_TRAPS = {"safe path": 5, "found": 7, "image": 9, "no copy": 6}
"""Records that each look at an image drops: unsafe paths; missing files; blank, cut and tiny ones; two copies of one
face, and two pairs that are of two ages.
"""


def photos(table: Path, traps: bool = True) -> Iterator[Photo]:
    """The faces of a CSV, their groups as people, and the traps at the end."""
    records = read_csv(table)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(records.identity.tolist()), 1)}
    with open_files(image_root(table, str(records.path[0]))) as files:
        for path, age, who, gender in zip(records.path, records.age, records.identity, records.gender, strict=True):
            yield Photo(files.read(str(path)), int(age), numbers[str(who)], str(gender))
        if traps:
            yield from _traps(files.read, str(records.path[0]), int(records.age[0]), len(numbers) + 1)


def _traps(read: ReadImage, path: str, age: int, stranger: int) -> Iterator[Photo]:
    face = Photo(read(path), age, stranger)
    yield from [face._replace(face_score=-np.inf)] * (TRAPS["face"] - 1)
    yield face._replace(face_score=np.nan)
    yield from [face._replace(second_face_score=1.5)] * TRAPS["single face"]
    yield from [face._replace(face_score=3.5)] * TRAPS["face score"]
    for wrong in range(TRAPS["age"]):
        yield face._replace(age=101 + wrong if wrong % 2 else -1 - wrong)
    for unsafe in ("../x.jpg", "/etc/x.jpg", "00\\x.jpg", "00/../../x.jpg", "c:/x.jpg"):
        yield Photo(None, age, stranger, path=unsafe)
    yield from [Photo(None, age, stranger)] * IMAGE_TRAPS["found"]
    data = read(path)
    yield from [Photo(data[: len(data) // 2], age, stranger)] * 3
    yield from [Photo(_jpeg(100, 128), age, stranger)] * 3
    yield from [Photo(b"no image", age, stranger), Photo(b"", age, stranger), Photo(_jpeg(20, 9), age, stranger)]
    yield from [face] * 2
    for shade in (1, 2):
        noise = _jpeg(100, None, shade)
        yield Photo(noise, age, stranger)
        yield Photo(noise, (age + 1) % 100, stranger)


def _jpeg(size: int, gray: int | None, seed: int = 0) -> bytes:
    """A square of one gray, or of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    pixels = noise if gray is None else np.full((8, 8, 3), gray, np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


if __name__ == "__main__":
    write_tree(Path(sys.argv[2]), "imdb", photos(Path(sys.argv[1])))
