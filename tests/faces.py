"""A small set of drawn faces on disk, as a user would have it."""

import csv
from pathlib import Path

from PIL import Image

from jaxage.data.synthetic.faces import synthetic_faces


def write_faces(folder: Path, n: int = 60, size: int = 48, seed: int = 3) -> Path:
    """`faces/*.png` and `faces.csv` with the columns path, age, identity; gives the CSV."""
    images, records = synthetic_faces(n, size, seed)
    (folder / "faces").mkdir(parents=True)
    table = folder / "faces.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "age", "identity"])
        for i, image in enumerate(images):
            path = f"faces/{i:03}.png"
            Image.fromarray(image).save(folder / path)
            writer.writerow([path, f"{records.age[i]:g}", records.identity[i]])
    return table
