"""Predictions of many images in batches, and their scores without intervals."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxage.data.loader import DataLoader, load_batches
from jaxage.data.sampler import EvalRows
from jaxage.metrics import METRICS
from jaxage.training.export import ModelConfig, load_model
from jaxage.training.inputs import from_images
from jaxage.training.intervals import Bounds, bounds_of, column_of
from jaxage.training.step import PredictStep, make_predict_step
from jaxage.training.view_index import rows_of_images
from jaxage.types import Predictions, RunPath, StoredImages, Variables, Years
from jaxage.utils.sharding import block_if_multi_cpu, make_mesh, replicate


class Estimate(NamedTuple):
    """The age of a face in years.

    age: the prediction.
    low, high: the interval that holds the true age with the predictor's coverage; `high` is infinite if any age is
        possible. None if the model has no intervals.
    probabilities: of each whole year from 0; empty for a model that predicts an age alone.
    """

    age: float
    low: float | None
    high: float | None
    probabilities: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Predictor:
    """A model that is ready to predict: images in, estimates out.

    config: Of the model.
    batch_size: Images per step at most; the last step of a call is filled up.
    coverage: The probability with which an interval is to hold the true age.
    """

    config: ModelConfig
    batch_size: int
    coverage: float
    _step: PredictStep
    _variables: Variables
    _mesh: Mesh

    def __call__(self, images: StoredImages) -> list[Estimate]:
        """Estimate the age of each image, uint8 (n, size, size, 3), cropped like those of the training."""
        loader = DataLoader(images, np.zeros(len(images), np.float32), self._mesh)
        eval_rows = rows_of_images(np.arange(len(images)), self.config.flip)
        size = min(self.batch_size, 1 << (len(images) - 1).bit_length())  # a power of two: few sizes to compile
        predicted = predict_rows(self._step, self._variables, loader, eval_rows, size)
        bounds = None
        if self.config.intervals is not None:
            bounds = bounds_of(self.config.intervals, predicted, self.coverage)
        return [_estimate(predicted, bounds, row) for row in range(len(images))]


def load_predictor(run: RunPath, batch_size: int, coverage: float) -> Predictor:
    """The predictor of a run.

    Args:
        run: The folder of a finished run, its `model/` folder, or `hf://owner/name@revision` on the Hugging Face Hub.
        batch_size: Images per step.
        coverage: The probability with which an interval is to hold the true age: a whole percent from 0.5 to 0.99.

    Raises:
        UserError: for a run without a model, or another coverage.
    """
    variables, config = load_model(run)
    mesh = make_mesh()
    predictor = Predictor(
        config, batch_size, coverage, compile_predictor(config, mesh), replicate(variables, mesh), mesh
    )
    if config.intervals is not None:
        column_of(coverage, config.intervals.coverages)
    return predictor


def _estimate(predicted: Predictions, bounds: Bounds | None, row: int) -> Estimate:
    low, high = (None, None) if bounds is None else (float(bounds.low[row]), float(bounds.high[row]))
    return Estimate(float(predicted.age[row]), low, high, tuple(predicted.probabilities[row].tolist()))


def predict_rows(
    predict: PredictStep, variables: Variables, loader: DataLoader, eval_rows: EvalRows, batch_size: int
) -> Predictions:
    """Ages of many faces, and their distributions, in batches of one size; the last batch is filled up.

    Args:
        predict: Of `make_predict_step`.
        variables: On all devices of the loader.
        loader: Has the images or features.
        eval_rows: For each face its row in the loader and, in a second column, that of its mirror.
        batch_size: Faces per call, rounded up to a multiple of the devices.

    Returns:
        NumPy arrays, float32, in the order of `eval_rows`.
    """
    devices = loader.mesh.size
    size = -(-batch_size // devices) * devices
    steps, each = -(-len(eval_rows) // size), eval_rows.shape[1]
    padded = np.resize(eval_rows, (steps, size * each)).astype(np.int32)
    parts = load_batches(loader, padded)
    done = [block_if_multi_cpu(predict(variables, items, batch.reshape(size, each))) for items, _, batch in parts]
    columns = zip(*jax.device_get(done), strict=True)
    return Predictions(*(np.concatenate(column)[: len(eval_rows)] for column in columns))


def compile_predictor(model_config: ModelConfig, mesh: Mesh, *, resident: bool = False) -> PredictStep:
    """A prediction step of a whole network, from images (see `make_predict_step`)."""
    model = model_config.model()
    input_fn = from_images(model, (model_config.mean, model_config.std))
    return make_predict_step(model, model_config.objective(), input_fn, mesh, resident=resident)


def scores(prediction: Years, age: Years) -> dict[str, float | None]:
    """Every metric of `METRICS`, without intervals; None where undefined."""
    values = {name: float(metric.function(prediction, age)) for name, metric in METRICS.items()}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}
