"""Normalisation by the batch's own statistics; on the CPU with the closed form of its gradient."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxage.models.ops.conv import FeatureMap


def normalize_by_batch(
    x: Float[Array, "b h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, " c"], Float[Array, " c"]]:
    """`x` normalized by its own mean and biased variance, then scaled and shifted; the mean; the variance."""
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean[None, None, None]).mean((0, 1, 2))
    gain = scale * lax.rsqrt(var + 1e-5)
    return (x - mean[None, None, None]) * gain[None, None, None] + bias[None, None, None], mean, var


def _normalize_forward(
    x: FeatureMap, scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    y, mean, var = normalize_by_batch(x, scale, bias)
    return (y, mean, var), (x, scale, mean, var)


def _normalize_backward(
    saved: tuple[Array, ...], cotangents: tuple[Array, Array, Array]
) -> tuple[FeatureMap, Float[Array, " c"], Float[Array, " c"]]:
    """Two sums and one pass, from `x` itself: autodiff keeps `x - mean`, a second copy of every map. The mean is taken
    off row by row, where it is not yet large against what is left.
    """
    x, scale, mean, var = saved
    dy, dmean, dvar = cotangents
    count, rate = x.size // x.shape[-1], lax.rsqrt(var + 1e-5)
    totals, products = dy.sum(2), (dy * x).sum(2)
    dbias, dscale = totals.sum((0, 1)), (products - mean[None, None] * totals).sum((0, 1)) * rate
    gain = scale * rate
    slope, level = (gain * rate * dscale - 2 * dvar) / count, (gain * dbias - dmean) / count
    dx = dy * gain[None, None, None] - (x - mean[None, None, None]) * slope[None, None, None] - level[None, None, None]
    return dx, dscale, dbias


normalize_by_batch_on_cpu = jax.custom_vjp(normalize_by_batch)
normalize_by_batch_on_cpu.defvjp(_normalize_forward, _normalize_backward)
