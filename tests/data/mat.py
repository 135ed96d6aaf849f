"""A small `imdb.mat` or `wiki.mat`, laid out as the published ones are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.data.synthetic.imdb_layout import write_mat as write_struct

FIELDS: dict[str, list[Any]] = {
    "dob": [693726, 727563, 711858, 726681, -5],
    "photo_taken": [1968, 2014, 2012, 2009, 1950],
    "full_path": [
        "01/nm0000001_rm124825600_1899-5-10_1968.jpg",
        "02/nm0000002_rm1_1992-0-0_2014.jpg",
        "03/nm0000003_rm2_1948-15-12_2012.jpg",
        "04/nm0000004_rm3_1989-08-019_2009.jpg",
        "05/of-no-known-form.jpg",
    ],
    "gender": [1.0, 0.0, np.nan, 1.0, 1.0],
    "name": ["Fred", "", "C", "D", "E"],
    "face_location": [np.array([[1.0, 2.0, 3.0, 4.0]])] * 5,
    "face_score": [1.459, 4.5, -np.inf, 5.0, 3.6],
    "second_face_score": [1.118, np.nan, np.nan, np.nan, np.nan],
}


def write_mat(path: Path, collection: str, fields: Mapping[str, list[Any]] = FIELDS) -> Path:
    """Write them as the published files have them."""
    return write_struct(path, collection, fields)
