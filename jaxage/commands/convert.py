"""Convert torch weights to a safetensors file of Flax variables, and show for each stage that nothing was lost."""

from pathlib import Path

import jax
import numpy as np
from jaxtyping import Shaped

from jaxage.models.registry import create_model
from jaxage.pretrained.convert import to_torch
from jaxage.pretrained.load import find_weights, merge, save_weights
from jaxage.pretrained.manifest import weights_folder
from jaxage.pretrained.safetensors_io import Tensors
from jaxage.types import Arch, Log, UserError, Variables
from jaxage.utils.trees import is_within


def convert(arch: Arch, weights: str, out: Path | None = None, log: Log = print) -> Path:
    """Write `OUT/TAG.safetensors` and log a table of checks (see `stage_check`).

    Args:
        arch: The network.
        weights: As for `jaxage.pretrained.load.find_weights`.
        out: The folder to write to; without it, the one where weights are stored.
        log: Where the table goes.

    Returns:
        The written file.

    Raises:
        UserError, WeightsUnavailableError: as `find_weights` does, and if the file to write is the one to convert.
    """
    found = find_weights(weights, arch)
    path = (out or weights_folder()) / f"{found.tag}.safetensors"
    if path.exists() and Path(weights).exists() and path.samefile(weights):
        raise UserError(f"{path} is the file to convert: write to another folder (--out)")
    for note in found.notes:
        log(note)
    log(f"{found.tag}, source sha256 {found.sha256}\n{stage_check(found.variables, arch)}")
    save_weights(path, found, arch)
    log(f"written: {path}")
    return path


def stage_check(variables: Variables, arch: Arch, image_size: int = 224) -> str:
    """A table to compare two conversions of the same weights with.

    Args:
        variables: Of the network, with any head or none.
        arch: The network.
        image_size: Height and width in pixels of the input, which is normal noise of seed 0.

    Returns:
        A line for each stage: the number of its tensors and of their elements, their norm, and the root mean square of
        its activation. A head that the weights do not have is left out.
    """
    model = create_model(arch)
    fresh = model.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(0), (1, image_size, image_size, 3))
    stages = jax.jit(model.apply)(merge(fresh, variables, model.spec.head), images).stages
    state = to_torch(variables)
    lines = [f"{'stage':<12}{'tensors':>8}{'numbers':>12}{'norm':>12}{'activation rms':>16}  shape"]
    for stage in model.spec.stages:
        activation = stages[stage]
        tensors = _tensors_of(state, stage)
        if stage == model.spec.head and not tensors:
            continue
        own = stage != model.spec.head
        norm = np.sqrt(sum(float(np.square(x, dtype=np.float64).sum()) for x in tensors))
        rms = f"{float(np.sqrt(np.square(activation).mean())):.6f}" if own else "new head"
        shape = "x".join(str(n) for n in activation.shape[1:]) if own else ""
        numbers = sum(x.size for x in tensors)
        lines.append(f"{stage:<12}{len(tensors):>8}{numbers:>12,}{norm:>12.4f}{rms:>16}  {shape}")
    return "\n".join(lines)


def _tensors_of(state: Tensors, stage: str) -> list[Shaped[np.ndarray, "..."]]:
    return [x for key, x in state.items() if is_within(key, stage) and not key.endswith("num_batches_tracked")]
