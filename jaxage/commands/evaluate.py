"""Predict a set and score it; score a finished run on any data."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jaxage.config import cache_folder
from jaxage.data.dataset import LoadOptions, load_dataset
from jaxage.data.load import load_data
from jaxage.data.loader import device_budget, make_loader
from jaxage.metrics import age_bands, summary
from jaxage.training.export import load_model
from jaxage.training.inputs import from_images
from jaxage.training.predictor import images_at, predict_rows
from jaxage.training.run_folder import read_config, require_inputs
from jaxage.training.step import make_predict_step
from jaxage.types import Split, UserError
from jaxage.utils.sharding import make_mesh, replicate


def evaluate(
    run: Path, data: Path | None = None, on: Split | None = None, max_bad: float | None = None
) -> dict[str, Any]:
    """Score the exported model of `run`: `n, plcc, srocc, mae, rmse, cs5`, their `_ci95`, and `age_bands`.

    `data` is a CSV or a prepared folder, as for training, but it needs no splits (default: the run's own); `on` is the
    split to score (default: the test split of the run's own data, every row of other data); `max_bad` is the largest
    share of images that may be missing or broken (default: the run's), and `failed` of the result says how many were.
    Raises UserError for a run or data that cannot be used.
    """
    variables, contract = load_model(run)
    config = read_config(run)
    max_bad = config.max_bad if max_bad is None else max_bad
    if data is None or data.resolve() == config.data:
        split: Split | None = on or "test"
        config = replace(config, image_size=contract.image_size, max_bad=max_bad)
        dataset = load_data(config, cache_folder())
        require_inputs(run, {"data": dataset.sha256})
    else:
        split = on
        options = LoadOptions(split=None, max_bad=max_bad)
        dataset = load_dataset(data, contract.image_size, cache=cache_folder(), options=options)
    rows = np.arange(len(dataset.records)) if split is None else dataset.records.rows_of(split)
    if not len(rows):
        raise UserError(f"{dataset.name} has no image{f' in split {split}' if split else ''} to score")
    part = dataset.records.take(rows)
    mesh = make_mesh()
    model = contract.model()
    source = from_images(model, (contract.mean, contract.std))
    step = make_predict_step(model, contract.objective(), source, mesh)
    loader = make_loader(dataset.images, dataset.records.age, mesh, device_budget(mesh, config.memory_budget))
    prediction = predict_rows(
        step, replicate(variables, mesh), loader, images_at(rows, contract.flip), config.batch_size
    )
    scored = summary(prediction, part.age, part.identity, config.seed)
    about = {"data": dataset.name, "split": split or "all", "failed": len(dataset.failures)}
    return about | scored | {"age_bands": age_bands(prediction, part.age)}
