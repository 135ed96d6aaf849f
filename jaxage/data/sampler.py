"""The order of an epoch, made on the device."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

ViewRows = Int[Array | np.ndarray, "n views"]
"""Where a loader has each view of each training image."""

EvalRows = Int[Array | np.ndarray, "faces eval_rows"]
"""Where a loader has each face as it is and, in a second column if there is one, its mirror."""


Number = int | Int[Array, ""]


class EpochBatches(NamedTuple):
    """Batches, one after the other.

    rows: where the loader has them. view_ids: which view of which training image they are (number of the image times number
    of views, plus view). weights: how often each counts in the loss.
    """

    rows: Int[Array | np.ndarray, "steps batch"]
    view_ids: Int[Array | np.ndarray, "steps batch"]
    weights: Float[Array | np.ndarray, "steps batch"]


@partial(jax.jit, static_argnames=("batch_size",))
def epoch_batches(view_rows: ViewRows, seed: Number, epoch: Number, batch_size: int) -> EpochBatches:
    """An order of the epoch's own of all training images, each as one view of it, drawn at random.

    The last batch is filled up with the epoch's first images at weight 0: the loss counts each image once, and
    BatchNorm sees faces and no blanks.
    """
    count, views = view_rows.shape
    order_key, view_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), epoch))
    image = jax.random.permutation(order_key, count)
    which = jax.random.randint(view_key, (count,), 0, views)
    size = -(-count // batch_size) * batch_size
    parts = view_rows[image, which], image * views + which, jnp.ones(count)
    rows, view_ids, ones = (jnp.resize(part, (size,)).reshape(-1, batch_size) for part in parts)
    return EpochBatches(rows, view_ids, ones * (jnp.arange(size) < count).reshape(-1, batch_size))
