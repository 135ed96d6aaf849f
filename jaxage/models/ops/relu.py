"""ReLU and ReLU6 with torch's gradients, taken from the output: the input need not be kept or computed again."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxage.models.ops.conv import FeatureMap

RELU, RELU6 = math.inf, 6.0
"""The ceilings of the two."""


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def relu(x: FeatureMap, ceiling: float = RELU) -> FeatureMap:
    """`torch.nn.ReLU`, or with the ceiling 6 `torch.nn.ReLU6`: the gradient passes where 0 < x < ceiling."""
    return jnp.maximum(x, 0) if math.isinf(ceiling) else jnp.clip(x, 0, ceiling)


def _forward(x: FeatureMap, ceiling: float) -> tuple[FeatureMap, FeatureMap]:
    y = relu(x, ceiling)
    return y, y


def _backward(ceiling: float, y: FeatureMap, dy: FeatureMap) -> tuple[FeatureMap]:
    """Compare with != : XLA would see through > and compute the input again."""
    inside = y != 0 if math.isinf(ceiling) else (y != 0) & (y != ceiling)
    return (jnp.where(inside, dy, 0),)


relu.defvjp(_forward, _backward)
