"""Faces with their ages as lines: for the screen, and as CSV or JSON lines."""

import csv
import io
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from jaxage.commands.predict import Face, Photo
from jaxage.types import Json, UserError
from jaxage.utils.files import atomic_write
from jaxage.utils.text import quoted, visible

_COLUMNS = ("path", "face", "left", "top", "right", "bottom", "score", "age", "low", "high", "reason", "probabilities")


WritePhoto = Callable[[Photo], None]
"""Writes the lines of one photo."""


def photo_json(photo: Photo) -> list[Json]:
    """A JSON object for each face, or one with the reason for a photo without faces; with the columns of the CSV."""
    if not photo.faces:
        return [_row(photo.path, None, Face(None, None, None, photo.reason))]
    return [_row(photo.path, number, face) for number, face in enumerate(photo.faces, 1)]


def _row(path: str, number: int | None, face: Face) -> Json:
    left, top, right, bottom = face.box or (None,) * 4
    estimate = face.estimate
    values: Json = {
        "path": path,
        "face": number,
        "left": left,
        "top": top,
        "right": right,
        "bottom": bottom,
        "score": face.score,
        "age": estimate and estimate.age,
        "low": estimate and estimate.low,
        "high": None if estimate is None or estimate.high is None or math.isinf(estimate.high) else estimate.high,
        "reason": face.reason,
    }
    if estimate is not None and estimate.probabilities:
        values["probabilities"] = list(estimate.probabilities)
    return values


def screen_lines(photo: Photo) -> list[str]:
    """A line for each face: path, which face it is, its box, the age, and the interval."""
    lines = []
    for row in photo_json(photo):
        words = [visible(row["path"])]
        if len(photo.faces) > 1:
            words.append(f"face {row['face']} of {len(photo.faces)}")
        if row["left"] is not None:
            words.append("box " + ",".join(f"{row[side]:.0f}" for side in ("left", "top", "right", "bottom")))
        if row["age"] is None:
            words.append(visible(row["reason"]))
        else:
            words.append(f"{row['age']:.1f} years")
        if row["low"] is not None:
            words.append(f"{row['low']:.0f}-{'' if row['high'] is None else format(row['high'], '.0f')}")
        lines.append("\t".join(words))
    return lines


@contextmanager
def photo_writer(out: Path | None) -> Iterator[WritePhoto]:
    """Write rows to a .csv, .jsonl or .json file, which appears when the block succeeds; nowhere for None.

    If it fails or is interrupted, the rows so far are in a file with "unfinished" in its name. In CSV the probabilities
    of the years from 0 are one column, separated by spaces.

    Raises:
        UserError: for another ending, or a folder that does not exist.
    """
    if out is None:
        yield lambda photo: None
        return
    if out.suffix not in (".csv", ".jsonl", ".json"):
        raise UserError(f"--out {out}: name a file that ends in .csv or .jsonl (JSON lines)")
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: there is no folder {out.parent}")
    unfinished = out.with_name(f"{out.stem}.unfinished{out.suffix}")
    with atomic_write(out, unfinished) as file:
        try:
            yield _csv_writer(file) if out.suffix == ".csv" else _json_writer(file)
        except BaseException:
            print(f"the rows so far are in {quoted(unfinished)}", file=sys.stderr)
            raise


def _json_writer(file: IO[bytes]) -> WritePhoto:
    def write(photo: Photo) -> None:
        for row in photo_json(photo):
            file.write(json.dumps(row, allow_nan=False).encode() + b"\n")

    return write


def _csv_writer(file: IO[bytes]) -> WritePhoto:
    def line(cells: list[Any]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        file.write(text.getvalue().encode(errors="surrogateescape"))

    def write(photo: Photo) -> None:
        for row in photo_json(photo):
            row["probabilities"] = " ".join(f"{value:.6g}" for value in row.get("probabilities", ()))
            line([_cell(row[name]) for name in _COLUMNS])

    line(list(_COLUMNS))
    return write


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.9g}" if isinstance(value, float) else str(value)
