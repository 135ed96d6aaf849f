"""What tests of layers share: inputs, gradients, and how close they must be."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def gradients(function: Any, *inputs: Any) -> list[np.ndarray]:
    """Those of a sum that weighs every output differently, in float32."""

    def loss(*inputs: Any) -> Any:
        outputs = jax.tree.leaves(function(*inputs))
        return sum((y.astype(jnp.float32) * draw(10 + i, *y.shape)).sum() for i, y in enumerate(outputs))

    found = jax.jit(jax.grad(loss, argnums=tuple(range(len(inputs)))))(*inputs)
    return [np.asarray(gradient, np.float32) for gradient in found]


def assert_same(found: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())
