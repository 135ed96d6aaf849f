"""The layers as torch defines them: explicit padding, BatchNorm with unbiased running variance.

Kernels are stored HWIO and images are NHWC.
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

from jaxage.models.ops.batch_norm import normalize_by_batch, normalize_by_batch_on_cpu, normalize_by_batch_on_gpu
from jaxage.models.ops.conv import (
    ConvForm,
    FeatureMap,
    conv_depthwise,
    conv_direct,
    conv_general,
    conv_matmul,
    out_size,
)
from jaxage.models.ops.relu import relu
from jaxage.models.ops.winograd import conv_winograd
from jaxage.types import UserError

Part = Callable[..., nn.Module] | None

_MOMENTUM = 0.1

_SMALL_MAP = 49
"""Positions of an output up to which a matrix product is the fastest form on the CPU."""

_WINOGRAD_CHANNELS, _WINOGRAD_MAP = 128, 49
"""Channels, and positions of an output, from which Winograd's form is the fastest on the CPU."""

kaiming_fan_out = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""torchvision's `kaiming_normal_(mode="fan_out")`, without truncation."""


def torch_uniform(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32, *, fan_in: int) -> Array:
    """Draw as torch does for the weight and the bias of `nn.Linear`: uniform in +-1/sqrt(fan_in)."""
    bound = fan_in**-0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Conv(nn.Module):
    """`torch.nn.Conv2d` without bias, padded by `kernel_size // 2`.

    Attributes:
        depthwise: Each channel has a kernel of its own.
        dtype: Of the computation; the kernel is stored as float32.
        conv_form: "xla" for XLA's own convolution, "cpu" and "gpu" for the form that is fastest there for these shapes.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    depthwise: bool = False
    dtype: Any = jnp.float32
    conv_form: ConvForm = "xla"

    @nn.compact
    def __call__(self, x: FeatureMap, gain: Float[Array, " features"] | None = None) -> FeatureMap:
        """Convolve, with each output channel's kernel multiplied by its `gain` before."""
        size, padding = self.kernel_size, self.kernel_size // 2
        inputs = 1 if self.depthwise else x.shape[-1]
        kernel = self.param("kernel", kaiming_fan_out, (size, size, inputs, self.features), jnp.float32)
        if gain is not None:
            kernel = kernel * gain[None, None, None]
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.depthwise and self.conv_form != "xla":
            return conv_depthwise(x, kernel, self.stride, padding, self.conv_form)
        if self.conv_form != "cpu":
            return conv_general(x, kernel, self.stride, padding, self.features if self.depthwise else 1)
        positions = math.prod(out_size(n, size, self.stride, padding) for n in x.shape[1:3])
        wide = min(kernel.shape[2:]) >= _WINOGRAD_CHANNELS and x.dtype != jnp.bfloat16
        if size == 3 and self.stride == 1 and wide and positions >= _WINOGRAD_MAP:
            return conv_winograd(x, kernel)
        if size == 1 or positions <= _SMALL_MAP:
            return conv_matmul(x, kernel, self.stride, padding)
        if x.dtype != jnp.bfloat16:
            return conv_direct(x, kernel, self.stride, padding)
        # JAX 0.11's XLA:CPU fuses convolutions of bfloat16 into what follows, and gives NaN for large maps
        return lax.optimization_barrier(conv_general(x, kernel, self.stride, padding))


class BatchNorm(nn.Module):
    """`torch.nn.BatchNorm2d` with momentum 0.1; statistics are float32.

    In training mode it normalizes by the batch's mean and biased variance, and updates its running statistics with the
    unbiased variance. In eval mode it normalizes by its running statistics and keeps them.

    Attributes:
        train_bn: Dotted paths of the modules in training mode; all others are in eval mode.
        dtype: Of the output.
        eps: Added to the variance.
        conv_form: "cpu" and "gpu" for gradients in closed form, which are faster there.
    """

    features: int
    train_bn: Collection[str] = frozenset()
    dtype: Any = jnp.float32
    eps: float = 1e-5
    conv_form: ConvForm = "xla"

    def setup(self) -> None:
        """Declare the parameters and the running statistics."""
        shape = (self.features,)
        self.scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        self.bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        self.mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        self.var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

    def in_training_mode(self) -> bool:
        """Whether this module is in `train_bn`."""
        return ".".join(self.path) in self.train_bn

    def gain(self) -> Float[Array, " features"]:
        """The factor of each channel in eval mode: `x * gain() + shift(gain())`."""
        return self.scale * lax.rsqrt(self.var.value + self.eps)

    def shift(self, gain: Float[Array, " features"]) -> Float[Array, " features"]:
        """What eval mode adds to each channel after the multiplication by `gain`."""
        return self.bias - self.mean.value * gain

    def __call__(self, x: FeatureMap, ceiling: float | None = None) -> FeatureMap:
        """Normalize, and clip to 0 and the ceiling if there is one.

        Raises:
            UserError: in training mode, if there is only one value per channel; torch refuses that too.
        """
        if not self.in_training_mode():
            gain = self.gain()
            x = x.astype(jnp.float32) * gain[None, None, None] + self.shift(gain)[None, None, None]
            return (x if ceiling is None else relu(x, ceiling)).astype(self.dtype)
        count = x.size // x.shape[-1]
        if count < 2:
            raise UserError(
                f"{'.'.join(self.path)}: a BatchNorm in training mode needs more than one value per channel, got 1; "
                "use larger batches or larger images"
            )
        if self.conv_form == "gpu":
            x, mean, var = normalize_by_batch_on_gpu(
                x.astype(self.dtype), self.scale, self.bias, self.mean.value, self.eps, ceiling
            )
        else:
            normalize = normalize_by_batch_on_cpu if self.conv_form == "cpu" else normalize_by_batch
            x, mean, var = normalize(x.astype(jnp.float32), self.scale, self.bias, self.eps)
            x = x if ceiling is None else relu(x, ceiling)
        self.mean.value += _MOMENTUM * (mean - self.mean.value)
        self.var.value += _MOMENTUM * (var * (count / (count - 1)) - self.var.value)
        return x.astype(self.dtype)


def conv_norm(conv: Conv, norm: BatchNorm, x: FeatureMap, ceiling: float | None = None) -> FeatureMap:
    """`norm(conv(x))`, and a ReLU if it has a ceiling: `RELU` or `RELU6`.

    A BatchNorm in eval mode is folded into the kernel, which saves a pass over the output.
    """
    if norm.in_training_mode():
        return norm(conv(x), ceiling)
    gain = norm.gain()
    y = conv(x, gain) + norm.shift(gain).astype(norm.dtype)[None, None, None]
    return y if ceiling is None else relu(y, ceiling)


class Linear(nn.Module):
    """`torch.nn.Linear` in float32, initialized as torch does."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "batch inputs"]) -> Float[Array, "batch outputs"]:
        """Multiply by the kernel and add the bias."""
        fan_in = x.shape[-1]
        kernel = self.param("kernel", partial(torch_uniform, fan_in=fan_in), (fan_in, self.features))
        bias = self.param("bias", partial(torch_uniform, fan_in=fan_in), (self.features,))
        return x.astype(jnp.float32) @ kernel + bias[None]


class Sequential(nn.Module):
    """`torch.nn.Sequential`: children named "0", "1", ...; a part that is None keeps its number and does nothing."""

    parts: tuple[Part, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Run the parts in order, a convolution together with the BatchNorm that follows it (see `conv_norm`)."""
        modules: list[Any] = [part(name=str(i)) for i, part in enumerate(self.parts) if part is not None]
        while modules:
            module = modules.pop(0)
            if isinstance(module, Conv) and modules and isinstance(modules[0], BatchNorm):
                x = conv_norm(module, modules.pop(0), x)
            else:
                x = module(x)
        return x


def keep_units(parts: Sequence[Part], name: str, units: Collection[str]) -> tuple[Part, ...]:
    """The parts of a `Sequential` called `name`, with None for those that are not among `units`."""
    return tuple(part if f"{name}.{i}" in units else None for i, part in enumerate(parts))
