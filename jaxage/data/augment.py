"""Random crops, flips and changes of color, on the device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxage.types import Images, RawImages


def to_unit(images: RawImages) -> Images:
    """Images as stored, 0-255, as float32 in 0-1."""
    return images.astype(jnp.float32) / 255


def normalize(images: Images, mean: tuple[float, ...], std: tuple[float, ...]) -> Images:
    """Normalize as the weights expect (see `InputContract`): `(images - mean) / std` for each channel.

    Args:
        images: RGB in 0-1.
        mean: One number for each channel.
        std: One number for each channel.
    """
    return (images - jnp.asarray(mean)[None, None, None]) / jnp.asarray(std)[None, None, None]


def augment(key: Array, images: Images) -> Images:
    """Crop at random and resize to the full size, flip half of the images, and change the colors a little.

    A crop has 80-100 % of the area, and its ratio of sides is within 10 % of the image's. Cropping, bilinear resizing
    and flipping are one matrix product for each axis. Brightness, contrast and saturation change by up to 20 %.

    Args:
        key: A JAX random key.
        images: RGB in 0-1; so is the result.
    """
    crop_key, color_key = jax.random.split(key)
    rows, columns = _crop_matrices(crop_key, *images.shape[:3])
    images = jnp.einsum("byh,bhwc,bxw->byxc", rows, images, columns)
    return _color(color_key, images)


def view(key: Array, images: Images, view_ids: Int[Array, " batch"], views: int) -> Images:
    """Turn each image into one of its fixed views: itself (0), its mirror (1), or a random crop and flip (2 and more).

    Args:
        key: A JAX random key. The same key and view id give the same crop, in any batch.
        images: RGB in 0-1; so is the result.
        view_ids: The number of the training image times `views`, plus the number of the view.
        views: How many views an image has.
    """
    which = (view_ids % views)[:, None, None, None]
    chosen = jnp.where(which == 1, images[:, :, ::-1], images)
    if views <= 2:
        return chosen
    keys = jax.vmap(lambda view_id: jax.random.fold_in(key, view_id))(view_ids)
    rows, columns = jax.vmap(lambda each: _crop_matrices(each, 1, *images.shape[1:3]))(keys)
    crops = jnp.einsum("byh,bhwc,bxw->byxc", rows[:, 0], images, columns[:, 0])
    return jnp.where(which > 1, crops, chosen)


def _crop_matrices(
    key: Array, batch: int, height: int, width: int
) -> tuple[Float[Array, "batch y h"], Float[Array, "batch x w"]]:
    keys = jax.random.split(key, 5)
    side = jnp.sqrt(jax.random.uniform(keys[0], (batch,), minval=0.8, maxval=1.0))
    stretch = jnp.exp(jax.random.uniform(keys[1], (batch,), minval=-0.05, maxval=0.05))
    tall, wide = jnp.minimum(side * stretch, 1), jnp.minimum(side / stretch, 1)
    top = jax.random.uniform(keys[2], (batch,)) * (1 - tall)
    left = jax.random.uniform(keys[3], (batch,)) * (1 - wide)
    flip = jax.random.bernoulli(keys[4], shape=(batch,))
    left, wide = jnp.where(flip, left + wide, left), jnp.where(flip, -wide, wide)
    return _resample(top, tall, height), _resample(left, wide, width)


def _resample(start: Float[Array, " batch"], extent: Float[Array, " batch"], size: int) -> Float[Array, "batch n n"]:
    """The matrix that interpolates [start, start + extent] at `size` points; both are shares of the side.

    A negative extent flips.
    """
    centres = (jnp.arange(size) + 0.5) / size
    points = (start[:, None] + extent[:, None] * centres[None]) * size - 0.5
    points = jnp.clip(points, 0, size - 1)
    return jnp.maximum(0, 1 - jnp.abs(points[:, :, None] - jnp.arange(size, dtype=jnp.float32)[None, None]))


def _color(key: Array, images: Images) -> Images:
    factors = jax.random.uniform(key, (3, images.shape[0], 1, 1, 1), minval=0.8, maxval=1.2)
    brightness, contrast, saturation = factors
    images = jnp.clip(images * brightness, 0, 1)
    middle = images.mean((1, 2, 3), keepdims=True)
    images = jnp.clip(middle + (images - middle) * contrast, 0, 1)
    gray = images.mean(3, keepdims=True)
    return jnp.clip(gray + (images - gray) * saturation, 0, 1)
