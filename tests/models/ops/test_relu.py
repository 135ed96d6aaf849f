import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxage.models.ops.relu import RELU, RELU6, relu


@pytest.mark.parametrize(
    ("ceiling", "y", "dx"), [(RELU, [0, 0, 2, 6, 7], [0, 0, 1, 1, 1]), (RELU6, [0, 0, 2, 6, 6], [0, 0, 1, 0, 0])]
)
def test_values_and_gradients_are_torchs_at_the_ends_too(ceiling: float, y: list[float], dx: list[float]) -> None:
    x = jnp.float32([-1, 0, 2, 6, 7]).reshape(1, 1, 1, 5)
    found, pull = jax.vjp(lambda x: relu(x, ceiling), x)
    np.testing.assert_array_equal(found.ravel(), y)
    np.testing.assert_array_equal(pull(jnp.ones_like(x))[0].ravel(), dx)
