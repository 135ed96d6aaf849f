"""Normalization by the batch's own statistics, with autodiff's gradient or with the closed form of it.

The closed form has a variant for CPUs and one for GPUs: on a CPU two passes for the statistics and sums row by row are
faster and more exact, on a GPU each pass over a map costs its bytes.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxage.models.ops.conv import FeatureMap

Channels = Float[Array, " channels"]
Cotangents = tuple[FeatureMap, Channels, Channels]


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
    eps: float, saved: tuple[FeatureMap, Channels, Channels, Channels], cotangents: Cotangents
) -> tuple[FeatureMap, Channels, Channels]:
    """Two sums and one pass over `x`.

    Autodiff keeps `x - mean`, a second copy of every map; this needs `x` alone. The mean is subtracted row by row,
    where it is not yet large against what is left.
    """
    x, _, mean, _ = saved
    dy = cotangents[0]
    totals, products = dy.sum(2), (dy * x).sum(2)
    return _gradients(eps, saved, cotangents, totals.sum((0, 1)), (products - mean[None, None] * totals).sum((0, 1)))


def _gradients(
    eps: float,
    saved: tuple[FeatureMap, Channels, Channels, Channels],
    cotangents: Cotangents,
    dbias: Channels,
    product: Channels,
) -> tuple[FeatureMap, Channels, Channels]:
    """The gradients from the sums of `dy` (`dbias`) and of `dy * (x - mean)` (`product`)."""
    x, scale, mean, var = saved
    dy, dmean, dvar = cotangents
    count, rate = x.size // x.shape[-1], lax.rsqrt(var + eps)
    dscale, gain = product * rate, scale * rate
    slope, level = (gain * rate * dscale - 2 * dvar) / count, (gain * dbias - dmean) / count
    dx = dy * gain[None, None, None] - (x - mean[None, None, None]) * slope[None, None, None] - level[None, None, None]
    return dx, dscale, dbias


normalize_by_batch_on_cpu = partial(jax.custom_vjp, nondiff_argnums=(3,))(normalize_by_batch)
normalize_by_batch_on_cpu.defvjp(_forward, _backward)


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def normalize_by_batch_on_gpu(
    x: Float[Array, "b h w channels"],
    scale: Channels,
    bias: Channels,
    near: Channels,
    eps: float,
    ceiling: float | None,
) -> tuple[Float[Array, "b h w channels"], Channels, Channels]:
    """The same and a ReLU, with one pass over `x` for the statistics and one for the output.

    Args:
        x: NHWC, in the trunk's dtype, which the output has too.
        scale: torch's `weight`.
        bias: torch's `bias`.
        near: A guess of the mean: the variance is that of `x - near`, whose squares cancel less.
        eps: Added to the variance.
        ceiling: Of the ReLU; None for none.
    """
    off = x.astype(jnp.float32) - near[None, None, None]
    mean = off.mean((0, 1, 2))
    var = jnp.maximum(jnp.square(off).mean((0, 1, 2)) - jnp.square(mean), 0)
    y = _normalized(off, scale, bias, mean, var, eps)
    return (y if ceiling is None else jnp.clip(y, 0, ceiling)).astype(x.dtype), near + mean, var


def _normalized(
    x: FeatureMap, scale: Channels, bias: Channels, mean: Channels, var: Channels, eps: float
) -> FeatureMap:
    gain = scale * lax.rsqrt(var + eps)
    return (x - mean[None, None, None]) * gain[None, None, None] + bias[None, None, None]


def _forward_on_gpu(
    x: FeatureMap, scale: Channels, bias: Channels, near: Channels, eps: float, ceiling: float | None
) -> tuple[tuple[FeatureMap, Channels, Channels], tuple[FeatureMap, Channels, Channels, Channels, Channels]]:
    y, mean, var = normalize_by_batch_on_gpu(x, scale, bias, near, eps, ceiling)
    return (y, mean, var), (x, scale, bias, mean, var)


def _backward_on_gpu(
    eps: float,
    ceiling: float | None,
    saved: tuple[FeatureMap, Channels, Channels, Channels, Channels],
    cotangents: Cotangents,
) -> tuple[FeatureMap, Channels, Channels, Channels]:
    """The sums and the gradient read `x` and `dy` alone: where the ReLU let through is computed again."""
    x, scale, bias, mean, var = saved
    wide, dy = x.astype(jnp.float32), cotangents[0].astype(jnp.float32)
    if ceiling is not None:
        y = _normalized(wide, scale, bias, mean, var, eps)
        dy = jnp.where((y > 0) & (y < ceiling), dy, 0)
    product = (dy * (wide - mean[None, None, None])).sum((0, 1, 2))
    dx, dscale, dbias = _gradients(eps, (wide, scale, mean, var), (dy, *cotangents[1:]), dy.sum((0, 1, 2)), product)
    return dx.astype(x.dtype), dscale, dbias, jnp.zeros_like(mean)


normalize_by_batch_on_gpu.defvjp(_forward_on_gpu, _backward_on_gpu)
