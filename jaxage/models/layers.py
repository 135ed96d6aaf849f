"""The layers as torch defines them: explicit padding, BatchNorm with unbiased running variance.

Kernels are stored HWIO and images are NHWC. Which form a convolution takes depends on its shape and the device.
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

from jaxage.models.ops.batch_norm import normalize_by_batch, normalize_by_batch_on_cpu
from jaxage.models.ops.conv import FeatureMap, conv_depthwise, conv_general, conv_matmul, out_size
from jaxage.models.ops.winograd import conv_winograd
from jaxage.types import UserError

Initializer = Callable[..., Array]
Part = Callable[..., nn.Module] | None

_SMALL_MAP = 49
"""Positions of an output up to which a matrix product is the faster form on the CPU."""

_WIDE, _SMALLEST_TILED = 128, 49
"""Channels, and positions of an output, from which Winograd's form is the faster one on the CPU."""

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""torchvision's `kaiming_normal_(mode="fan_out")`, without truncation."""


def torch_uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32, *, fan_in: int) -> Array:
    """torch's default for `nn.Linear`: uniform in +-1/sqrt(fan_in), for the weight and for the bias."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


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
        positions = math.prod(out_size(n, size, self.stride, padding) for n in x.shape[1:3])
        wide = size == 3 and self.stride == 1 and min(kernel.shape[2:]) >= _WIDE and x.dtype != jnp.bfloat16
        if on_cpu and wide and positions >= _SMALLEST_TILED:
            return conv_winograd(x, kernel)
        if on_cpu and (size == 1 or positions <= _SMALL_MAP):
            return conv_matmul(x, kernel, self.stride, padding)
        return conv_general(x, kernel, self.stride, padding, self.features if self.depthwise else 1)


class BatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d` (eps 1e-5, momentum 0.1), statistics in float32.

    A module whose dotted path is in `train_bn` normalizes by the batch's mean and biased variance and moves its running
    statistics, with the unbiased variance (torch's training mode); every other one normalizes by its running
    statistics, which stay as they are (torch's eval mode), as part of the convolution before it.
    """

    train_bn: Collection[str] = frozenset()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: FeatureMap, conv: Conv) -> FeatureMap:
        """Normalises `conv(x)`, NHWC in `dtype`. Raises UserError for a train_bn module that sees one value per channel."""
        shape = (conv.features,)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        mean, var = running_mean.value, running_var.value
        path = ".".join(self.path)
        if path not in self.train_bn:
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
        normalize = normalize_by_batch_on_cpu if jax.default_backend() == "cpu" else normalize_by_batch
        x, mean, var = normalize(x, scale, bias)
        running_mean.value += 0.1 * (mean - running_mean.value)
        running_var.value += 0.1 * (var * (count / (count - 1)) - running_var.value)
        return x.astype(self.dtype)


class Linear(nn.Module):
    """`torch.nn.Linear` in float32, initialized as torch does."""

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
