"""Ages of images, by the model of a run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxage.data.decode import ImageError, decode_image
from jaxage.data.loader import DataLoader
from jaxage.training.export import load_model
from jaxage.training.inputs import from_images
from jaxage.training.predictor import images_at, predict_rows
from jaxage.training.step import make_predict_step
from jaxage.types import UserError
from jaxage.utils.sharding import make_mesh, replicate


def predict(run: Path, images: Sequence[Path], batch_size: int = 32) -> np.ndarray:
    """The predicted age in years, float32 (n,), of each image file, by the model exported in `run`.

    Raises UserError for a run without a model, and one naming the image that cannot be used and why.
    """
    variables, contract = load_model(run)
    if not images:
        raise UserError("no images: name at least one image file")
    mesh = make_mesh()
    model = contract.model()
    step = make_predict_step(model, contract.objective(), from_images(model, (contract.mean, contract.std)), mesh)
    size = min(batch_size, len(images))
    variables = replicate(variables, mesh)
    ages = []
    for start in range(0, len(images), size):
        batch = np.stack([decode_file(path, contract.image_size) for path in images[start : start + size]])
        loader = DataLoader(batch, np.zeros(len(batch), np.float32), mesh)
        ages.append(predict_rows(step, variables, loader, images_at(np.arange(len(batch)), contract.flip), size))
    return np.concatenate(ages)


def decode_file(path: Path, size: int) -> np.ndarray:
    """`decode_image` of a file. Raises UserError naming it if it cannot be used."""
    try:
        return decode_image(path.read_bytes(), size)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except ImageError as error:
        raise UserError(f"{path}: {error}") from error
