import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxage.training.view_index import ViewIndex, rows_of_images


@given(st.integers(1, 30), st.data(), st.integers(1, 4), st.booleans())
def test_every_row_is_one_view_and_every_wanted_view_has_a_row(
    images: int, data: st.DataObject, views: int, flip: bool
) -> None:
    rows = np.asarray(sorted(data.draw(st.sets(st.integers(0, images - 1)))), np.int64)
    index = ViewIndex(images, rows, views, flip)
    wanted = index.wanted()
    assert len(index) == len(wanted.rows) == len(wanted.view_ids)
    assert index.view_rows.shape == (len(rows), views)
    assert index.eval_rows.shape == (images, 1 + flip)
    np.testing.assert_array_equal(index.eval_rows[:, 0], np.arange(images))
    for which in range(views):
        places = index.view_rows[:, which]
        np.testing.assert_array_equal(wanted.rows[places], rows)
        if which:
            np.testing.assert_array_equal(wanted.view_ids[places], np.arange(len(rows)) * index.kinds + which)
    if flip:
        tested = np.setdiff1d(np.arange(images), rows)
        mirrors = index.eval_rows[tested, 1]
        np.testing.assert_array_equal(wanted.rows[mirrors], tested)
        assert (wanted.view_ids[mirrors] % index.kinds == 1).all()


@pytest.mark.parametrize("flip", [False, True])
def test_a_loader_of_images_has_the_mirror_in_the_same_row(flip: bool) -> None:
    assert rows_of_images(np.asarray([4, 2]), flip).tolist() == [[4] * (1 + flip), [2] * (1 + flip)]
