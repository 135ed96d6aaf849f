import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.models.ops.conv import conv_general
from jaxage.models.ops.winograd import conv_winograd
from tests.models.compare import draw


@pytest.mark.parametrize(
    ("height", "width", "inputs", "outputs"), [(1, 1, 1, 2), (4, 7, 3, 5), (5, 2, 4, 1), (15, 14, 3, 5)]
)
def test_any_size_is_the_convolution_and_its_gradients(height: int, width: int, inputs: int, outputs: int) -> None:
    x, kernel = jnp.asarray(draw(0, 2, height, width, inputs)), jnp.asarray(draw(1, 3, 3, inputs, outputs))
    dy = jnp.asarray(draw(2, 2, height, width, outputs))
    y, pull = jax.vjp(conv_winograd, x, kernel)
    expected, pull_expected = jax.vjp(lambda x, k: conv_general(x, k, 1, 1), x, kernel)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(pull(dy), pull_expected(dy), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", [(4, 14, 14, 128), (4, 7, 7, 128)])
def test_it_is_about_as_accurate_as_the_convolution(shape: tuple[int, ...]) -> None:
    x, kernel = draw(0, *shape), draw(1, 3, 3, 128, 128) / np.float32(34)
    with jax.enable_x64(True):
        exact = np.asarray(conv_general(jnp.asarray(x, float), jnp.asarray(kernel, float), 1, 1))
    errors = [
        float(np.abs(np.asarray(f(jnp.asarray(x), jnp.asarray(kernel)), np.float64) - exact).max())
        for f in (conv_winograd, lambda x, k: conv_general(x, k, 1, 1))
    ]
    assert errors[0] < 4 * errors[1] < 4e-5
