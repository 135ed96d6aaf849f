"""Convert torch state dicts to Flax variables and back: exactly, or not at all."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxage.models.registry import create_model
from jaxage.pretrained.find_state import ConversionError
from jaxage.pretrained.keymap import Table, tables
from jaxage.pretrained.names import COUNTER, module_of, to_flax_layout, to_torch_layout, torch_key
from jaxage.pretrained.safetensors_io import Tensors
from jaxage.types import Arch, Variables
from jaxage.utils.trees import flatten, is_within, unflatten


@dataclass(frozen=True)
class Conversion:
    """A converted state dict.

    Attributes:
        variables: float32 numpy arrays, with the state dict's own head, or none if it has none.
        layout: Whose names the state dict uses (a key of `jaxage.pretrained.keymap.tables`).
        dropped: Keys of the state dict that Flax does not need: BatchNorm's batch counters.
    """

    variables: Variables
    layout: str
    dropped: tuple[str, ...]


def to_flax(state: Tensors, arch: Arch) -> Conversion:
    """Convert a torch state dict: kernels from OIHW to HWIO, linear weights from (out, in) to (in, out).

    Args:
        state: With torchvision's names or one of the other known layouts; floating-point values of any precision.
        arch: The network.

    Raises:
        ConversionError: with all faults: missing and unused keys, wrong shapes and dtypes, NaN and infinity.
        UserError: if there is no network of that name.
    """
    shapes = _leaf_shapes(arch)
    layout, table = _best_layout(state, arch, shapes)
    head = create_model(arch).spec.head
    sources = {leaf: torch_key(leaf, table) for leaf in shapes}
    headless = not any(sources[leaf] in state for leaf in shapes if is_within(module_of(leaf), head))
    faults, leaves = [], {}
    for leaf, key in sources.items():
        in_head = is_within(module_of(leaf), head)
        if key not in state:
            if not (in_head and headless):
                faults.append(f"missing: {key} (for {leaf})")
            continue
        value = to_flax_layout(state[key])
        expected = shapes[leaf][:-1] if in_head else shapes[leaf]
        found = value.shape[: len(expected)] if in_head else value.shape
        if found != expected or value.ndim != len(shapes[leaf]):
            faults.append(f"shape: {key} is {state[key].shape}, converted {value.shape}, expected {shapes[leaf]}")
        elif not jnp.issubdtype(value.dtype, jnp.floating):
            faults.append(f"dtype: {key} is {value.dtype}, expected a floating-point type")
        elif not np.isfinite(numbers := np.ascontiguousarray(value, dtype=np.float32)).all():
            faults.append(f"values: {key} holds NaN or infinity")
        else:
            leaves[leaf] = numbers
    rest = sorted(state.keys() - set(sources.values()))
    dropped = tuple(key for key in rest if key.endswith("." + COUNTER))
    faults += [f"unused: {key} {state[key].shape}" for key in rest if key not in dropped]
    if faults:
        shown = "\n  ".join(faults[:20] + [f"... and {len(faults) - 20} more"] * (len(faults) > 20))
        raise ConversionError(
            f"not a state dict of {arch} (read as {layout}'s layout), {len(faults)} faults:\n  {shown}"
        )
    return Conversion(unflatten(leaves), layout, dropped)


def to_torch(variables: Variables, table: Table | None = None) -> Tensors:
    """Convert variables to a state dict that torchvision's network loads strictly. BatchNorm's counters are 0.

    Args:
        variables: Of the network.
        table: Another layout, from `jaxage.pretrained.keymap.tables`.
    """
    state: Tensors = {}
    for leaf, value in flatten(variables).items():
        key = torch_key(leaf, table)
        state[key] = np.ascontiguousarray(to_torch_layout(np.asarray(value)))
        if leaf.endswith(".var"):
            state[f"{key.rsplit('.', 1)[0]}.{COUNTER}"] = np.zeros((), np.int64)
    return state


def _leaf_shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    model = create_model(arch, outputs=1000)
    return {name: leaf.shape for name, leaf in flatten(jax.eval_shape(model.init, jax.random.key(0))).items()}


def _best_layout(state: Tensors, arch: Arch, leaves: dict[str, tuple[int, ...]]) -> tuple[str, Table]:
    def hits(table: Table) -> int:
        return sum(torch_key(leaf, table) in state for leaf in leaves)

    known = tables(arch, sorted({module_of(leaf) for leaf in leaves}))
    return max(known.items(), key=lambda item: hits(item[1]))
