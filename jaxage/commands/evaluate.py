"""`jaxage evaluate`: score the model of a finished run on any data."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxage.config import cache_folder
from jaxage.data.dataset import LoadOptions, load_dataset
from jaxage.data.load import load_data
from jaxage.data.loader import device_budget, make_loader
from jaxage.metrics import age_bands, summary
from jaxage.training.export import load_model
from jaxage.training.predictor import compile_predictor, predict_rows
from jaxage.training.run_folder import read_config, require_inputs
from jaxage.training.view_index import rows_of_images
from jaxage.types import Json, Split, UserError
from jaxage.utils.sharding import make_mesh, replicate


def evaluate(run: Path, data: Path | None = None, on: Split | None = None, max_bad: float | None = None) -> Json:
    """Score the exported model of a run.

    Args:
        run: The folder of a finished run.
        data: A CSV or a prepared folder, as for training, but it needs no splits; by default the run's own data.
        on: The split to score; by default the test split of the run's own data, every row of other data.
        max_bad: The largest share of images that may be missing or broken; by default the run's.

    Returns:
        `n`, every metric with its `_ci95`, `age_bands`, and `failed`: how many images could not be used.

    Raises:
        UserError: for a run or data that cannot be used.
    """
    variables, model_config = load_model(run)
    config = read_config(run)
    max_bad = config.max_bad if max_bad is None else max_bad
    if not 0 <= max_bad < 1:
        raise UserError(f"--max-bad must lie in [0, 1), got {max_bad}")
    if data is None or data.resolve() == config.data:
        split: Split | None = on or "test"
        config = replace(config, image_size=model_config.image_size, max_bad=max_bad)
        dataset = load_data(config, cache_folder(), contract=model_config.input())
        require_inputs(run, {"data": dataset.sha256})
    else:
        split = on
        options = LoadOptions(split=None, max_bad=max_bad)
        size, contract = model_config.image_size, model_config.input()
        dataset = load_dataset(data, size, cache=cache_folder(), contract=contract, options=options)
    rows = np.arange(len(dataset.records)) if split is None else dataset.records.rows_of(split)
    if not len(rows):
        raise UserError(f"{dataset.name} has no image{f' in split {split}' if split else ''} to score")
    part = dataset.records.take(rows)
    mesh = make_mesh()
    loader = make_loader(dataset.images, dataset.records.age, mesh, device_budget(mesh, config.memory_budget))
    variables = replicate(variables, loader.mesh)
    eval_rows = rows_of_images(rows, model_config.flip)
    step = compile_predictor(model_config, loader.mesh)
    prediction = predict_rows(step, variables, loader, eval_rows, config.batch_size)
    scored = summary(prediction, part.age, part.identity, config.seed)
    about = {"data": dataset.name, "split": split or "all", "failed": len(dataset.failures)}
    return about | scored | {"age_bands": age_bands(prediction, part.age)}
