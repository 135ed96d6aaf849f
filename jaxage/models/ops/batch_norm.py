"""Normalization by the batch's own statistics, with autodiff's gradient or, for CPUs, with the closed form of it."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxage.models.ops.conv import FeatureMap

Channels = Float[Array, " channels"]


def normalize_by_batch(
    x: Float[Array, "b h w channels"], scale: Channels, bias: Channels, eps: float
) -> tuple[Float[Array, "b h w channels"], Channels, Channels]:
    """Normalize each channel by its mean and biased variance, then scale and shift it, as `torch.nn.BatchNorm2d` does.

    Args:
        x: NHWC, float32.
        scale: torch's `weight`.
        bias: torch's `bias`.
        eps: Added to the variance.

    Returns:
        The normalized map, the mean and the variance.
    """
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean[None, None, None]).mean((0, 1, 2))
    gain = scale * lax.rsqrt(var + eps)
    return (x - mean[None, None, None]) * gain[None, None, None] + bias[None, None, None], mean, var


def _forward(
    x: FeatureMap, scale: Channels, bias: Channels, eps: float
) -> tuple[tuple[FeatureMap, Channels, Channels], tuple[FeatureMap, Channels, Channels, Channels]]:
    y, mean, var = normalize_by_batch(x, scale, bias, eps)
    return (y, mean, var), (x, scale, mean, var)


def _backward(
    eps: float,
    saved: tuple[FeatureMap, Channels, Channels, Channels],
    cotangents: tuple[FeatureMap, Channels, Channels],
) -> tuple[FeatureMap, Channels, Channels]:
    """Two sums and one pass over `x`.

    Autodiff keeps `x - mean`, a second copy of every map; this needs `x` alone. The mean is subtracted row by row,
    where it is not yet large against what is left.
    """
    x, scale, mean, var = saved
    dy, dmean, dvar = cotangents
    count, rate = x.size // x.shape[-1], lax.rsqrt(var + eps)
    totals, products = dy.sum(2), (dy * x).sum(2)
    dbias, dscale = totals.sum((0, 1)), (products - mean[None, None] * totals).sum((0, 1)) * rate
    gain = scale * rate
    slope, level = (gain * rate * dscale - 2 * dvar) / count, (gain * dbias - dmean) / count
    dx = dy * gain[None, None, None] - (x - mean[None, None, None]) * slope[None, None, None] - level[None, None, None]
    return dx, dscale, dbias


normalize_by_batch_on_cpu = partial(jax.custom_vjp, nondiff_argnums=(3,))(normalize_by_batch)
normalize_by_batch_on_cpu.defvjp(_forward, _backward)
