"""Pooling as torch defines it; for CPUs max pooling has a gradient of its own."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxage.models.ops.conv import ConvForm, FeatureMap, taps


def max_pool(x: FeatureMap, form: ConvForm) -> FeatureMap:
    """`torch.nn.MaxPool2d(3, stride=2, padding=1)`."""
    return _max_pool_on_cpu(x) if form == "cpu" else _max_pool(x)


def _max_pool(x: FeatureMap) -> FeatureMap:
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def _max_pool_forward(x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    return _max_pool(x), x


def _max_pool_backward(x: FeatureMap, dy: FeatureMap) -> tuple[FeatureMap]:
    """Give each gradient to the first of the largest values of its window, as torch does.

    XLA:CPU carries a position through a reduction instead, which is five times slower. An even row or column of `x`
    lies in one window, an odd one in two. Taps are compared with each other and not with the output, because XLA may
    have rounded `x` differently there.
    """
    seen = taps(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf), (3, 3), 2, 0)
    which, best = jnp.zeros(dy.shape, jnp.uint8), seen[0]
    for i, tap in enumerate(seen[1:], 1):
        which, best = jnp.where(tap > best, jnp.uint8(i), which), jnp.maximum(tap, best)

    def part_of(i: int, j: int) -> FeatureMap:
        part = jnp.where(which == 3 * i + j, dy, 0)
        ahead = ((0, 0), (0, int(i == 0)), (0, int(j == 0)), (0, 0))
        return jnp.pad(part, ahead)[:, int(i == 0) :, int(j == 0) :]

    windows = ((1,), (2, 0))
    phases = [
        jnp.stack([sum(part_of(i, j) for i in down for j in across) for across in windows], axis=3) for down in windows
    ]
    batch, height, width, channels = x.shape
    dx = jnp.stack(phases, axis=2).reshape(batch, 2 * dy.shape[1], 2 * dy.shape[2], channels)
    return (dx[:, :height, :width],)


_max_pool_on_cpu = jax.custom_vjp(_max_pool)
_max_pool_on_cpu.defvjp(_max_pool_forward, _max_pool_backward)


def average_pool(x: FeatureMap) -> Float[Array, "batch channels"]:
    """`torch.nn.AdaptiveAvgPool2d(1)` and flatten, in float32."""
    return x.astype(jnp.float32).mean((1, 2))
