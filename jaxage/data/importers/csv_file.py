"""Faces listed in a CSV file: every line is checked before anything else is done."""

import hashlib
import re
import sys
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from jaxage.data.files import image_root, open_files, path_fault
from jaxage.data.importers.csv_table import read_table
from jaxage.data.importers.importer import FilterStep, ImportedFaces, Importer
from jaxage.data.prepared import COLUMNS
from jaxage.data.records import DataError, Records, known, listed, make_records
from jaxage.utils.text import parse_number, quoted

_COLUMNS = "path,age[,identity][,split][,gender]"
_PLAIN = re.compile(r"(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f:]+(?:/(?!\.{1,2}(?:/|$))[^/\\\x00-\x1f:]+)*")
"""A path without anything that `path_fault` or `PurePosixPath` looks for."""

_MOST_GROUPS = 20
_GENDERS = {"female": "female", "f": "female", "male": "male", "m": "male"}
SPLIT_NAMES = {
    "": "",
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def read_csv(path: Path) -> Records:
    """Read a CSV with the columns `path`, `age` and, optionally, `identity` (or `group`), `split` and `gender`.

    Further columns with 2 to 20 different values, such as ethnicity, become `Records.labels`; others are ignored, and
    so are the case of column names and blanks around cells. See `read_table` for the form of the file. `path` is
    relative to the images' root, with / between folders; `./` and double slashes are removed. `age` lies in 0-100, in
    digits with a point. `split` is train (training), validation (val, valid, dev) or test (testing), for all rows or
    for none. `gender` is female or male (f, m); anything else counts as unknown.

    Raises:
        DataError: if the file has faults; the message lists all of them with their line numbers.
    """
    numbered = read_table(path, ("path", "age"))
    _, header = next(numbered, (0, None))
    if header is None:
        raise DataError(f"{quoted(path)} is empty: its first line must name the columns {_COLUMNS}")
    names = [name.lower() for name in header]
    _check_header(path, names)
    parsers: dict[str, Callable[[str], Any]] = {"path": _path, "age": lru_cache(_age)}
    identity = next((name for name in ("identity", "group") if name in names), None)
    parsers |= {identity: sys.intern} if identity else {}
    parsers |= {"split": _split} if "split" in names else {}
    parsers |= {"gender": _gender} if "gender" in names else {}
    labels = [name for name in names if name and name not in COLUMNS and name not in parsers and names.count(name) == 1]
    values: dict[str, set[str]] = {name: set() for name in labels}
    parsers |= {name: partial(_label, values[name]) for name in labels}
    columns: dict[str, list[Any]] = {name: [] for name in parsers}
    lines, faults = array("q"), list[str]()
    readers = [(names.index(name), parse, columns[name].append, name) for name, parse in parsers.items()]
    for line, cells in numbered:
        if len(cells) < len(names) or any(cells[len(names) :]):
            faults.append(f"line {line}: {len(cells)} fields, but the header has {len(names)}")
            continue
        lines.append(line)
        for place, parse, append, name in readers:
            try:
                append(parse(cells[place]))
            except ValueError as error:
                append(None)
                faults.append(f"line {line}: {name} {quoted(cells[place])} {error}")
    faults += _repeated(lines, columns["path"])
    split = columns.get("split", [])
    faults += _half_split(lines, split)
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise DataError(f"{quoted(path)}: {count}; correct the file and start again\n{listed(faults)}")
    if not lines:
        raise DataError(f"{quoted(path)} has a header but no rows: add a line for each image")
    paths = np.asarray(columns.pop("path"), str)  # the list of them is freed first: it is the largest
    who = columns[identity] if identity else None
    kept = {name: columns[name] for name in labels if 2 <= len(values[name] - {""}) <= _MOST_GROUPS}
    return make_records(paths, columns["age"], who, columns.get("split"), columns.get("gender"), kept)


def _check_header(path: Path, names: list[str]) -> None:
    missing = [name for name in ("path", "age") if name not in names]
    if missing:
        raise DataError(
            f"{quoted(path)}: no column {' and no column '.join(missing)} among {quoted(', '.join(names))}: the first "
            f"line must name the columns {_COLUMNS}, separated by commas"
        )
    twice = sorted({name for name in ("path", "age", "identity", "group", "split", "gender") if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{quoted(path)}: the header has {', '.join(twice)} more than once: rename or remove one of them"
        )


def _path(text: str) -> str:
    if _PLAIN.fullmatch(text):
        return text
    if fault := path_fault(text):
        raise ValueError(fault)
    return str(PurePosixPath(text))


def _age(text: str) -> float:
    if not text:
        raise ValueError("is empty: remove the line, or fill it in")
    age = parse_number(text)
    if not 0 <= age <= 100:
        raise ValueError("lies outside 0-100")
    return age


def _split(text: str) -> str:
    try:
        return SPLIT_NAMES[text.lower()]
    except KeyError:
        raise ValueError("is none of train, validation, test") from None


def _gender(text: str) -> str:
    return _GENDERS.get(text.lower(), "")


def _label(seen: set[str], text: str) -> str:
    """A cell of a column that may tell groups apart, until it has too many values for that."""
    if len(seen) > _MOST_GROUPS:
        return ""
    text = sys.intern(known(text))
    seen.add(text)
    return text


def _repeated(lines: Sequence[int], paths: list[str | None]) -> list[str]:
    if len(set(paths)) == len(paths):
        return []
    places: dict[str, list[int]] = defaultdict(list)
    for line, path in zip(lines, paths, strict=True):
        if path is not None:
            places[path].append(line)
    return [
        f"lines {', '.join(map(str, found))}: the same path {quoted(path)}"
        for path, found in places.items()
        if len(found) > 1
    ]


def _half_split(lines: Sequence[int], split: list[str | None]) -> list[str]:
    blank = [line for line, name in zip(lines, split, strict=False) if name == ""]
    if not blank or len(blank) == len(split):
        return []
    return [
        f"split is given for {len(split) - len(blank)} rows and empty in {len(blank)}, the first of them line "
        f"{blank[0]}: fill it in for all, or for none"
    ]


@dataclass(frozen=True)
class CsvOptions:
    """Faces of your own, listed in a CSV file."""

    file: Path
    """Columns path, age and, if you have them, identity, split, gender, and others that tell groups apart; images in
    its folder, or in a .tar, .tar.gz or .zip of the same name beside it."""


@contextmanager
def _open(source: CsvOptions, seed: int) -> Iterator[ImportedFaces]:
    file = source.file
    records = read_csv(file)
    with open_files(image_root(file, str(records.path[0]))) as files:
        yield ImportedFaces(
            name=file.stem,
            folder=file.parent,
            records=records,
            face_score=np.full(len(records), np.nan, np.float32),
            read=files.read,
            steps=[FilterStep("records", len(records), 0)],
            about={
                "source": str(file),
                "source_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                "age_formula": "given",
            },
            settings={},
        )


CSV = Importer("csv", "Faces of your own, listed in a CSV file.", CsvOptions, _open, tfds_name="csv_faces")
