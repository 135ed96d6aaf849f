"""torch's convolution for NHWC images and HWIO kernels, in several forms that compute the same function.

On a CPU, XLA's own convolution is slow: a matrix product is several times faster for 1x1 kernels and small maps (a
hundred times if the map is smaller than the kernel), and shifted multiply-adds are faster for depthwise kernels. These
forms have gradients of their own. XLA fuses autodiff's gradients into loops that read memory against its order or
compute every value again for each tap, and a step of MobileNetV2 then takes twice as long.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxage.models.ops.chunks import sum_chunks
from jaxage.models.ops.winograd import kernel_gradient

_WINOGRAD_GRADIENT_CHANNELS = 64
"""Channels from which Winograd's form is the fastest for the kernel's gradient on a CPU."""

ConvForm = Literal["cpu", "gpu", "xla"]
"""How layers compute: "xla" plainly, by XLA's own operations; "cpu" and "gpu" by the forms that are faster there."""

FeatureMap = Float[Array, "batch _ _ _"]
"""NHWC."""


def conv_general(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw j o"], stride: int, padding: int, groups: int = 1
) -> Float[Array, "b y x o"]:
    """`torch.nn.functional.conv2d` by XLA's convolution."""
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
    """The same as one matrix product with the patches that the outputs see."""
    patches = jnp.concatenate(taps(x, kernel.shape, stride, padding), axis=-1)
    return _matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_direct(
    x: Float[Array, "b h w i"], kernel: Float[Array, "kh kw i o"], stride: int, padding: int
) -> Float[Array, "b y x o"]:
    """XLA's convolution with a faster gradient of the kernel: by products of the patches of a few images at a time, and
    by Winograd's form where it is faster.
    """
    return conv_general(x, kernel, stride, padding)


def _direct_forward(
    x: FeatureMap, kernel: Float[Array, "kh kw i o"], stride: int, padding: int
) -> tuple[FeatureMap, tuple[Array, Array]]:
    return conv_direct(x, kernel, stride, padding), (x, kernel)


def _direct_backward(
    stride: int, padding: int, saved: tuple[Array, Array], dy: FeatureMap
) -> tuple[FeatureMap, Float[Array, "kh kw i o"]]:
    x, kernel = saved
    _, pull = jax.vjp(lambda x: conv_general(x, kernel, stride, padding), x)
    if (*kernel.shape[:2], stride, padding) == (3, 3, 1, 1) and min(kernel.shape[2:]) >= _WINOGRAD_GRADIENT_CHANNELS:
        return *pull(dy), kernel_gradient(x, dy)

    def products(x: Array, dy: Array, groups: int) -> list[Array]:
        patches = jnp.concatenate(taps(x, kernel.shape, stride, padding), axis=-1)
        rows, columns = (each.reshape(groups, -1, each.shape[-1]) for each in (dy, patches))
        return [jnp.einsum("gro,gri->goi", rows, columns)]

    (total,) = sum_chunks(products, x, dy)
    return *pull(dy), total.T.reshape(kernel.shape)


conv_direct.defvjp(_direct_forward, _direct_backward)


@jax.custom_vjp
def _matmul(x: Float[Array, "b h w i"], kernel: Float[Array, "i o"]) -> Float[Array, "b h w o"]:
    return jnp.einsum("bhwi,io->bhwo", x, kernel)


def _matmul_forward(x: FeatureMap, kernel: Float[Array, "i o"]) -> tuple[FeatureMap, tuple[Array, Array]]:
    return _matmul(x, kernel), (x, kernel)


def _matmul_backward(saved: tuple[Array, Array], dy: FeatureMap) -> tuple[FeatureMap, Float[Array, "i o"]]:
    """XLA transposes the first operand of the kernel's gradient in memory: let that be the one with fewer channels."""
    x, kernel = saved
    dx = jnp.einsum("bhwo,io->bhwi", dy, kernel)
    if x.shape[-1] < dy.shape[-1]:
        return dx, jnp.einsum("bhwi,bhwo->io", x, dy)
    return dx, jnp.einsum("bhwo,bhwi->oi", dy, x).T


_matmul.defvjp(_matmul_forward, _matmul_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def conv_depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], stride: int, padding: int, form: ConvForm = "cpu"
) -> Float[Array, "b y x c"]:
    """A depthwise convolution as a sum, in float32, of shifted and scaled copies of the input, one for each tap."""
    total = jnp.float32(0)
    for tap, weight in zip(taps(x, kernel.shape, stride, padding), kernel.reshape(-1, kernel.shape[-1]), strict=True):
        total = total + tap.astype(jnp.float32) * weight[None, None, None]
    return total.astype(x.dtype)


def _depthwise_forward(
    x: FeatureMap, kernel: Float[Array, "kh kw 1 c"], stride: int, padding: int, form: ConvForm
) -> tuple[FeatureMap, tuple[Array, Array]]:
    """On a GPU, XLA would keep the float32 sum for the backward pass: `_stored` prevents it."""
    return _stored(conv_depthwise(x, kernel, stride, padding, form), form), (x, kernel)


def _depthwise_backward(
    stride: int, padding: int, form: ConvForm, saved: tuple[Array, Array], dy: FeatureMap
) -> tuple[FeatureMap, Float[Array, "kh kw 1 c"]]:
    """The input's gradient is a convolution of `dy`, dilated by the stride, with the flipped kernel.

    The kernel's gradient is XLA's on a GPU, and on a CPU one pass over the rows that sums the products of all taps.
    """
    x, kernel = saved
    dy = _stored(dy, form)
    edges = [
        (k - 1 - padding, n + padding - 1 - stride * (m - 1), stride - 1)
        for k, n, m in zip(kernel.shape, x.shape[1:3], dy.shape[1:3], strict=False)
    ]
    spread = lax.pad(dy, jnp.zeros((), dy.dtype), ((0, 0, 0), *edges, (0, 0, 0)))
    dx = conv_depthwise(spread, kernel[::-1, ::-1], 1, 0, form)
    if form == "gpu":
        _, gradient = jax.vjp(lambda kernel: conv_general(x, kernel, stride, padding, x.shape[-1]), kernel)
        return _stored(dx, form), *gradient(dy)
    products = [(tap * dy).astype(jnp.float32) for tap in taps(x, kernel.shape, stride, padding)]
    rows = lax.reduce(products, [jnp.float32(0)] * len(products), _add, (2,))
    dk = jnp.stack([row.sum((0, 1)) for row in rows]).reshape(kernel.shape)
    return dx, dk.astype(kernel.dtype)


def _stored(x: FeatureMap, form: ConvForm) -> FeatureMap:
    """`x` written to memory once, in its dtype, on a GPU: not computed again by each kernel that reads it."""
    return lax.optimization_barrier(x) if form == "gpu" else x


def _add(totals: list[Array], values: list[Array]) -> list[Array]:
    return [total + value for total, value in zip(totals, values, strict=True)]


conv_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def taps(x: FeatureMap, kernel: tuple[int, ...], stride: int, padding: int) -> list[FeatureMap]:
    """The values that each tap of a kernel of this shape is multiplied with, row by row of the kernel."""
    height, width = (out_size(n, k, stride, padding) for n, k in zip(x.shape[1:3], kernel, strict=False))
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def out_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """The number of outputs along a side of `size`."""
    return (size + 2 * padding - kernel) // stride + 1
