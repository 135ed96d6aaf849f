"""One table of faces: where each image is, how old the person is, who it is, and which split it belongs to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Int, Shaped

from jaxage.types import Mask, Rows, Split, UserError, Years
from jaxage.utils.text import quoted

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Texts = Shaped[np.ndarray, " n"]
"""A column of str."""


class DataError(UserError):
    """Data that cannot be used as it is; the message names the file, its faults and what to do."""


@dataclass(frozen=True)
class Failure:
    """An image that cannot be used, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Records:
    """Columns of equal length `n`; row `i` of each column describes image `i`.

    path: (n,) str, unique, relative to the data's root.
    age: (n,) float32, years.
    identity: (n,) str, the same for all images of one person (or of one group of near-duplicates); "" if unknown.
    split: (n,) str, one of `SPLITS`; "" while undecided.
    gender: (n,) str, "female" or "male"; "" if unknown.
    labels: Further columns of str by name, such as "ethnicity", whose groups reports tell apart; "" if unknown.

    Raises ValueError for columns of unequal length.
    """

    path: Texts
    age: Years
    identity: Texts
    split: Texts
    gender: Texts
    labels: Mapping[str, Texts] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in {**self._columns(), **self.labels}.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"columns of unequal length: {lengths}")

    def __len__(self) -> int:
        return len(self.path)

    def take(self, rows: Rows | Mask | Sequence[int]) -> "Records":
        """The table of these rows (indices or a mask), in their order."""
        labels = {name: column[rows] for name, column in self.labels.items()}
        return replace(self, **{name: column[rows] for name, column in self._columns().items()}, labels=labels)

    def _columns(self) -> dict[str, np.ndarray]:
        return {name: column for name, column in vars(self).items() if name != "labels"}

    def rows_of(self, split: Split) -> Rows:
        """Indices (int64) of the rows of one split, ascending."""
        return np.flatnonzero(self.split == split)

    def empty_splits(self) -> list[Split]:
        """The splits that have no row."""
        return [split for split in SPLITS if not (self.split == split).any()]


_UNKNOWN = {"", "nan", "none", "null", "n/a", "na", "<na>", "unknown", "-1", "?"}


def known(text: str) -> str:
    """The text without the blanks around it; "" for words that say that nobody knows it, such as nan and none."""
    name = text.strip()
    return "" if name.lower() in _UNKNOWN else name


def make_records(
    path: Sequence[str] | Texts,
    age: Sequence[float],
    identity: Sequence[str] | None = None,
    split: Sequence[str] | None = None,
    gender: Sequence[str] | None = None,
    labels: Mapping[str, Sequence[str]] | None = None,
) -> Records:
    """Records from plain sequences of equal length (see `Records` and `known`); absent columns become ""."""
    identity = None if identity is None else list(map(known, identity))
    further = {name: np.asarray(list(map(known, column)), str) for name, column in (labels or {}).items()}

    def texts(column: Sequence[str] | Texts | None) -> Texts:
        return np.asarray([""] * len(path) if column is None else column, str)

    return Records(
        np.asarray(path, str), np.asarray(age, np.float32), texts(identity), texts(split), texts(gender), further
    )


def spread(rows: Rows, count: int) -> Int[np.ndarray, " some"]:
    """At most `count` of the rows, evenly spread: data are often sorted by age."""
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def listed(lines: Sequence[str], shown: int = 10) -> str:
    """The first `shown` lines, indented, and how many more there are: the body of an error message."""
    more = [f"  and {len(lines) - shown} more"] if len(lines) > shown else []
    return "\n".join([f"  {line}" for line in lines[:shown]] + more)


def listed_failures(failures: Sequence[Failure]) -> str:
    """The first failures with their reasons, for an error message."""
    return listed([f"{quoted(failure.path)}: {failure.reason}" for failure in failures])
