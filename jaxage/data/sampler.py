"""The batches of an epoch, drawn on the device."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

ViewRows = Int[Array | np.ndarray, "n views"]
"""The loader's row of each view of each training image."""

EvalRows = Int[Array | np.ndarray, "faces eval_rows"]
"""The loader's row of each face and, in a second column if there is one, of its mirror."""

Number = int | Int[Array, ""]


class EpochBatches(NamedTuple):
    """Batches, one after the other.

    rows: the loader's row of each item.
    view_ids: which view of which training image each item is: the image's number times the number of views, plus the
        view's number.
    weights: how often each item counts in the loss; 0 fills up the last batch.
    """

    rows: Int[Array | np.ndarray, "steps batch"]
    view_ids: Int[Array | np.ndarray, "steps batch"]
    weights: Float[Array | np.ndarray, "steps batch"]


@partial(jax.jit, static_argnames=("batch_size",))
def epoch_batches(view_rows: ViewRows, seed: Number, epoch: Number, batch_size: int) -> EpochBatches:
    """All training images in a random order, each as one of its views, drawn at random.

    The last batch is filled up with the first images of the epoch at weight 0: the loss counts each image once, and
    BatchNorm sees faces instead of blank images.

    Args:
        view_rows: (n, views) int, the loader's row of each view.
        seed: The run's seed.
        epoch: The epoch's number; each has an order of its own.
        batch_size: Items in a batch.
    """
    count, views = view_rows.shape
    order_key, view_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), epoch))
    image = jax.random.permutation(order_key, count)
    which = jax.random.randint(view_key, (count,), 0, views)
    size = -(-count // batch_size) * batch_size
    parts = view_rows[image, which], image * views + which, jnp.ones(count)
    rows, view_ids, ones = (jnp.resize(part, (size,)).reshape(-1, batch_size) for part in parts)
    return EpochBatches(rows, view_ids, ones * (jnp.arange(size) < count).reshape(-1, batch_size))
