"""The layers as torch defines them: explicit padding, BatchNorm with unbiased running variance.

Kernels are stored HWIO and images are NHWC. On the CPU, 1x1 convolutions and those on small maps run as matrix
products, wide 3x3 ones in Winograd's form, and depthwise ones as shifted multiply-adds, because XLA's own convolutions
are slower there (a hundred times where the map is smaller than the kernel); every form computes the same function.
These forms and the batch statistics have gradients of their own there: XLA fuses what autodiff makes of them into loops
that run through memory against its order or compute every value once for each tap, and a step takes twice as long.
"""

import math
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxage.models.winograd import conv_winograd
from jaxage.types import UserError

Initializer = Callable[..., Array]
FeatureMap = Float[Array, "batch _ _ _"]
Part = Callable[..., nn.Module] | None

_SMALL_MAP = 49
"""Positions of an output up to which a matrix product is the faster form on the CPU."""

_WIDE, _SMALLEST_TILED = 128, 16
"""Channels, and positions of an output, from which Winograd's form is the faster one on the CPU."""

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""torchvision's `kaiming_normal_(mode="fan_out")`, without truncation."""


def torch_uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32, *, fan_in: int) -> Array:
    """torch's default for `nn.Linear`: uniform in +-1/sqrt(fan_in), for the weight and for the bias."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def conv_general(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"], stride: int, padding: int, groups: int = 1
) -> Float[Array, "b y x o"]:
    """`torch.nn.functional.conv2d` in NHWC, through XLA's convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def conv_matmul(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int, padding: int
) -> Float[Array, "b y x o"]:
    """The same as one matrix product, of the patch that each output sees."""
    patches = jnp.concatenate(_taps(x, kernel.shape, stride, padding), axis=-1)
    return _matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


@jax.custom_vjp
def _matmul(x: Float[Array, "b h w i"], kernel: Float[Array, "i o"]) -> Float[Array, "b h w o"]:
    return jnp.einsum("bhwi,io->bhwo", x, kernel)


def _matmul_forward(x: FeatureMap, kernel: Float[Array, "i o"]) -> tuple[FeatureMap, tuple[Array, Array]]:
    return _matmul(x, kernel), (x, kernel)


def _matmul_backward(saved: tuple[Array, Array], dy: FeatureMap) -> tuple[FeatureMap, Float[Array, "i o"]]:
    """XLA transposes the first operand of the kernel's gradient in memory, so that is the one of fewer channels."""
    x, kernel = saved
    dx = jnp.einsum("bhwo,io->bhwi", dy, kernel)
    if x.shape[-1] < dy.shape[-1]:
        return dx, jnp.einsum("bhwi,bhwo->io", x, dy)
    return dx, jnp.einsum("bhwo,bhwi->oi", dy, x).T


_matmul.defvjp(_matmul_forward, _matmul_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], stride: int, padding: int
) -> Float[Array, "b y x c"]:
    """A depthwise convolution as the sum of shifted, scaled copies of the input, one for each tap."""
    taps = _taps(x, kernel.shape, stride, padding)
    total = jnp.zeros_like(taps[0])
    for tap, weight in zip(taps, kernel.reshape(-1, kernel.shape[-1]), strict=True):
        total = total + tap * weight[None, None, None]
    return total


def _depthwise_forward(
    x: FeatureMap, kernel: Float[Array, "kh kw 1 c"], stride: int, padding: int
) -> tuple[FeatureMap, tuple[Array, Array]]:
    return conv_depthwise(x, kernel, stride, padding), (x, kernel)


def _depthwise_backward(
    stride: int, padding: int, saved: tuple[Array, Array], dy: FeatureMap
) -> tuple[FeatureMap, Float[Array, "kh kw 1 c"]]:
    """For the input the convolution of `dy`, spread out by the stride, with the kernel turned round; for the kernel
    one pass over the rows that sums the products of all taps.
    """
    x, kernel = saved
    edges = [
        (k - 1 - padding, n + padding - 1 - stride * (m - 1), stride - 1)
        for k, n, m in zip(kernel.shape, x.shape[1:3], dy.shape[1:3], strict=False)
    ]
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    dx = conv_depthwise(spread, kernel[::-1, ::-1], 1, 0)
    products = [(tap * dy).astype(jnp.float32) for tap in _taps(x, kernel.shape, stride, padding)]
    rows = lax.reduce(products, [jnp.float32(0)] * len(products), _add, (2,))
    dk = jnp.stack([row.sum((0, 1)) for row in rows]).reshape(kernel.shape)
    return dx, dk.astype(kernel.dtype)


def _add(totals: list[Array], values: list[Array]) -> list[Array]:
    return [total + value for total, value in zip(totals, values, strict=True)]


conv_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _taps(x: FeatureMap, kernel: tuple[int, ...], stride: int, padding: int) -> list[FeatureMap]:
    """What each tap of a kernel of this shape sees, row by row."""
    height, width = (_out(n, k, stride, padding) for n, k in zip(x.shape[1:3], kernel, strict=False))
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _out(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


class Conv(nn.Module):
    """`torch.nn.Conv2d` without bias, padded by `kernel_size // 2`; `depthwise` gives each channel its own kernel."""

    features: int
    kernel_size: int = 3
    stride: int = 1
    depthwise: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, gain: Float[Array, " features"] | None = None) -> FeatureMap:
        """NHWC in `dtype`, each channel of it times its `gain`."""
        size, padding = self.kernel_size, self.kernel_size // 2
        inputs = 1 if self.depthwise else x.shape[-1]
        kernel = self.param("kernel", kaiming_fan_out, (size, size, inputs, self.features), jnp.float32)
        if gain is not None:
            kernel = kernel * gain[None, None, None]
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        on_cpu = jax.default_backend() == "cpu"
        if on_cpu and self.depthwise:
            return conv_depthwise(x, kernel, self.stride, padding)
        positions = math.prod(_out(n, size, self.stride, padding) for n in x.shape[1:3])
        wide = size == 3 and self.stride == 1 and min(kernel.shape[2:]) >= _WIDE and x.dtype != jnp.bfloat16
        if on_cpu and wide and positions >= _SMALLEST_TILED:
            return conv_winograd(x, kernel)
        if on_cpu and (size == 1 or positions <= _SMALL_MAP):
            return conv_matmul(x, kernel, self.stride, padding)
        return conv_general(x, kernel, self.stride, padding, self.features if self.depthwise else 1)


def normalise_by_batch(
    x: Float[Array, "b h w c"], scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> tuple[Float[Array, "b h w c"], Float[Array, " c"], Float[Array, " c"]]:
    """`x` normalised by its own mean and biased variance, then scaled and shifted; the mean; the variance."""
    mean = x.mean((0, 1, 2))
    var = jnp.square(x - mean[None, None, None]).mean((0, 1, 2))
    gain = scale * lax.rsqrt(var + 1e-5)
    return (x - mean[None, None, None]) * gain[None, None, None] + bias[None, None, None], mean, var


def _normalise_forward(
    x: FeatureMap, scale: Float[Array, " c"], bias: Float[Array, " c"]
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    y, mean, var = normalise_by_batch(x, scale, bias)
    return (y, mean, var), (x, scale, mean, var)


def _normalise_backward(
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


normalise_by_batch_on_cpu = jax.custom_vjp(normalise_by_batch)
normalise_by_batch_on_cpu.defvjp(_normalise_forward, _normalise_backward)


class BatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d` (eps 1e-5, momentum 0.1), statistics in float32.

    A module whose dotted path is in `live` normalises by the batch's mean and biased variance and moves its running
    statistics, with the unbiased variance (torch's training mode); every other one normalises by its running
    statistics, which stay as they are (torch's eval mode), as part of the convolution before it.
    """

    live: Collection[str] = frozenset()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, conv: Conv) -> FeatureMap:
        """Normalises `conv(x)`, NHWC in `dtype`. Raises UserError for a live module that sees one value per channel."""
        shape = (conv.features,)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        mean, var = running_mean.value, running_var.value
        path = ".".join(self.path)
        if path not in self.live:
            gain = scale * lax.rsqrt(var + 1e-5)
            x = conv(x, gain).astype(jnp.float32) + (bias - mean * gain)[None, None, None]
            return x.astype(self.dtype)
        x = conv(x).astype(jnp.float32)
        count = x.size // x.shape[-1]
        if count < 2:
            raise UserError(
                f"{path}: a BatchNorm in training mode needs more than one value per channel, got 1; use a larger "
                "--batch-size or --image-size"
            )
        normalise = normalise_by_batch_on_cpu if jax.default_backend() == "cpu" else normalise_by_batch
        x, mean, var = normalise(x, scale, bias)
        running_mean.value += 0.1 * (mean - running_mean.value)
        running_var.value += 0.1 * (var * (count / (count - 1)) - running_var.value)
        return x.astype(self.dtype)


class Linear(nn.Module):
    """`torch.nn.Linear` in float32, initialised as torch does."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """(batch, inputs) to float32 (batch, features)."""
        fan_in = x.shape[-1]
        kernel = self.param("kernel", partial(torch_uniform, fan_in=fan_in), (fan_in, self.features))
        bias = self.param("bias", partial(torch_uniform, fan_in=fan_in), (self.features,))
        return x.astype(jnp.float32) @ kernel + bias[None]


class Sequential(nn.Module):
    """`torch.nn.Sequential`: children named "0", "1", ...; a part that is None keeps its number and does nothing.

    A `Conv` is run by the `BatchNorm` that follows it.
    """

    parts: tuple[Part, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The parts, one after the other."""
        conv: Any = None
        for i, part in enumerate(self.parts):
            if part is None:
                continue
            module = part(name=str(i))
            if isinstance(module, Conv):
                conv = module
            else:
                x = module(x, conv) if isinstance(module, BatchNorm) else module(x)
        return x


def chosen(parts: Sequence[Part], name: str, units: Collection[str]) -> tuple[Part, ...]:
    """For a `Sequential` of this name: the parts that are among `units`, None for the others."""
    return tuple(part if f"{name}.{i}" in units else None for i, part in enumerate(parts))


def max_pool(x: FeatureMap) -> FeatureMap:
    """`torch.nn.MaxPool2d(3, stride=2, padding=1)`."""
    return _max_pool_on_cpu(x) if jax.default_backend() == "cpu" else _max_pool(x)


def _max_pool(x: FeatureMap) -> FeatureMap:
    return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))


def _max_pool_forward(x: FeatureMap) -> tuple[FeatureMap, FeatureMap]:
    return _max_pool(x), x


def _max_pool_backward(x: FeatureMap, dy: FeatureMap) -> tuple[FeatureMap]:
    """To the first of the largest, as torch does: XLA:CPU carries a position through a reduction, five times slower.

    Rows and columns of `x` are seen by one window if their number is even, else by two. The taps are compared with each
    other and not with the output, for which XLA may have rounded `x` otherwise.
    """
    seen = _taps(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-jnp.inf), (3, 3), 2, 0)
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


def pool(x: FeatureMap) -> Float[Array, "batch channels"]:
    """`torch.nn.AdaptiveAvgPool2d(1)` and flatten, in float32."""
    return x.astype(jnp.float32).mean((1, 2))
