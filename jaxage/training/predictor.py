"""Predictions of many images in batches, and their scores without intervals."""

import numpy as np
from jax.sharding import Mesh

from jaxage.data.loader import DataLoader, load_batches
from jaxage.data.sampler import EvalRows
from jaxage.metrics import METRICS
from jaxage.training.export import ModelConfig
from jaxage.training.inputs import from_images
from jaxage.training.step import PredictStep, make_predict_step
from jaxage.types import Variables, Years
from jaxage.utils.sharding import block_if_multi_cpu


def predict_rows(
    predict: PredictStep, variables: Variables, loader: DataLoader, eval_rows: EvalRows, batch_size: int
) -> Years:
    """Ages in years of many faces, in batches of one size; the last batch is filled up.

    Args:
        predict: Of `make_predict_step`.
        variables: On all devices of the loader.
        loader: Has the images or features.
        eval_rows: For each face its row in the loader and, in a second column, that of its mirror.
        batch_size: Faces per call, rounded up to a multiple of the devices.

    Returns:
        float32, in the order of `eval_rows`.
    """
    devices = loader.mesh.size
    size = -(-batch_size // devices) * devices
    steps, each = -(-len(eval_rows) // size), eval_rows.shape[1]
    padded = np.resize(eval_rows, (steps, size * each)).astype(np.int32)
    parts = load_batches(loader, padded)
    ages = [block_if_multi_cpu(predict(variables, items, batch.reshape(size, each))) for items, _, batch in parts]
    return np.concatenate([np.asarray(part) for part in ages])[: len(eval_rows)]


def compile_predictor(model_config: ModelConfig, mesh: Mesh) -> PredictStep:
    """A prediction step of a whole network, from images (see `make_predict_step`)."""
    model = model_config.model()
    input_fn = from_images(model, (model_config.mean, model_config.std))
    return make_predict_step(model, model_config.objective(), input_fn, mesh)


def scores(prediction: Years, age: Years) -> dict[str, float | None]:
    """Every metric of `METRICS`, without intervals; None where undefined."""
    values = {name: float(metric.function(prediction, age)) for name, metric in METRICS.items()}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
