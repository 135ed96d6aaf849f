"""What the runs of a study say together: scores over seeds, paired differences, errors by age and gender."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxage.commands.study.recipes import DESCRIPTIONS, ModelSpec, Protocol
from jaxage.data.dataset import Dataset, describe_data
from jaxage.data.records import Records
from jaxage.metrics import AGE_BANDS, METRICS, bootstrap, clusters, interval
from jaxage.training.run_folder import HISTORY, RunError, environment

_ENDS = (("under 18", 0, 17), ("over 70", 71, 200))
_CALIBRATION_BINS = 10


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run: how it was trained, its report, a line per epoch, and its test predictions in years."""

    protocol: Protocol
    model: ModelSpec
    seed: int
    report: dict[str, Any]
    history: list[dict[str, Any]]
    prediction: Float[np.ndarray, " n"]


def read_result(
    protocol: Protocol, model: ModelSpec, seed: int, folder: Path, report: dict[str, Any], data: Dataset
) -> Result:
    """What the run in `folder` left. Raises RunError if it is of other data."""
    if report["data"]["sha256"] != data.sha256:
        raise RunError(f"{folder} is of other data (or another split of it): bring that back, or choose another --out")
    records = data.records
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if [row["path"] for row in rows] != records.path[records.rows_of("test")].tolist():
        raise RunError(f"{folder / 'predictions.csv'} has been changed: remove {folder} and start again")
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    prediction = np.array([row["prediction"] for row in rows], np.float32)
    return Result(protocol, model, seed, report, [json.loads(line) for line in lines], prediction)


def by_model(results: Sequence[Result], order: Sequence[str]) -> dict[tuple[Protocol, str], list[Result]]:
    """The runs of each protocol and model: "report" first, models in the order of their names in `order`."""

    def key(run: Result) -> tuple[bool, int, int]:
        return run.protocol == "best", order.index(run.model.name), run.seed

    ordered = sorted(results, key=key)
    return {pair: list(runs) for pair, runs in groupby(ordered, lambda run: (run.protocol, run.model.name))}


def summarize(
    results: Sequence[Result],
    data: Mapping[Protocol, Dataset],
    failed: Sequence[dict[str, str]],
    order: Sequence[str],
) -> dict[str, Any]:
    """The study as JSON values: `models`, `steps` (what each further layer adds), `gains` (best over report), data.

    Scores are means over seeds, with their spread (sample standard deviation) and a 95 % interval for the mean from
    1,000 resamples of test people and of seeds. Differences are of the same resamples; one whose interval holds 0 is
    not shown. `order` has the models' names in the order in which neighbours are compared.
    """
    tests = {protocol: each.records.take(each.records.rows_of("test")) for protocol, each in data.items()}
    groups = by_model(results, order)
    resampled = {pair: _resampled(runs, tests[pair[0]]) for pair, runs in groups.items()}
    models = [_model(runs, tests[pair[0]], resampled[pair]) for pair, runs in groups.items()]
    scores = {(model["protocol"], model["name"]): model["scores"] for model in models}

    def difference(low: tuple[Protocol, str], high: tuple[Protocol, str]) -> dict[str, Any]:
        paired = resampled[high] - resampled[low]
        measured = {
            metric: {
                "difference": _difference(scores[low][metric]["mean"], scores[high][metric]["mean"]),
                "ci95": interval(paired[:, column]),
            }
            for column, metric in enumerate(METRICS)
        }
        return {"from": low[1], "to": high[1], "protocol": high[0], "metrics": measured}

    same_test = len({tuple(test.path) for test in tests.values()}) == 1
    steps = [
        difference(low, high)
        for low, high in pairwise(groups)
        if low[0] == high[0]
        and low[1].split(":")[0] == high[1].split(":")[0]
        and order.index(high[1]) == order.index(low[1]) + 1
    ]
    gains = [
        difference(("report", name), ("best", name))
        for protocol, name in groups
        if protocol == "best" and ("report", name) in groups and same_test
    ]
    return {
        "protocols": {protocol: DESCRIPTIONS[protocol] for protocol in data},
        "data": {protocol: describe_data(dataset) for protocol, dataset in data.items()},
        "models": models,
        "steps": steps,
        "gains": gains,
        "same_test": same_test,
        "failed": list(failed),
        "environment": environment(),
    }


def _resampled(runs: list[Result], test: Records) -> Float[np.ndarray, "resamples metrics"]:
    """Every metric, mean over seeds, in each resample of people and of seeds; the same for all runs on this test."""
    predictions = jnp.asarray(np.stack([run.prediction for run in runs]))
    cluster = jnp.asarray(clusters(test.identity))
    values = bootstrap(tuple(METRICS.values()), predictions, jnp.asarray(test.age), cluster, jax.random.key(0))
    drawn = np.random.default_rng(0).integers(0, len(runs), (len(values), len(runs)))
    return np.take_along_axis(np.asarray(values), drawn[:, :, None], 1).mean(1)


def _model(runs: list[Result], test: Records, resampled: np.ndarray) -> dict[str, Any]:
    first, several = runs[0], clusters(test.identity).any()
    scores = {}
    for column, metric in enumerate(METRICS):
        values = [run.report["test"][metric] for run in runs]
        known = all(value is not None for value in values)
        scores[metric] = {
            "mean": float(np.mean(values)) if known else None,
            "spread": float(np.std(values, ddof=1)) if known and len(values) > 1 else None,
            "ci95": interval(resampled[:, column]) if known and several else None,
            "seeds": values,
        }
    error = np.mean([run.prediction - test.age for run in runs], axis=0)
    size = np.mean([np.abs(run.prediction - test.age) for run in runs], axis=0)
    sides = {gender: test.gender == gender for gender in ("female", "male")}
    return {
        "protocol": first.protocol,
        "name": first.model.name,
        "arch": first.model.arch,
        "trainable": first.model.trainable,
        "published": first.model.published,
        "seeds": [run.seed for run in runs],
        "scores": scores,
        "trainable_parameters": first.report["trainable_parameters"],
        "weights": first.report["weights"]["tag"],
        "settings": first.report["settings"],
        "seconds": float(np.mean([run.report["timing"]["total_s"] for run in runs])),
        "age_bands": [
            _part(f"{low}-{high}", (test.age >= low) & (test.age < high + 1), size, error) for low, high in AGE_BANDS
        ],
        "ends": [_part(name, (test.age >= low) & (test.age < high + 1), size, error) for name, low, high in _ENDS],
        "gender": [_part(name, side, size, error) for name, side in sides.items() if side.any()],
        "calibration": _calibration(runs, test.age),
    }


def _part(name: str, rows: np.ndarray, size: np.ndarray, error: np.ndarray) -> dict[str, Any]:
    """MAE and bias in years of some test rows; None where there is none."""
    some = bool(rows.any())
    return {
        "name": name,
        "n": int(rows.sum()),
        "mae": float(size[rows].mean()) if some else None,
        "bias": float(error[rows].mean()) if some else None,
    }


def _calibration(runs: list[Result], age: np.ndarray) -> list[dict[str, float]]:
    """Mean predicted and mean true age of each tenth of the test, by predicted age, for each run; means over runs."""
    orders = [np.argsort(run.prediction, kind="stable") for run in runs]
    tenths = np.array_split(np.arange(len(age)), min(_CALIBRATION_BINS, len(age)))
    pairs = list(zip(runs, orders, strict=True))
    return [
        {
            "predicted": float(np.mean([run.prediction[rows[tenth]].mean() for run, rows in pairs])),
            "true": float(np.mean([age[rows[tenth]].mean() for _, rows in pairs])),
        }
        for tenth in tenths
    ]


def _difference(low: float | None, high: float | None) -> float | None:
    return None if low is None or high is None else high - low
