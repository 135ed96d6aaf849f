"""Convolutions in NHWC with HWIO kernels, in several forms that compute the same function as torch's.

On the CPU XLA's own convolution is several times slower than a matrix product where the kernel is 1x1 or the map small
(a hundred times where the map is smaller than the kernel), and than shifted multiply-adds where it is depthwise. These
forms have gradients of their own: XLA fuses what autodiff makes of them into loops that run through memory against its
order or compute every value once for each tap, and a MobileNetV2 step takes twice as long.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

FeatureMap = Float[Array, "batch _ _ _"]


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
    patches = jnp.concatenate(taps(x, kernel.shape, stride, padding), axis=-1)
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
    seen = taps(x, kernel.shape, stride, padding)
    total = jnp.zeros_like(seen[0])
    for tap, weight in zip(seen, kernel.reshape(-1, kernel.shape[-1]), strict=True):
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
    products = [(tap * dy).astype(jnp.float32) for tap in taps(x, kernel.shape, stride, padding)]
    rows = lax.reduce(products, [jnp.float32(0)] * len(products), _add, (2,))
    dk = jnp.stack([row.sum((0, 1)) for row in rows]).reshape(kernel.shape)
    return dx, dk.astype(kernel.dtype)


def _add(totals: list[Array], values: list[Array]) -> list[Array]:
    return [total + value for total, value in zip(totals, values, strict=True)]


conv_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def taps(x: FeatureMap, kernel: tuple[int, ...], stride: int, padding: int) -> list[FeatureMap]:
    """What each tap of a kernel of this shape sees, row by row."""
    height, width = (out_size(n, k, stride, padding) for n, k in zip(x.shape[1:3], kernel, strict=False))
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    return [
        x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def out_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Positions of the output along a side of `size`."""
    return (size + 2 * padding - kernel) // stride + 1
