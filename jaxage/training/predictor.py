"""Predictions of many images in batches, and their scores without intervals."""

import numpy as np

from jaxage.data.loader import DataLoader, batches
from jaxage.data.sampler import EvalRows
from jaxage.metrics import METRICS
from jaxage.training.step import PredictStep
from jaxage.types import Variables
from jaxage.utils.sharding import block_if_multi_cpu


def predict_rows(
    predict: PredictStep, variables: Variables, loader: DataLoader, eval_rows: EvalRows, batch_size: int
) -> np.ndarray:
    """Ages in years, float32, of the faces that `eval_rows` (n, 1 or 2) say where to find, in their order.

    Batches are filled up.
    """
    devices = loader.mesh.size
    size = -(-batch_size // devices) * devices
    steps, each = -(-len(eval_rows) // size), eval_rows.shape[1]
    padded = np.resize(eval_rows, (steps, size * each)).astype(np.int32)
    parts = batches(loader, padded)
    ages = [block_if_multi_cpu(predict(variables, items, batch.reshape(size, each))) for items, _, batch in parts]
    return np.concatenate([np.asarray(part) for part in ages])[: len(eval_rows)]


def images_at(rows: np.ndarray, flip: bool) -> EvalRows:
    """Where a loader of images has these rows, as they are and, with `flip`, again for their mirrors."""
    return np.repeat(rows[:, None], 1 + flip, axis=1).astype(np.int32)


def scores(prediction: np.ndarray, age: np.ndarray) -> dict[str, float | None]:
    """Every metric of `jaxage.metrics.METRICS`, without intervals; None where undefined."""
    values = {name: float(metric.function(prediction, age)) for name, metric in METRICS.items()}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
