"""`jaxage frame`: what a model should know of its data to be used on photos: where faces sit, and how sure it is."""

from dataclasses import replace
from pathlib import Path

from jaxage.commands.evaluate import predict_images
from jaxage.config import cache_folder
from jaxage.data.dataset import Dataset
from jaxage.data.load import load_data
from jaxage.data.records import spread
from jaxage.photos.detector import open_network
from jaxage.photos.framing import measure_framing
from jaxage.pretrained.hub import parse_hub_path
from jaxage.training.export import load_model, model_folder, write_model_config
from jaxage.training.intervals import fit_intervals
from jaxage.training.run_folder import read_config, require_inputs
from jaxage.types import Framing, Log, UserError, WeightsUnavailableError

_SAMPLE = 100


def frame(run: Path, log: Log = print) -> Framing | None:
    """Measure where faces sit in the training crops of a run, and add it to its `model.json`.

    A model without intervals (of an earlier version) gets them from the validation split.

    Args:
        run: The folder of a finished run; its data must be where they were.
        log: Takes what was measured.

    Raises:
        UserError: for a run or data that cannot be used, or a missing extra `photos`.
        WeightsUnavailableError: if the detector cannot be downloaded.
    """
    if hub := parse_hub_path(run):
        raise UserError(f"{hub} is a model without its run: measure the run, and push it again")
    variables, model_config = load_model(run)
    config = replace(read_config(run), image_size=model_config.image_size)
    dataset = load_data(config, cache_folder(), log, model_config.input())
    require_inputs(run, {"data": dataset.sha256})
    if model_config.intervals is None:
        rows = dataset.records.rows_of("validation")
        predicted = predict_images(variables, model_config, dataset, rows, config)
        model_config = replace(model_config, intervals=fit_intervals(predicted, dataset.records.age[rows]))
        log(f"intervals fitted to {len(rows):,} validation images")
    framing = framing_of(dataset, log)
    write_model_config(model_folder(run), replace(model_config, framing=framing))
    return framing


def framing_of(dataset: Dataset, log: Log) -> Framing | None:
    """Where faces sit in a sample of the training crops; None if few of them show a face that is found.

    Raises:
        UserError: if the extra `photos` is missing.
        WeightsUnavailableError: if the detector cannot be downloaded.
    """
    network = open_network()
    rows = spread(dataset.records.rows_of("train"), _SAMPLE)
    framing = measure_framing(network, [dataset.images[row] for row in rows])
    if framing is None:
        log("no face is found in most of the training crops: photos will be cropped as in IMDb-crop")
    else:
        log(
            f"faces in the training crops: {framing.scale:.0%} of the side, landmarks around "
            f"({framing.x:.0%}, {framing.y:.0%}); photos will be cropped to match"
        )
    return framing


def try_framing(dataset: Dataset, log: Log) -> Framing | None:
    """As `framing_of`, but a line to `log` where the detector cannot be had: a run does not fail for it."""
    try:
        return framing_of(dataset, log)
    except (UserError, WeightsUnavailableError) as error:
        log(f"where faces sit in the crops was not measured ({error}); do it later with: jaxage frame RUN")
        return None
