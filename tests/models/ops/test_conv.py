from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate

from jaxage.models.ops.conv import ConvForm, conv_depthwise, conv_direct, conv_general, conv_matmul
from tests.models.compare import assert_same, draw, gradients


def scipy_conv(x: np.ndarray, kernel: np.ndarray, stride: int, padding: int) -> np.ndarray:
    """torch's convolution by its definition: a zero-padded cross-correlation, every `stride`-th value."""
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    maps = [
        [sum(correlate(image[..., i], kernel[..., i, o], "valid") for i in range(x.shape[3])) for image in padded]
        for o in range(kernel.shape[3])
    ]
    return np.moveaxis(np.asarray(maps), 0, -1)[:, ::stride, ::stride]


@settings(max_examples=20, deadline=None)
@given(st.integers(5, 9), st.integers(5, 9), st.sampled_from([1, 3, 5]), st.integers(1, 3))
def test_convolution_pads_and_strides_as_torch_defines_it(height: int, width: int, size: int, stride: int) -> None:
    x, kernel = draw(0, 2, height, width, 3), draw(1, size, size, 3, 4)
    found = conv_general(jnp.asarray(x), jnp.asarray(kernel), stride, size // 2)
    np.testing.assert_allclose(found, scipy_conv(x, kernel, stride, size // 2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "stride"), [(7, 6, 1), (7, 6, 2), (3, 8, 2), (9, 9, 2), (2, 2, 1), (1, 1, 2)]
)
@pytest.mark.parametrize("form", ["depthwise", "pointwise", "full"])
def test_the_forms_for_the_cpu_are_the_same_functions(form: str, height: int, width: int, stride: int) -> None:
    depthwise, size = form == "depthwise", 1 if form == "pointwise" else 3
    x = jnp.asarray(draw(0, 2, height, width, 6))
    kernel = jnp.asarray(draw(1, size, size, *((1, 6) if depthwise else (6, 4))))

    def ours(x: Any, kernel: Any) -> Any:
        return (conv_depthwise if depthwise else conv_matmul)(x, kernel, stride, size // 2)

    def theirs(x: Any, kernel: Any) -> Any:
        return conv_general(x, kernel, stride, size // 2, 6 if depthwise else 1)

    def both(function: Any) -> Any:
        gradient = jax.grad(lambda *arguments: jnp.sin(function(*arguments)).sum(), argnums=(0, 1))
        return jax.jit(lambda x, kernel: (function(x, kernel), gradient(x, kernel)))(x, kernel)

    for a, b in zip(jax.tree.leaves(both(ours)), jax.tree.leaves(both(theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize(("size", "padding"), [(1, 0), (2, 1), (3, 0), (3, 1), (3, 3), (5, 2)])
@pytest.mark.parametrize(("stride", "form"), [(1, "cpu"), (2, "cpu"), (3, "cpu"), (2, "gpu")])
def test_depthwise_gradients_are_those_of_xlas_convolution(
    stride: int, form: ConvForm, size: int, padding: int, dtype: Any, tolerance: float
) -> None:
    x, kernel = jnp.asarray(draw(0, 2, 8, 7, 6), dtype), jnp.asarray(draw(1, size, size, 1, 6), dtype)
    found = gradients(lambda x, kernel: conv_depthwise(x, kernel, stride, padding, form), x, kernel)
    exact = (x.astype(jnp.float32), kernel.astype(jnp.float32))
    assert_same(found, gradients(lambda x, kernel: conv_general(x, kernel, stride, padding, 6), *exact), tolerance)


@pytest.mark.parametrize(
    ("channels", "size", "stride", "batch"), [(3, 7, 2, 4), (8, 3, 2, 3), (8, 3, 1, 2), (64, 3, 1, 2), (64, 3, 2, 2)]
)
def test_direct_gradients_are_those_of_xlas_convolution(channels: int, size: int, stride: int, batch: int) -> None:
    x, kernel = jnp.asarray(draw(0, batch, 15, 14, channels)), jnp.asarray(draw(1, size, size, channels, 64))
    found = gradients(lambda x, kernel: conv_direct(x, kernel, stride, size // 2), x, kernel)
    assert_same(found, gradients(lambda x, kernel: conv_general(x, kernel, stride, size // 2), x, kernel), 1e-5)


@pytest.mark.parametrize("outputs", [3, 6, 9])
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 2)])
def test_matrix_product_gradients_are_those_of_xlas_convolution(size: int, stride: int, outputs: int) -> None:
    x, kernel = jnp.asarray(draw(0, 2, 8, 7, 6)), jnp.asarray(draw(1, size, size, 6, outputs))
    found = gradients(lambda x, kernel: conv_matmul(x, kernel, stride, size // 2), x, kernel)
    assert_same(found, gradients(lambda x, kernel: conv_general(x, kernel, stride, size // 2), x, kernel), 2e-6)
