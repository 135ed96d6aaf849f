"""A torch state dict for tests: the recipe's numbers under torchvision's names."""

import jax
import numpy as np

from jaxage.models.registry import create_model
from jaxage.pretrained.convert import to_torch
from jaxage.types import Arch
from tests.goldens.recipe import random_state


def torch_state(arch: Arch, outputs: int = 3) -> dict[str, np.ndarray]:
    shapes = jax.eval_shape(create_model(arch, outputs=outputs).init, jax.random.key(0))
    empty = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return random_state({name: value.shape for name, value in to_torch(empty).items()})
