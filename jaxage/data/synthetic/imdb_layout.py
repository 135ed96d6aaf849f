"""Write images in the layout of IMDB-WIKI's crops: `imdb.mat` and folders of JPEG files."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.io

from jaxage.data.importers.imdb_mat import MATLAB_EPOCH, Collection
from jaxage.types import Json
from jaxage.utils.files import atomic_write

_DTYPES = {"dob": np.int32, "photo_taken": np.uint16}
_GENDER = {"female": 0.0, "male": 1.0}
_WHOLE_PICTURE = np.array([[1.0, 1.0, 1.0, 1.0]])


class Photo(NamedTuple):
    """One record. `image` is the file's bytes, None if the file is missing; `path` overrides its place."""

    image: bytes | None
    age: int
    person: int
    gender: str = ""
    face_score: float = 5.0
    second_face_score: float = np.nan
    path: str | None = None


def write_tree(root: Path, collection: Collection, photos: Iterable[Photo]) -> None:
    """Write the images below `root`, and then `imdb.mat` or `wiki.mat`.

    From that file the age formula "midyear" gives each photo's `age`, and "year" gives the same or one year more.
    Memory does not grow with the number of images.

    Args:
        root: The folder to write into.
        collection: "imdb" or "wiki".
        photos: The records, in their order.
    """
    columns: dict[str, list[Any]] = {}
    for number, photo in enumerate(photos):
        record = _record(collection, number, photo)
        for name, value in record.items():
            columns.setdefault(name, []).append(value)
        if photo.image is not None:
            file = root / record["full_path"]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(photo.image)
    people = sorted(set(columns.pop("person")))
    if collection == "imdb":
        columns["celeb_names"] = [""] * (max(people) + 1)
        columns["celeb_id"] = columns.pop("celeb")
    write_mat(root / f"{collection}.mat", collection, columns)


def _record(collection: Collection, number: int, photo: Photo) -> Json:
    month, day, taken = 1 + number % 12, 1 + number % 28, 1975 + number % 40
    year = taken - photo.age - (month >= 7)
    who = f"nm{photo.person:07}_rm{number}" if collection == "imdb" else f"{photo.person}"
    path = photo.path or f"{photo.person % 100:02}/{who}_{year}-{month}-{day}_{taken}.jpg"
    return {
        "dob": date(year, month, day).toordinal() + MATLAB_EPOCH,
        "photo_taken": taken,
        "full_path": path,
        "gender": _GENDER.get(photo.gender, np.nan),
        "name": "",
        "face_location": _WHOLE_PICTURE,
        "face_score": photo.face_score,
        "second_face_score": photo.second_face_score,
        "celeb": photo.person + 1,
        "person": photo.person,
    }


def write_mat(path: Path, collection: str, fields: Mapping[str, Sequence[Any]]) -> Path:
    """Write a .mat file with a struct, in the form of the published files; it appears whole or not at all.

    Args:
        path: The file.
        collection: The name of the struct.
        fields: Its columns; what is no number becomes a cell.
    """
    struct = np.empty((1, 1), [(name, object) for name in fields])
    for name, values in fields.items():
        cells = np.empty(len(values), object)
        cells[:] = values
        numeric = bool(len(values)) and isinstance(values[0], int | float | np.number)
        struct[name][0, 0] = (cells.astype(_DTYPES.get(name, np.float64)) if numeric else cells)[None]
    with atomic_write(path) as file:
        scipy.io.savemat(file, {collection: struct}, do_compression=True)
    return path
