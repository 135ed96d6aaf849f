"""`jaxage evaluate`: score the model of a finished run on any data."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxage.config import TrainConfig, cache_folder
from jaxage.data.dataset import Dataset, LoadOptions, load_dataset
from jaxage.data.load import load_data
from jaxage.data.loader import device_budget, make_loader
from jaxage.metrics import summary
from jaxage.photos.faces import make_cropper
from jaxage.pretrained.hub import parse_hub_path
from jaxage.report.groups import group_errors
from jaxage.training.export import ModelConfig, load_model
from jaxage.training.intervals import bounds_of, column_of, coverage_report
from jaxage.training.predictor import compile_predictor, predict_rows
from jaxage.training.run_folder import CONFIG, read_config, read_inputs, require_inputs
from jaxage.training.train_images import count_train_images
from jaxage.training.view_index import rows_of_images
from jaxage.types import FacesIn, Json, Log, Predictions, Rows, RunPath, Split, UserError, Variables
from jaxage.utils import cluster
from jaxage.utils.sharding import inference_batch, make_mesh, replicate
from jaxage.utils.text import quoted


@dataclass(frozen=True)
class EvaluateOptions:
    """How a model is scored."""

    data: Path | None = None
    """A CSV of faces or a prepared folder, as for train; without it, the run's own data."""

    on: Split | None = None
    """The split to score; without it, the test split of the run's own data, every row of other data."""

    faces: FacesIn = "crop"
    """"photo" finds the face of each photo, which must show one person, and crops it as the training crops were;
    "crop" takes images whole; "auto" decides for each image."""

    coverage: float = 0.9
    """The probability with which intervals are to hold the true age."""

    max_bad: float | None = None
    """The largest share of images that may be missing or broken, or show no face; without it, the run's."""


_DEFAULTS = EvaluateOptions()


def evaluate(run: RunPath, options: EvaluateOptions = _DEFAULTS, log: Log = print) -> Json:
    """Score the exported model of a run.

    Args:
        run: The folder of a finished run; with `options.data` also its model folder, or `hf://owner/name@revision` on
            the Hugging Face Hub.
        options: What it is scored on.
        log: Takes what is to be known of the data (see `jaxage.data.notes`).

    Returns:
        `n`, every metric with its `_ci95`, `groups` (see `group_errors`), `failed` (how many images could not be used),
        and `intervals` (see `coverage_report`; None for a model without intervals).

    Raises:
        UserError: for a run or data that cannot be used.
    """
    log = cluster.quiet(log)
    variables, model_config = load_model(run)
    config, dataset, split, rows = load_scored(run, options, model_config, log)
    part = dataset.records.take(rows)
    predicted = predict_images(variables, model_config, dataset, rows, config)
    scored = summary(predicted.age, part.age, part.identity, config.seed)
    about = {"data": dataset.name, "split": split or "all", "failed": len(dataset.failures)}
    intervals = None
    if model_config.intervals is not None:
        bounds = bounds_of(model_config.intervals, predicted, options.coverage)
        intervals = coverage_report(bounds, part.age, options.coverage)
    return about | scored | {"groups": group_errors(predicted.age[None], part), "intervals": intervals}


class Scored(NamedTuple):
    """What a model is scored on.

    config: The settings of its run.
    dataset: The images.
    split: The split of them; None for all.
    rows: Their rows.
    """

    config: TrainConfig
    dataset: Dataset
    split: Split | None
    rows: Rows


def load_scored(run: RunPath, options: EvaluateOptions, model_config: ModelConfig, log: Log) -> Scored:
    """Load the images that the options ask for. Raises UserError for options or data that cannot be used."""
    config = _run_config(run, options.data)
    max_bad = config.max_bad if options.max_bad is None else options.max_bad
    if not 0 <= max_bad < 1:
        raise UserError(f"--max-bad must lie in [0, 1), got {max_bad}")
    if model_config.intervals is not None:
        column_of(options.coverage, model_config.intervals.coverages)  # refused before anything is computed
    config = replace(config, image_size=model_config.image_size, max_bad=max_bad)
    dataset, split = _load(run, config, options, model_config, log)
    cluster.require_same({"data": dataset.sha256})
    for note in dataset.notes:
        log(f"note: {note}")
    rows = np.arange(len(dataset.records)) if split is None else dataset.records.rows_of(split)
    if not len(rows):
        raise UserError(f"{dataset.name} has no image{f' in split {split}' if split else ''} to score")
    return Scored(config, dataset, split, rows)


def _load(
    run: RunPath, config: TrainConfig, options: EvaluateOptions, model_config: ModelConfig, log: Log
) -> tuple[Dataset, Split | None]:
    """The images, and the split to score. The run's own data are known by their content, wherever they lie now."""
    size, contract = model_config.image_size, model_config.input()
    cropper = None
    if options.faces != "crop":
        cropper = make_cropper(options.faces, size, contract, model_config.framing)
    if options.data is not None and options.data.resolve() != config.data:
        load = LoadOptions(split=None, max_bad=config.max_bad)
        dataset = load_dataset(
            options.data, size, cache=cache_folder(), contract=contract, options=load, cropper=cropper
        )
        if dataset.images_sha256 != read_inputs(run).get("images"):
            if trained := count_train_images(run, dataset.digests):
                log(f"note: the model was trained on {trained:,} of these {len(dataset.digests):,} images")
            return dataset, options.on
        config = replace(config, data=options.data)
    if config.data is not None and not config.data.exists():
        raise UserError(f"{quoted(config.data)}, the data of the run, is not there any more: name its new place (data)")
    dataset = load_data(config, cache_folder(), contract=contract, cropper=cropper)
    require_inputs(Path(run), {"data": dataset.sha256})
    return dataset, options.on or "test"


def _run_config(run: RunPath, data: Path | None) -> TrainConfig:
    """The settings of the run; the defaults for a model without its run, which needs data."""
    hub = parse_hub_path(run)
    if hub is None and (Path(run) / CONFIG).is_file():
        return read_config(Path(run))
    if data is None:
        raise UserError(f"{hub or run} is a model without its run, so its data are not known: name some with --data")
    return TrainConfig()


def predict_images(
    variables: Variables, model_config: ModelConfig, dataset: Dataset, rows: Rows, config: TrainConfig
) -> Predictions:
    """Predictions of some images of a dataset, by a whole network."""
    mesh = make_mesh()
    loader = make_loader(dataset.images, dataset.records.age, mesh, device_budget(mesh, config.memory_budget))
    step = compile_predictor(model_config, mesh, resident=loader.resident)
    eval_rows = rows_of_images(rows, model_config.flip)
    return predict_rows(step, replicate(variables, mesh), loader, eval_rows, inference_batch(mesh, config.batch_size))
