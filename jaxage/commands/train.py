"""`jaxage train`: settings, data and weights in; a folder with the tested model and its report out."""

import time
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Shaped

from jaxage.commands.frame import try_framing
from jaxage.config import TrainConfig, cache_folder
from jaxage.data.dataset import Dataset, describe_data
from jaxage.data.load import load_data
from jaxage.data.records import Records
from jaxage.metrics import METRICS, summary
from jaxage.report.balance import balance_plot, balance_trade
from jaxage.report.contact_sheet import contact_sheet
from jaxage.report.groups import group_errors
from jaxage.report.intervals_plot import interval_plot
from jaxage.report.plots import curves, scatter
from jaxage.report.tables import model_card, results_table, write_failures, write_predictions
from jaxage.training.build import Built, build, resolve, run_inputs
from jaxage.training.export import ModelConfig, export_model
from jaxage.training.intervals import Intervals, bounds_of, coverage_report, fit_intervals
from jaxage.training.loop import Progress, fit, predict_at
from jaxage.training.ridge import solve
from jaxage.training.run_folder import (
    REPORT,
    Run,
    create_run,
    environment,
    find_run,
    finished_report,
    non_default_flags,
    open_run,
    require_inputs,
)
from jaxage.training.setup import InitialModel, check_settings, initialize
from jaxage.training.train_images import write_train_images
from jaxage.types import Json, Log, Mask, Predictions, Rows, Split, Variables, Years
from jaxage.utils import cluster
from jaxage.utils.files import write_json

_COVERAGE = 0.9
_SCORED: tuple[Split, Split] = ("validation", "test")


def train(config: TrainConfig, log: Log = print, given: Collection[str] | None = None) -> Json:
    """Run `config` to the end in its folder, or continue the run that is there.

    Args:
        config: The settings.
        log: The logger.
        given: The fields of `config` that were given explicitly, compared when a run is resumed; by default, those
            that differ from their defaults.

    Returns:
        What `report.json` holds.

    Raises:
        UserError: (DataError, WeightsError, ConversionError and RunError are such) for settings, data and weights that
            cannot be used.
        WeightsUnavailableError: if weights cannot be fetched.
        Diverged: if the loss or predictions become NaN or inf.
        Stopped: after a signal, once the state is saved.
    """
    _, folder = find_run(config, given)
    if report := finished_report(folder):
        log(f"{folder} is finished: nothing to resume")
        return report
    with open_run(config, cluster.quiet(log), given) as run:
        log = run.log
        if report := finished_report(run.folder):  # by another process, in the meantime
            return report
        setup = check_settings(run.config)
        log(f"run folder: {run.folder}, settings: {non_default_flags(run.asked) or 'the defaults'}")
        dataset = load_data(run.config, cache_folder(), log, setup.input)
        for note in dataset.notes:
            log(f"note: {note}")
        initial = initialize(run.config, setup, dataset, log)
        inputs = run_inputs("train", dataset, initial)
        require_inputs(run.folder, inputs)
        cluster.require_same(inputs | environment()["packages"])
        built = build(run.config, setup, dataset, initial, log)
        run = replace(run, config=resolve(run.config, initial, built))
        create_run(run, inputs | {"images": dataset.images_sha256})
        best, progress = _fit(built, initial, run)
        fit_ended = time.perf_counter()
        predicted = {split: predict_at(built.program, best, dataset.records.rows_of(split)) for split in _SCORED}

        def finish() -> Json:
            write_train_images(run.folder, dataset)
            write_failures(run.folder / "failures.csv", dataset.failures)
            tested, intervals = _test(predicted, dataset, run)
            framing = try_framing(dataset, log) if run.config.data is not None else None
            model_config = replace(initial.model_config, framing=framing, intervals=intervals)
            report = _report(built, initial, dataset, run) | tested
            report |= {"best_epoch": progress.best_epoch, "timing": _timing(built, progress, fit_ended)}
            _write_results(best, model_config, progress, report, run)
            return report

        report = cluster.first(finish)
    log(results_table(report))
    log(f"\nreport, predictions, plots and model: {run.folder}")
    return report


def _fit(built: Built, initial: InitialModel, run: Run) -> tuple[Variables, Progress]:
    if run.config.solver == "ridge":
        return solve(built.program, built.state.average, initial.model_config, run)
    return fit(built.program, built.state, run)


def _report(built: Built, initial: InitialModel, dataset: Dataset, run: Run) -> Json:
    config = run.config
    return {
        "arch": config.arch,
        "trainable": config.trainable,
        "settings": non_default_flags(replace(run.asked, data=None, weights=TrainConfig.weights)),
        "weights": initial.weights,
        "demonstration": config.data is None,
        "data": describe_data(dataset),
        "solver": config.solver,
        **built.network,
        "environment": environment(),
    }


def _timing(built: Built, progress: Progress, fit_ended: float) -> Json:
    return {
        "total_s": progress.run_s + time.perf_counter() - fit_ended,
        "train_images_per_s": progress.images / progress.train_s,
        **built.timing,
    }


def _test(predictions: Mapping[Split, Predictions], dataset: Dataset, run: Run) -> tuple[Json, Intervals]:
    """Score validation and test, and draw the test; the intervals that the validation split gives.

    Ages of the test split are used only here.
    """
    records, seed = dataset.records, run.config.seed
    validation, rows = (records.rows_of(split) for split in _SCORED)
    predicted, part = predictions["validation"], records.take(validation)
    scored = {"validation": summary(predicted.age, part.age, part.identity, seed)}
    intervals = fit_intervals(predicted, part.age)
    constant = fit_intervals(predicted, part.age, bands=1, scaled=False)
    predicted, part = predictions["test"], records.take(rows)
    prediction = np.asarray(predicted.age)
    test = summary(prediction, part.age, part.identity, seed)
    test |= _seen_and_unseen(part, prediction, records.identity[records.rows_of("train")], seed)
    test["groups"] = group_errors(prediction[None], part)
    train_age, balance = records.age[records.rows_of("train")], run.config.balance
    if trade := balance_trade(predicted, part.age, train_age, balance):
        test["balance"] = trade
        balance_plot(run.folder / "balance.png", trade, balance)
    bounds = bounds_of(intervals, predicted, _COVERAGE)
    test["intervals"] = coverage_report(bounds, part.age, _COVERAGE)
    same = coverage_report(bounds_of(constant, predicted, _COVERAGE), part.age, _COVERAGE)
    test["intervals"]["constant_width"] = same["width"]
    interval_plot(run.folder / "intervals.png", test["intervals"])
    write_predictions(run.folder / "predictions.csv", part, prediction, *bounds)
    if run.config.data is None:
        _show_faces(run, dataset, rows, prediction)
    title = f"{run.config.arch}, {run.config.trainable}: test"
    scatter(run.folder / "scatter.png", prediction, part.age, {name: test[name] for name in METRICS}, title)
    return scored | {"test": test}, intervals


def _seen_and_unseen(part: Records, prediction: Years, train_people: Shaped[np.ndarray, " people"], seed: int) -> Json:
    """Test scores of people who are also in the training split, and of people who are not; None for no images.

    Images without an identity count as neither. Scores of a single image or person are undefined, without a warning.
    """
    known, seen = part.identity != "", np.isin(part.identity, train_people)

    def scores(side: Mask) -> Json | None:
        return summary(prediction[side], part.age[side], part.identity[side], seed) if side.any() else None

    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return {"seen": scores(known & seen), "unseen": scores(known & ~seen)}


def _show_faces(run: Run, dataset: Dataset, rows: Rows, prediction: Years) -> None:
    """Some drawn faces in the order of their ages, with age and prediction; photos of people are never copied."""
    ages = dataset.records.age[rows]
    shown = np.argsort(ages, kind="stable")[:: max(1, len(rows) // 48)]
    captions = [f"{age:.0f} → {guess:.0f}" for age, guess in zip(ages[shown], prediction[shown], strict=True)]
    contact_sheet(run.folder / "faces.png", dataset.images[rows[shown]], captions, columns=8)


def _write_results(best: Variables, model_config: ModelConfig, progress: Progress, report: Json, run: Run) -> None:
    """Curves, exported model and, last, the report: a folder with a report is a finished run."""
    if run.config.solver == "adamw":
        curves(run.folder / "curves.png", progress.history, progress.best_epoch)
    export_model(run.folder / "model", jax.device_get(best), model_config, model_card(report))
    write_json(run.folder / REPORT, report)
