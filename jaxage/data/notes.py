"""What to know of data before scores are trusted: copies on both sides of a split, and a person with many rows."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxage.data.records import Records
from jaxage.utils.text import quoted

_LARGE_SHARE, _MANY_ROWS = 0.1, 100


class Copies(NamedTuple):
    """Images with the same bytes.

    in_train: how many test images are copies of a training image. other_age: how many images have a copy of another
    age.
    """

    in_train: int
    other_age: int


def count_copies(records: Records, digests: Sequence[str]) -> Copies:
    """Count the copies among images.

    Args:
        records: The images' rows.
        digests: The hash of each image's file.
    """
    hashes = np.asarray(digests, str)
    train, test = (hashes[records.rows_of(split)] for split in ("train", "test"))
    ages: dict[str, set[float]] = defaultdict(set)
    for digest, age in zip(digests, records.age.tolist(), strict=True):
        ages[digest].add(age)
    return Copies(int(np.isin(test, train).sum()), sum(len(ages[digest]) > 1 for digest in digests))


def notes_on(records: Records, copies: Copies) -> tuple[str, ...]:
    """Sentences for the user; none if there is nothing to say."""
    notes = []
    if copies.in_train:
        tested = len(records.rows_of("test"))
        notes.append(f"{copies.in_train:,} of {tested:,} test images have the bytes of a training image")
    if copies.other_age:
        notes.append(f"{copies.other_age:,} images have a copy of another age")
    if notes:
        notes[-1] += "; jaxage prepare drops copies"
    name, rows = max(Counter([*records.identity.tolist(), ""]).items(), key=lambda item: bool(item[0]) * item[1])
    if name and rows > _LARGE_SHARE * len(records) and rows >= _MANY_ROWS:
        notes.append(
            f"the identity {quoted(name)} has {rows:,} of {len(records):,} rows: leave it empty if it stands for "
            "unknown people"
        )
    return tuple(notes)
