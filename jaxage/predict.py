"""Ages of images, by the model of a run."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxage.data.decode import decode_image

from jaxage.evaluate import predict_rows
from jaxage.export import load_model
from jaxage.mesh import make_mesh, replicate
from jaxage.steps import make_predict_step
from jaxage.types import UserError


def predict(run: Path, images: Sequence[Path], batch_size: int = 32) -> np.ndarray:
    """The predicted age in years, float32 (n,), of each image file, by the model exported in `run`.

    Raises UserError for a run without a model, and one naming the image that cannot be used and why.
    """
    variables, contract = load_model(run)
    decoded = np.stack([_decode(path, contract.image_size) for path in images])
    mesh = make_mesh()
    step = make_predict_step(contract.model(), contract.objective(), (contract.mean, contract.std), mesh)
    size = min(batch_size, len(images))
    size = -(-size // mesh.size) * mesh.size
    return predict_rows(step, replicate(variables, mesh), jax.numpy.asarray(decoded), np.arange(len(images)), size)


def _decode(path: Path, size: int) -> np.ndarray:
    try:
        return decode_image(path.read_bytes(), size)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
