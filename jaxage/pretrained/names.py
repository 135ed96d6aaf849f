"""How a leaf of Flax variables and a tensor of a torch state dict are called, and how their axes differ."""

import numpy as np
from jaxtyping import Shaped

from jaxage.pretrained.keymap import Table

COUNTER = "num_batches_tracked"
_TORCH_LEAF = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def module_of(leaf: str) -> str:
    """The module of a leaf: `layer1.0.conv1` for `params.layer1.0.conv1.kernel`."""
    return leaf.partition(".")[2].rpartition(".")[0]


def torch_key(leaf: str, table: Table | None = None) -> str:
    """The key that a layout has for a leaf; torchvision's without a table."""
    module, name = module_of(leaf), leaf.rsplit(".", 1)[1]
    return f"{module if table is None else table[module]}.{_TORCH_LEAF.get(name, name)}"


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a leaf in torch: OIHW for HWIO, (out, in) for (in, out)."""
    return to_torch_layout(np.empty(shape, np.bool_)).shape


def to_flax_layout(value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """HWIO from OIHW, (in, out) from (out, in)."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value


def to_torch_layout(value: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """The inverse of `to_flax_layout`."""
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T if value.ndim == 2 else value
