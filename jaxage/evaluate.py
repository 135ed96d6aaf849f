"""Predict a set and score it; score a finished run on any data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxage.config import cache_folder
from jaxage.data.load import load_data
from jaxage.export import load_model
from jaxage.mesh import in_turn, make_mesh, replicate
from jaxage.metrics import METRICS, age_bands, summary
from jaxage.run import read_config
from jaxage.steps import PredictStep, make_predict_step
from jaxage.types import Split, Variables


def predict_rows(
    predict: PredictStep, variables: Variables, images: jax.Array, rows: np.ndarray, batch_size: int
) -> np.ndarray:
    """Ages in years, float32, of the chosen rows of the resident set, in their order; the last batch is padded."""
    padded = np.resize(rows, -(-len(rows) // batch_size) * batch_size).astype(np.int32)
    ages = [in_turn(predict(variables, images, batch)) for batch in padded.reshape(-1, batch_size)]
    return np.concatenate([np.asarray(part) for part in ages])[: len(rows)]


def scores(prediction: np.ndarray, age: np.ndarray) -> dict[str, float | None]:
    """Every metric of `jaxage.metrics.METRICS`, without intervals; None where undefined."""
    values = {name: float(metric(prediction, age)) for name, metric in METRICS.items()}
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def evaluate(run: Path, data: Path | None = None, on: Split | None = None) -> dict[str, Any]:
    """Score the exported model of `run`: `n, plcc, srocc, mae, rmse, cs5`, their `_ci95`, and `age_bands`.

    `data` is a CSV as for training (default: the run's own); `on` is the split to score (default: the test split of the
    run's own data, every row of other data). Raises UserError for a run or data that cannot be used.
    """
    variables, contract = load_model(run)
    config = read_config(run)
    path = config.data if data is None else data.resolve()
    own = path == config.data
    config = replace(config, data=path, image_size=contract.image_size)
    dataset = load_data(config, cache_folder())
    split = on or ("test" if own else None)
    rows = np.arange(len(dataset.records)) if split is None else dataset.records.rows_of(split)
    part = dataset.records.take(rows)
    mesh = make_mesh()
    step = make_predict_step(contract.model(), contract.objective(), (contract.mean, contract.std), mesh)
    variables, images = replicate((variables, dataset.images), mesh)
    prediction = predict_rows(step, variables, images, rows, config.batch_size)
    scored = summary(prediction, part.age, part.identity, config.seed)
    return {"data": dataset.name, "split": split or "all"} | scored | {"age_bands": age_bands(prediction, part.age)}
