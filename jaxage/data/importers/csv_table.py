"""The cells of a CSV file, as spreadsheets and scripts write it."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxage.data.records import DataError
from jaxage.utils.text import quoted

Line = tuple[int, list[str]]
"""The number of a record's first line, and its cells without the blanks around them."""

_DELIMITERS = ",;\t|"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_OTHER_KINDS: dict[bytes, str] = {
    b"PK\x03\x04": "a workbook or a zip archive: save the table as CSV, or give the CSV that lists the images",
    b"\xd0\xcf\x11\xe0": "a workbook: save the table as CSV",
    b"\x1f\x8b": "a compressed file: give the CSV that lists the images",
    b"BZh": "a compressed file: give the CSV that lists the images",
    b"\xfd7zXZ": "a compressed file: give the CSV that lists the images",
    b"MATLAB": "a .mat file: prepare it with the importer of its dataset",
    b"PAR1": "a Parquet file: save the table as CSV",
    b"\xff\xd8\xff": "an image: give the CSV that lists the images",
    b"\x89PNG": "an image: give the CSV that lists the images",
    b"<": "an HTML or XML page: download the table again",
    b"[": "JSON: save the table as CSV",
    b"{": "JSON: save the table as CSV",
}


def read_table(path: Path, wanted: Sequence[str]) -> Iterator[Line]:
    """The records of a CSV file (see `parse_table`). Raises DataError if it cannot be read."""
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise DataError(f"{quoted(path)} cannot be read: it is a folder; give the CSV that lists its images") from None
    except OSError as error:
        raise DataError(f"{quoted(path)} cannot be read ({error.strerror})") from error
    yield from parse_table(data, path, wanted)


def parse_table(data: bytes, path: Path, wanted: Sequence[str]) -> Iterator[Line]:
    """The records of a CSV file that are not blank; the first one is the header.

    The text is UTF-8, or UTF-16 with a byte order mark. Cells are separated by commas, or by semicolons, tabs or bars
    if the header then has the wanted names; a first line `sep=;` is understood. Any line ending is fine.

    Args:
        data: The file's bytes.
        path: Its path, for messages.
        wanted: The names that tell by which character the cells are separated.

    Raises:
        DataError: if the file is of another kind, is not text, or is not CSV.
    """
    encoding = _encoding(data, path)
    text = io.TextIOWrapper(io.BytesIO(data), encoding, newline="")  # decodes a block at a time
    first = next((line.strip() for line in text if line.strip()), "")
    text.seek(0)
    line = 1
    if first.lower().startswith("sep=") and len(first) == 5:
        delimiter, line = first[4], 2
        text.readline()
    else:
        delimiter = next((each for each in _DELIMITERS if set(wanted) <= _names(first, each)), ",")
    reader = csv.reader(text, delimiter=delimiter, skipinitialspace=True, strict=True)
    skipped = line
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield line, stripped
            line = reader.line_num + skipped
    except csv.Error as error:
        raise DataError(f"{quoted(path)}: the record that starts on line {line} is not CSV ({error})") from error


def named_cells(lines: Iterator[Line], path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The lines below the header, with their cells by the header's names.

    Raises DataError if the header lacks one of the columns.
    """
    header = next(lines, (1, []))[1]
    if missing := sorted(set(columns) - set(header)):
        raise DataError(f"{quoted(path)} lacks the columns {', '.join(missing)}: download it again")
    for line, cells in lines:
        yield line, dict(zip(header, cells, strict=False))


def _encoding(data: bytes, path: Path) -> str:
    """The encoding of a file of text. Raises DataError for other files."""
    kind = next((kind for start, kind in _OTHER_KINDS.items() if data.lstrip().startswith(start)), None)
    if data[257:262] == b"ustar":
        kind = "a tar archive: give the CSV that lists the images"
    if kind is not None:
        raise DataError(f"{quoted(path)} is {kind}")
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{quoted(path)}: line {line} is not UTF-8 text: save the file as UTF-8") from error
    return encoding


def _names(header: str, delimiter: str) -> set[str]:
    return {name.strip(' "').lower() for name in header.split(delimiter)}
