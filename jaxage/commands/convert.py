"""Convert torch weights to a safetensors file of Flax variables, and show for every stage that nothing was lost."""

from pathlib import Path

import jax
import numpy as np

from jaxage.models.registry import create_model
from jaxage.pretrained.convert import TorchState, to_torch
from jaxage.pretrained.download import weights_folder
from jaxage.pretrained.load import find_weights, merge
from jaxage.pretrained.safetensors_io import write_variables
from jaxage.types import Arch, Log, UserError, Variables
from jaxage.utils.trees import is_within


def convert(arch: Arch, weights: str, out: Path | None = None, log: Log = print) -> Path:
    """Write `OUT/TAG.safetensors` (default: the weights folder) and print a row of checks for each stage.

    Raises UserError (WeightsError, ConversionError) and WeightsUnavailableError as `find_weights` does.
    """
    found = find_weights(weights, arch)
    path = (out or weights_folder()) / f"{found.tag}.safetensors"
    if path.exists() and Path(weights).exists() and path.samefile(weights):
        raise UserError(f"{path} is the file to convert: name another folder with --out")
    log(f"{found.tag}, source sha256 {found.sha256}\n{stage_check(found.variables, arch)}")
    write_variables(path, found.variables, {"arch": arch, "source_sha256": found.sha256})
    log(f"written: {path}")
    return path


def stage_check(variables: Variables, arch: Arch, image_size: int = 224) -> str:
    """A table: tensors, numbers and norm of each stage, and the root mean square of its activation.

    The input is noise (seed 0), normalized, `image_size` px square, so that two conversions of the same weights can be
    compared. A head that the weights do not have is left out.
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


def _tensors_of(state: TorchState, stage: str) -> list[np.ndarray]:
    return [x for key, x in state.items() if is_within(key, stage) and not key.endswith("num_batches_tracked")]
