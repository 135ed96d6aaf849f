"""What finding faces costs: MAE of faces pasted into larger photos, beside that of the same faces as crops.

python -m tests.pasted RUN utkface.csv [COUNT]
"""

import io
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from jaxage.data.files import image_root, open_files
from jaxage.data.importers.csv_file import read_csv
from jaxage.photos.faces import FaceFinder, make_face_finder
from jaxage.training.predictor import load_predictor

SIDES = (100, 200, 400, 800)
PHOTO = (1600, 1200)
BANDS = {"all": (0, 200), "0-2": (0, 3), "0-4": (0, 5), "5-17": (5, 18), "18-59": (18, 60), "60+": (60, 200)}
_RNG = np.random.default_rng(0)
GROUNDS = [
    Image.fromarray(_RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
    for _ in range(8)
]


def main(run: Path, table: Path, count: int = 500) -> None:
    """Print a line for each size of the faces in the photos."""
    predictor = load_predictor(run, 32, 0.9)
    config = predictor.config
    whole, photo = (
        make_face_finder(faces, config.image_size, config.input(), config.framing) for faces in ("crop", "photo")
    )
    records = read_csv(table)
    rows = np.random.default_rng(11).choice(records.rows_of("test"), count, replace=False)
    with open_files(image_root(table, str(records.path[0]))) as files:
        faces = [Image.open(io.BytesIO(files.read(str(path)))).convert("RGB") for path in records.path[rows]]
    age = records.age[rows]
    crops = np.stack([whole(face)[0].pixels for face in faces])
    as_crops = np.array([each.age for each in predictor(crops)])
    print("as crops, MAE:", ", ".join(f"{name} {error(as_crops, age, band):.2f}" for name, band in BANDS.items()))
    for side in SIDES:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = list(pool.map(partial(find_pasted, photo, side), range(count), faces))
        ok = np.array([pixels is not None for pixels in found])
        ages = np.full(count, np.nan)
        ages[ok] = [each.age for each in predictor(np.stack([pixels for pixels in found if pixels is not None]))]
        costs = [
            f"{name} {error(ages[ok], age[ok], band) - error(as_crops[ok], age[ok], band):+.2f} (found {share:.0%})"
            for name, band in BANDS.items()
            for share in (ok[(age >= band[0]) & (age < band[1])].mean(),)
        ]
        print(f"{side} px, MAE in photos minus as crops:", ", ".join(costs), flush=True)


def find_pasted(photo: FaceFinder, side: int, number: int, face: Image.Image) -> np.ndarray | None:
    """The crop that is found of a face on a ground of smooth colors; the surest if something else is found too."""
    rng = np.random.default_rng(7 * number + side)
    place = tuple(int(rng.integers(0, length - side + 1)) for length in PHOTO)
    ground = GROUNDS[number % len(GROUNDS)].copy()
    ground.paste(face.resize((side, side), Image.Resampling.BICUBIC), place)
    found = [each for each in photo(ground) if each.pixels is not None]
    return max(found, key=lambda each: each.score or 0).pixels if found else None


def error(ages: np.ndarray, true: np.ndarray, band: tuple[int, int]) -> float:
    rows = (true >= band[0]) & (true < band[1])
    return float(np.abs(ages - true)[rows].mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
