"""Pooling as torch defines it; for CPUs and GPUs max pooling has a gradient of its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Shaped, UInt8

from jaxage.models.ops.conv import ConvForm, FeatureMap, taps

_NO_TAP = 255


def max_pool(x: FeatureMap, form: ConvForm) -> FeatureMap:
    """`torch.nn.MaxPool2d(3, stride=2, padding=1)`."""
    return _max_pool(x) if form == "xla" else _max_pool_with_gradient(x)


def _max_pool(x: FeatureMap) -> FeatureMap:
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def _forward(x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    return _max_pool(x), x


def _backward(x: FeatureMap, dy: FeatureMap) -> tuple[FeatureMap]:
    """Give each gradient to the first of the largest values of its window, as torch does.

    XLA carries a position through a reduction instead, which is eight times slower on a CPU, and adds to a map in an
    order that is not fixed on a GPU. Here each value of `x` sums the gradients of the windows that chose it: an even
    row or column lies in one window, an odd one in two. Taps are compared with each other and not with the output,
    because XLA may have rounded `x` differently there.
    """
    which = lax.optimization_barrier(_first_largest(x))
    height, width = x.shape[1:3]
    dx = jnp.float32(0)
    for below in (0, 1):
        for right in (0, 1):
            tap = 3 * _tap_of(height, below)[:, None] + _tap_of(width, right)[None]
            tap = jnp.where(tap < 9, tap, _NO_TAP).astype(jnp.uint8)
            chosen = _window_of(which, height, width, below, right) == tap[None, :, :, None]
            dx += jnp.where(chosen, _window_of(dy, height, width, below, right).astype(jnp.float32), 0)
    return (lax.optimization_barrier(dx.astype(x.dtype)),)


_max_pool_with_gradient = jax.custom_vjp(_max_pool)
_max_pool_with_gradient.defvjp(_forward, _backward)


def _first_largest(x: FeatureMap) -> UInt8[Array, "batch y x channels"]:
    """The number of the tap, row by row, that has the largest value of each window, the first of equal ones."""
    seen = taps(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf), (3, 3), 2, 0)
    which, best = jnp.zeros(seen[0].shape, jnp.uint8), seen[0]
    for i, tap in enumerate(seen[1:], 1):
        which, best = jnp.where(tap > best, jnp.uint8(i), which), jnp.maximum(tap, best)
    return which


def _tap_of(size: int, after: int) -> Array:
    """Where each position along a side lies in the window of its half, or in the one after: 0, 1, 2, or 9 for outside.

    Window p covers the positions 2p - 1, 2p and 2p + 1.
    """
    return jnp.where(jnp.arange(size) % 2 == 0, 9 if after else 1, 0 if after else 2)


def _window_of(
    part: Shaped[Array, "batch y x channels"], height: int, width: int, below: int, right: int
) -> Shaped[Array, "batch h w channels"]:
    """For each position of a map of this size, what its window has, or the window below or to the right of it."""
    batch, down, across, channels = part.shape
    part = jnp.pad(part, ((0, 0), (0, below), (0, right), (0, 0)))[:, below:, right:]
    twice = jnp.broadcast_to(part[:, :, None, :, None], (batch, down, 2, across, 2, channels))
    return twice.reshape(batch, 2 * down, 2 * across, channels)[:, :height, :width]


def average_pool(x: FeatureMap) -> Float[Array, "batch channels"]:
    """`torch.nn.AdaptiveAvgPool2d(1)` and flatten, in float32."""
    return x.astype(jnp.float32).mean((1, 2))
