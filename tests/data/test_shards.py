import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxage.data.shards import Shards

WHOLE = np.random.default_rng(0).integers(0, 256, (20, 3, 2), np.uint8)
SHARDS = Shards([WHOLE[:7], WHOLE[7:8], WHOLE[8:]])


def test_it_looks_like_the_whole() -> None:
    assert (SHARDS.shape, SHARDS.dtype, SHARDS.nbytes, len(SHARDS)) == (WHOLE.shape, np.uint8, WHOLE.nbytes, 20)
    np.testing.assert_array_equal(list(SHARDS), WHOLE)
    np.testing.assert_array_equal(SHARDS[7], WHOLE[7])
    np.testing.assert_array_equal(SHARDS[WHOLE[:, 0, 0] > 99], WHOLE[WHOLE[:, 0, 0] > 99])


@given(st.lists(st.integers(0, 19)), st.slices(20))
def test_rows_are_those_of_the_whole(rows: list[int], part: slice) -> None:
    chosen = np.asarray(rows, np.int32)
    np.testing.assert_array_equal(SHARDS[chosen], WHOLE[chosen])
    np.testing.assert_array_equal(SHARDS[part], WHOLE[part])


@pytest.mark.parametrize("row", [20, -1])
def test_a_row_that_is_not_there_is_an_error(row: int) -> None:
    with pytest.raises(IndexError, match="of 20"):
        SHARDS[np.asarray([0, row])]
