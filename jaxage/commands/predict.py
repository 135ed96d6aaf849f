"""`jaxage predict`: ages of image files, by the model of a run."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jaxage.data.decode import decode_file
from jaxage.data.loader import DataLoader
from jaxage.training.export import load_model
from jaxage.training.predictor import compile_predictor, predict_rows
from jaxage.training.view_index import rows_of_images
from jaxage.types import UserError, Years
from jaxage.utils.sharding import make_mesh, replicate


def predict(run: Path, images: Sequence[Path], batch_size: int = 32) -> Years:
    """The predicted age of each image file.

    Args:
        run: The folder of a finished run, or its `model/` folder.
        images: Face crops, framed like those that the model was trained on.
        batch_size: Images per step.

    Returns:
        Years, float32, in the order of `images`.

    Raises:
        UserError: for a run without a model, no images, and one that cannot be used, with the reason.
    """
    variables, model_config = load_model(run)
    if not images:
        raise UserError("no images: name at least one image file")
    mesh = make_mesh()
    step = compile_predictor(model_config, mesh)
    size = min(batch_size, len(images))
    decode = partial(decode_file, size=model_config.image_size, contract=model_config.input())
    variables = replicate(variables, mesh)
    ages = []
    for start in range(0, len(images), size):
        batch = np.stack([decode(path) for path in images[start : start + size]])
        loader = DataLoader(batch, np.zeros(len(batch), np.float32), mesh)
        eval_rows = rows_of_images(np.arange(len(batch)), model_config.flip)
        ages.append(predict_rows(step, variables, loader, eval_rows, size))
    return np.concatenate(ages)
