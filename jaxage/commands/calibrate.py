"""`jaxage calibrate`: fit a model's ages and intervals to a few faces of one's own, without training."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from jaxage.commands.evaluate import EvaluateOptions, load_scored, predict_images
from jaxage.data.prepare.output import move_into_place, require_empty, unfinished_folder
from jaxage.metrics import clusters
from jaxage.pretrained.hub import CARD_FILE, parse_hub_path
from jaxage.report.tables import calibration_card, calibration_lines
from jaxage.training.calibration import Calibration, cross_fit, fit_calibration
from jaxage.training.export import ModelConfig, export_model, load_model, model_folder
from jaxage.training.intervals import bounds_of, coverage_report, fit_intervals
from jaxage.training.train_images import count_train_images
from jaxage.types import FacesIn, Json, Log, RunPath, UserError
from jaxage.utils.files import write_json

_FEWEST_IMAGES, _FEWEST_PEOPLE = 30, 5


@dataclass(frozen=True)
class CalibrateOptions:
    """What a model is calibrated with."""

    data: Path
    """A CSV of faces or a prepared folder, as for train: at least 30 faces that the model was not trained on."""

    faces: FacesIn = "crop"
    """"photo" finds the face of each photo, which must show one person, and crops it as the training crops were;
    "crop" takes images whole; "auto" decides for each image."""

    coverage: float = 0.9
    """The probability with which the intervals that are compared are to hold the true age."""

    max_bad: float | None = None
    """The largest share of images that may be missing or broken, or show no face; without it, the run's."""


def calibrate(run: RunPath, options: CalibrateOptions, out: Path | None = None, log: Log = print) -> Json:
    """Fit the scale and offset of a model's ages, and its intervals, to other faces; write the new model.

    Scale and offset are kept only if they are shown to help on faces that they were not fitted to; the intervals are
    fitted anew in any case.

    Args:
        run: The folder of a finished run, its model folder, or `hf://owner/name@revision` on the Hugging Face Hub.
        options: The faces.
        out: The model folder to make; by default `RUN/calibrated`.
        log: Takes what was found.

    Returns:
        What `calibration.json` holds: `data`, `n`, `scale`, `offset`, `helped`, `held_out` (see `cross_fit`) and
        `before`, the coverage of the model's own intervals (None if it has none).

    Raises:
        UserError: for a run, faces or a folder that cannot be used, fewer than 30 faces, or faces of the training.
    """
    if out is None and parse_hub_path(run):
        raise UserError(f"{run} is on the Hub: name the folder for the calibrated model with --out")
    variables, model_config = load_model(run)
    out = (out or Path(run) / "calibrated").resolve()
    require_empty(out)
    config, dataset, _, rows = load_scored(run, EvaluateOptions(**asdict(options)), model_config, log)
    part = dataset.records.take(rows)
    cluster = clusters(part.identity)
    people = int(cluster.max()) + 1
    if len(rows) < _FEWEST_IMAGES or people < _FEWEST_PEOPLE:
        raise UserError(
            f"{dataset.name} has {len(rows)} faces of {people} people to calibrate with: at least {_FEWEST_IMAGES} of "
            f"{_FEWEST_PEOPLE} are needed"
        )
    if trained := count_train_images(run, [dataset.digests[row] for row in rows]):
        raise UserError(
            f"the model was trained on {trained:,} of these {len(rows):,} faces, and errs less on them than on others: "
            "leave them out"
        )
    predicted = predict_images(variables, model_config, dataset, rows, config)
    held_out = cross_fit(predicted, part.age, cluster, options.coverage)
    helped = held_out["ci95"] is not None and held_out["ci95"][1] < 0
    fitted = fit_calibration(predicted, part.age)
    before = None
    if model_config.intervals is not None:
        bounds = bounds_of(model_config.intervals, predicted, options.coverage)
        before = coverage_report(bounds, part.age, options.coverage)
    if helped:
        model_config = _after(model_config, fitted)
        predicted = predict_images(variables, model_config, dataset, rows, config)
    calibrated = replace(model_config, intervals=fit_intervals(predicted, part.age))
    report = {
        "data": dataset.name,
        "n": len(rows),
        "coverage": options.coverage,
        "helped": helped,
        **fitted._asdict(),
        "held_out": held_out,
        "before": before,
    }
    card = (model_folder(run) / CARD_FILE).read_text(encoding="utf-8")
    with unfinished_folder(out) as work:
        folder = work / "model"
        export_model(folder, variables, calibrated, card + calibration_card(report))
        write_json(folder / "calibration.json", report)
        move_into_place(folder, out)
    log(f"{calibration_lines(report)}\nwritten: {out}")
    return report


def _after(config: ModelConfig, calibration: Calibration) -> ModelConfig:
    """The model with a further calibration."""
    return replace(
        config,
        scale=calibration.scale * config.scale,
        offset=calibration.scale * config.offset + calibration.offset,
    )
