"""A whole run: settings, data and weights in; a folder with the tested model and its report out."""

import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxage.config import TrainConfig, cache_folder, to_json
from jaxage.data.dataset import Dataset, describe_data
from jaxage.data.load import load_data
from jaxage.data.records import Records
from jaxage.metrics import age_bands, summary
from jaxage.models.registry import create_model
from jaxage.pretrained.load import RANDOM
from jaxage.report.contact_sheet import contact_sheet
from jaxage.report.plots import curves, scatter
from jaxage.report.tables import model_card, results_table, write_failures, write_predictions
from jaxage.training.build import assemble
from jaxage.training.export import ModelConfig, export_model
from jaxage.training.freeze import Group
from jaxage.training.loop import Job, Progress, fit, predict_at
from jaxage.training.ridge import solve
from jaxage.training.run_folder import (
    CONFIG,
    REPORT,
    create_run,
    environment,
    find_run,
    lock_run_dir,
    non_default_flags,
)
from jaxage.training.setup import check_settings, first_variables, make_model_config
from jaxage.types import Log, Variables
from jaxage.utils.files import write_json


def train(config: TrainConfig, log: Log = print) -> dict[str, Any]:
    """Run `config` to the end in its folder, and give back what `report.json` holds.

    Raises UserError (DataError, WeightsError, ConversionError and RunError are such) for settings, data and weights
    that cannot be used, WeightsUnavailableError, Diverged, and Stopped after a signal.
    """
    started = time.perf_counter()
    config, folder = find_run(config)
    if (folder / REPORT).exists():
        log(f"{folder} is finished: nothing to resume")
        report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return report
    log(f"run folder: {folder}, settings: {non_default_flags(config) or 'the defaults'}")
    groups = check_settings(config)
    with lock_run_dir(folder):
        return _run(config, folder, groups, started, log)


def _run(config: TrainConfig, folder: Path, groups: tuple[Group, ...], started: float, log: Log) -> dict[str, Any]:
    dataset = load_data(config, cache_folder(), log)
    contract = make_model_config(config, dataset)
    variables, weights = first_variables(config, contract, log)
    started_from = config.weights if weights["sha256"] else RANDOM
    config = replace(config, weights=started_from, loss=contract.loss, dtype=contract.dtype)
    create_run(config, folder, {"command": "train", "data": dataset.sha256, "weights": weights})
    write_failures(folder / "failures.csv", dataset.failures)
    job, state, facts = assemble(config, folder, dataset, contract, variables, groups, started, log)
    if config.cache_features == "auto":  # decided by measured times: resumed, the run must not decide otherwise
        write_json(folder / CONFIG, to_json(replace(config, cache_features=job.inputs.place)))
    if config.solver == "ridge":
        best, progress = solve(job, state.average, contract, create_model(config.arch).spec.head)
    else:
        best, progress = fit(job, state)
    fitted = time.perf_counter()
    report = {
        "arch": config.arch,
        "trainable": config.trainable,
        "settings": non_default_flags(replace(config, data=None, weights=TrainConfig.weights)),
        "weights": weights,
        "demonstration": config.data is None,
        "data": describe_data(dataset),
        **_test(job, dataset, best),
        "solver": config.solver,
        "best_epoch": progress.best_epoch,
        **facts["network"],
        "timing": {
            "total_s": progress.run_s + time.perf_counter() - fitted,
            "train_images_per_s": progress.images / progress.train_s,
            **facts["timing"],
        },
        "environment": environment(),
    }
    _write_results(job, best, contract, progress, report)
    log(results_table(report))
    log(f"\nreport, predictions, plots and model: {folder}")
    return report


def _test(job: Job, dataset: Dataset, best: Variables) -> dict[str, Any]:
    """Both scored splits with intervals; the test split is read here and nowhere else."""
    scored: dict[str, Any] = {}
    for split in ("validation", "test"):
        rows = job.records.rows_of(split)
        part = job.records.take(rows)
        prediction = predict_at(job, best, rows)
        scored[split] = summary(prediction, part.age, part.identity, job.config.seed)
    scored["test"] |= _by_acquaintance(job, part, prediction)
    write_predictions(job.folder / "predictions.csv", part, prediction)
    if job.config.data is None:
        _show_faces(job.folder, dataset, rows, prediction)
    scored["test"]["age_bands"] = age_bands(prediction, part.age)
    title = f"{job.config.arch}, {job.config.trainable}: test"
    scatter(job.folder / "scatter.png", prediction, part.age, scored["test"], title)
    return scored


def _by_acquaintance(job: Job, part: Records, prediction: np.ndarray) -> dict[str, Any]:
    """Scores of the test images that show someone who is in train, and of those that do not; None where there is none.

    Images without an identity are in neither. A side of one image or person has undefined scores and no warning.
    """
    train = job.records.identity[job.records.rows_of("train")]
    known, seen = part.identity != "", np.isin(part.identity, train)
    sides = {"seen": known & seen, "unseen": known & ~seen}
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        return {
            name: summary(prediction[side], part.age[side], part.identity[side], job.config.seed) if any(side) else None
            for name, side in sides.items()
        }


def _show_faces(folder: Path, dataset: Dataset, rows: np.ndarray, prediction: np.ndarray) -> None:
    """Some drawn faces in the order of their ages, with age and prediction; of people nothing is ever copied."""
    ages = dataset.records.age[rows]
    shown = np.argsort(ages, kind="stable")[:: max(1, len(rows) // 48)]
    captions = [f"{age:.0f} → {guess:.0f}" for age, guess in zip(ages[shown], prediction[shown], strict=True)]
    contact_sheet(folder / "faces.png", dataset.images[rows[shown]], captions, columns=8)


def _write_results(
    job: Job, best: Variables, contract: ModelConfig, progress: Progress, report: dict[str, Any]
) -> None:
    """Curves, exported model and, last, the report: a folder with a report is a finished run."""
    if job.config.solver == "adamw":
        curves(job.folder / "curves.png", progress.history, progress.best_epoch)
    export_model(job.folder / "model", jax.device_get(best), contract, model_card(report))
    write_json(job.folder / REPORT, report)
