from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.models.ops.pool import average_pool, max_pool
from tests.models.compare import draw


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 10, 2), (1, 5, 5, 1), (1, 1, 2, 1)])
def test_max_pooling_is_torchs_and_gives_its_gradient_to_the_first_of_the_largest(shape: tuple[int, ...]) -> None:
    x = np.maximum(np.round(draw(0, *shape)), 0)  # many ties
    np.testing.assert_array_equal(max_pool(jnp.asarray(x), "xla"), max_pool(jnp.asarray(x), "cpu"))
    y, pull = jax.vjp(partial(max_pool, form="cpu"), jnp.asarray(x))
    dy = draw(1, *y.shape)
    expected = np.zeros_like(x)
    for b, p, q, c in np.ndindex(*y.shape):
        rows, columns = range(max(0, 2 * p - 1), 2 * p + 2), range(max(0, 2 * q - 1), 2 * q + 2)
        seen = [(b, i, j, c) for i in rows for j in columns if i < shape[1] and j < shape[2]]
        first = max(seen, key=lambda place: x[place])
        assert y[b, p, q, c] == x[first]
        expected[first] += dy[b, p, q, c]
    np.testing.assert_allclose(pull(jnp.asarray(dy))[0], expected, rtol=1e-6, atol=1e-6)


def test_pooling_is_the_mean_in_float32() -> None:
    x = jnp.asarray(draw(0, 2, 3, 5, 4), jnp.bfloat16)
    assert average_pool(x).dtype == jnp.float32
    np.testing.assert_allclose(average_pool(x), np.asarray(x, np.float32).mean((1, 2)), rtol=1e-5, atol=1e-6)
