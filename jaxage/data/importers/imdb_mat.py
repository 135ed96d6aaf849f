"""Read the metadata of IMDB-WIKI (Rothe, Timofte and Van Gool, IJCV 2018): `imdb.mat` and `wiki.mat`."""

import io
import re
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import numpy as np
import scipy.io
from jaxtyping import Float64, Int64, Shaped

from jaxage.data.records import DataError, Texts

Collection = Literal["imdb", "wiki"]
AgeFormula = Literal["midyear", "year"]

Numbers = Int64[np.ndarray, " n"]
Floats = Float64[np.ndarray, " n"]

MATLAB_EPOCH = 366  # Matlab counts days from year 0, Python from year 1
_FIELDS = ("dob", "photo_taken", "full_path", "gender", "name", "face_location", "face_score", "second_face_score")
_NUMBERS = ("dob", "photo_taken", "gender", "face_score", "second_face_score")
_FILE_NAME = re.compile(r"(?:.*/)?(nm\d+|\d+)(?:_rm\d+)?_(\d{1,4})-(\d{1,4})-\d+_\d+\.jpg")


@dataclass(frozen=True, eq=False)
class Metadata:
    """Columns of equal length `n`, in the file's order; row `i` of each column describes record `i`.

    path: (n,) str, below the data's root, as the file gives it: it may be unsafe.
    identity: (n,) str, the person: `nm0000001` in IMDb, the article's number in WIKI; "" if the path names none.
    birth_year, birth_month: (n,) int64; month 0 where only the year is known.
    photo_year: (n,) int64.
    gender: (n,) float64, 0 female, 1 male, NaN unknown.
    face_score: (n,) float64, -inf where no face was found.
    second_face_score: (n,) float64, NaN where no second face was found.
    """

    path: Texts
    identity: Texts
    birth_year: Numbers
    birth_month: Numbers
    photo_year: Numbers
    gender: Floats
    face_score: Floats
    second_face_score: Floats

    def __len__(self) -> int:
        return len(self.path)

    def ages(self, formula: AgeFormula) -> Numbers:
        """Whole years, (n,) int64; some are nonsense, such as -74 and 1996.

        "year" is the difference of the years. "midyear" assumes that the photo was taken on 1 July, as users of the
        dataset do: the age is one less for people born in July or later.
        """
        ages: Numbers = self.photo_year - self.birth_year
        return ages - (self.birth_month >= 7) if formula == "midyear" else ages


def collection_of(path: str) -> Collection | None:
    """Whose face crop a path is by its name (`00/nm0000001_rm124825600_1899-5-10_1968.jpg`), or None."""
    match = _FILE_NAME.fullmatch(path)
    return None if match is None else "imdb" if match[1].startswith("nm") else "wiki"


def parse_metadata(data: bytes, name: str, collection: Collection) -> Metadata:
    """Parse the bytes of `imdb.mat` or `wiki.mat`.

    The birth date is that of the file name (`nm0000001_rm124825600_1899-5-10_1968.jpg`, `10000217_1981-05-05_2009.jpg`)
    because Matlab has turned 1992-0-0 into the last day of 1991. It is the record's if the name has none, or a month
    above 12.

    Args:
        data: The bytes of the file.
        name: The file's name, for error messages.
        collection: Which struct the file holds.

    Raises:
        DataError: if this is no .mat file, it holds another struct, or fields are missing or of unequal length.
    """
    fields = _columns(data, name, collection)
    paths = np.asarray([_text(cell) for cell in fields["full_path"]], str)
    born = [_born(day) for day in fields["dob"].tolist()]
    identities = []
    for row, text in enumerate(paths.tolist()):
        match = _FILE_NAME.fullmatch(text)
        identities.append(match[1] if match else "")
        if match and int(match[3]) <= 12:
            born[row] = int(match[2]), int(match[3])
    year, month = np.asarray(born, np.int64).reshape(-1, 2).T
    return Metadata(
        path=paths,
        identity=np.asarray(identities, str),
        birth_year=year,
        birth_month=month,
        photo_year=fields["photo_taken"].astype(np.int64),  # uint16 would wrap under subtraction
        gender=fields["gender"].astype(np.float64),
        face_score=fields["face_score"].astype(np.float64),
        second_face_score=fields["second_face_score"].astype(np.float64),
    )


def _columns(data: bytes, name: str, collection: Collection) -> dict[str, Shaped[np.ndarray, " n"]]:
    try:
        struct = scipy.io.loadmat(io.BytesIO(data), variable_names=[collection])[collection][0, 0]
        fields = {field: struct[field].ravel() for field in struct.dtype.names}
    except KeyError as error:
        raise DataError(f"{name} holds no struct {collection}: it is another .mat file") from error
    except Exception as error:  # SciPy raises a dozen kinds for broken files
        raise DataError(f"{name}: unreadable, cut short or no .mat file ({error}); fetch it again") from error
    if missing := [field for field in _FIELDS if field not in fields]:
        raise DataError(f"{name}: its struct {collection} lacks {', '.join(missing)}: it is another .mat file")
    lengths = {field: len(fields[field]) for field in _FIELDS}
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"{field} {length:,}" for field, length in lengths.items())
        raise DataError(f"{name}: fields of unequal length ({counts}); fetch it again")
    for field in _NUMBERS:
        if fields[field].dtype.kind not in "iuf":
            raise DataError(f"{name}: its field {field} does not hold numbers: it is another .mat file")
    if not np.isfinite(fields["photo_taken"]).all():
        raise DataError(f"{name}: its field photo_taken has values that are no years; fetch it again")
    return {field: fields[field] for field in _FIELDS}


def _born(day: int | float) -> tuple[int, int]:
    """Year and month of Matlab's serial day; the year 1 if the day does not lie in the years 1-9999."""
    ordinal = day - MATLAB_EPOCH
    born = date.fromordinal(int(ordinal) if 1 <= ordinal <= date.max.toordinal() else 1)
    return born.year, born.month


def _text(cell: Any) -> str:
    """The text of a cell; "", which is no path, if the cell holds anything else."""
    return str(cell.item()) if isinstance(cell, np.ndarray) and cell.size == 1 and cell.dtype.kind == "U" else ""
