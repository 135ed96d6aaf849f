import hypothesis.strategies as st
import jax
import numpy as np
from hypothesis import given, settings

from jaxage.data.sampler import epoch_batches


def view_rows(n: int, views: int = 1) -> np.ndarray:
    return (100 + np.arange(n)[:, None] + 1000 * np.arange(views)).astype(np.int32)


@settings(deadline=None, max_examples=8)
@given(n=st.integers(1, 40), batch=st.integers(1, 16), views=st.integers(1, 3), epoch=st.integers(1, 5))
def test_an_epoch_counts_each_image_once(n: int, batch: int, views: int, epoch: int) -> None:
    batches = jax.device_get(epoch_batches(view_rows(n, views), 0, epoch, batch))
    assert batches.rows.shape == batches.view_ids.shape == batches.weights.shape == (-(-n // batch), batch)
    counted = batches.weights == 1
    assert sorted(batches.view_ids[counted] // views) == list(range(n))
    assert not batches.weights[~counted].any()
    np.testing.assert_array_equal(
        view_rows(n, views)[batches.view_ids // views, batches.view_ids % views], batches.rows
    )


def test_epochs_and_seeds_have_their_own_order_and_views() -> None:
    epochs = [epoch_batches(view_rows(30, 2), seed, epoch, 8) for seed in (0, 1) for epoch in (1, 2)]
    assert len({batches.rows.tobytes() for batches in map(jax.device_get, epochs)}) == 4
    np.testing.assert_array_equal(epochs[0].rows, epoch_batches(view_rows(30, 2), 0, 1, 8).rows)
    seen = (
        np.concatenate([np.asarray(epoch_batches(view_rows(30, 2), 0, epoch, 8).view_ids) for epoch in range(20)]) % 2
    )
    assert 0.4 < seen.mean() < 0.6


def test_the_last_batch_is_filled_with_the_first_images() -> None:
    batches = epoch_batches(view_rows(10), 0, 1, 4)
    np.testing.assert_array_equal(batches.rows[2, 2:], batches.rows[0, :2])
