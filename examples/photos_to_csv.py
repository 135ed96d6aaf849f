"""The age of every face in a folder of photos, as a CSV: python examples/photos_to_csv.py RUN FOLDER > ages.csv"""

import csv
import sys

import jaxage


def main(run: str, folder: str) -> None:
    """Write a row for each face, and one with the reason for each photo that has none."""
    table = csv.writer(sys.stdout)
    table.writerow(["photo", "left", "top", "right", "bottom", "age", "low", "high", "reason"])
    for photo in jaxage.predict(run, [folder]):
        if not photo.faces:
            table.writerow([photo.path, *[""] * 7, photo.reason])
        for face in photo.faces:
            box = face.box or [""] * 4  # none if the whole image was taken as a face
            age = face.estimate[:3] if face.estimate else [""] * 3  # none if the face is too small
            table.writerow([photo.path, *box, *age, face.reason])


if __name__ == "__main__":
    main(*sys.argv[1:])
