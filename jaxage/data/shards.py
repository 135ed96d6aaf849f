"""Arrays in several memory maps, read as one."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxage.types import Rows


class Shards:
    """Arrays of one shape and dtype along their first axis; none is copied. Rows are read as NumPy arrays.

    Args:
        parts: One or more, such as memory maps.
    """

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all parts together."""
        return (int(self._ends[-1]), *self._parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of each part."""
        return self._parts[0].dtype

    @property
    def nbytes(self) -> int:
        """Of all parts together."""
        return sum(part.nbytes for part in self._parts)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[np.ndarray]:
        for part in self._parts:
            yield from part

    def __getitem__(self, rows: Any) -> np.ndarray:
        """One row, a slice of them, or those of an array of indices or of a mask, copied together.

        Raises IndexError for a row that does not exist.
        """
        if isinstance(rows, slice):
            return self._take(np.arange(*rows.indices(len(self))))
        wanted = np.asarray(rows)
        if wanted.dtype == bool:
            return self._take(np.flatnonzero(wanted))
        found = self._take(np.atleast_1d(wanted))
        return found if wanted.ndim else found[0]

    def _take(self, rows: Rows) -> np.ndarray:
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        part_of = np.searchsorted(self._ends, rows, side="right")
        for i in np.unique(part_of).tolist():
            here = part_of == i
            out[here] = self._parts[i][rows[here] - (self._ends[i] - len(self._parts[i]))]
        return out
