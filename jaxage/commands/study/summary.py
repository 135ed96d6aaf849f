"""The summary of a study: scores over seeds, paired differences, errors by age and gender."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxage.commands.study.intervals import IntervalSummary, summarize_intervals
from jaxage.commands.study.recipes import DESCRIPTIONS, ModelSpec, Protocol
from jaxage.data.dataset import Dataset, describe_data
from jaxage.data.records import Records
from jaxage.metrics import METRICS, bootstrap, clusters, interval
from jaxage.report.balance import Trade, mean_trade
from jaxage.report.groups import GroupError, GroupErrors, WorstGroup, end_masks, errors_of, group_errors, worst_groups
from jaxage.training.history import HISTORY
from jaxage.training.run_folder import RunError, environment
from jaxage.types import Json, Years

_CALIBRATION_BINS = 10

Resampled = Float[np.ndarray, "resamples metrics"]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run: how it was trained, its report, one history line per epoch, and its test predictions."""

    protocol: Protocol
    model: ModelSpec
    seed: int
    report: Json
    history: list[Json]
    prediction: Years


class Score(TypedDict):
    """A metric of one model: mean over seeds, standard deviation over seeds, 95 % interval, value of each seed."""

    mean: float | None
    spread: float | None
    ci95: list[float] | None
    seeds: list[float | None]


class Difference(TypedDict):
    """A metric of one model minus that of another, with its 95 % interval."""

    difference: float | None
    ci95: list[float] | None


class CalibrationPoint(TypedDict):
    """Mean predicted and mean true age of a tenth of the test faces."""

    predicted: float
    true: float


class ModelSummary(TypedDict):
    """One model under one protocol."""

    protocol: Protocol
    name: str
    arch: str
    trainable: str
    published: tuple[float, float] | None
    seeds: list[int]
    scores: dict[str, Score]
    trainable_parameters: int
    weights: str
    settings: str
    seconds: float
    ends: list[GroupError]
    groups: GroupErrors
    worst: list[WorstGroup]
    balance: list[Trade]
    calibration: list[CalibrationPoint]
    intervals: IntervalSummary | None


Comparison = TypedDict(
    "Comparison", {"from": str, "to": str, "protocol": Protocol, "metrics": dict[str, Difference]}
)  # "from" is a keyword
"""The difference between two models, by metric."""


class FailedRun(TypedDict):
    """A run that diverged, and why."""

    run: str
    reason: str


class Summary(TypedDict):
    """What the runs of a study show together. See `summarize`."""

    protocols: dict[Protocol, str]
    data: dict[Protocol, Json]
    models: list[ModelSummary]
    steps: list[Comparison]
    gains: list[Comparison]
    same_test: bool
    failed: list[FailedRun]
    environment: Json


class StudySummary(Summary):
    """What study.json holds: the summary, how many faces each criterion kept, and whether the faces are drawn."""

    funnel: list[Json]
    demonstration: bool


def read_result(protocol: Protocol, model: ModelSpec, seed: int, folder: Path, report: Json, data: Dataset) -> Result:
    """Read the history and the test predictions of a finished run.

    Raises:
        RunError: If the run used other data, or its predictions do not belong to this test split.
    """
    if report["data"]["sha256"] != data.sha256:
        raise RunError(
            f"{folder} was trained on other data, or on another split of it: restore that data, or choose another --out"
        )
    records = data.records
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if [row["path"] for row in rows] != records.path[records.rows_of("test")].tolist():
        raise RunError(f"{folder / 'predictions.csv'} has been changed: remove {folder} and start again")
    lines = (folder / HISTORY).read_text(encoding="utf-8").splitlines()
    prediction = np.maximum(np.array([row["prediction"] for row in rows], np.float32), 0)  # earlier runs did not clip
    return Result(protocol, model, seed, report, [json.loads(line) for line in lines], prediction)


def by_model(results: Sequence[Result], order: Sequence[str]) -> dict[tuple[Protocol, str], list[Result]]:
    """Group runs by protocol and model: "report" first, models in the order of their names in `order`."""

    def key(run: Result) -> tuple[bool, int, int]:
        return run.protocol == "best", order.index(run.model.name), run.seed

    ordered = sorted(results, key=key)
    return {pair: list(runs) for pair, runs in groupby(ordered, lambda run: (run.protocol, run.model.name))}


def summarize(
    results: Sequence[Result], data: Mapping[Protocol, Dataset], failed: Sequence[FailedRun], order: Sequence[str]
) -> Summary:
    """Summarize the runs of a study.

    Scores are means over seeds. Their 95 % intervals come from 1,000 resamples of test people and of seeds. Differences
    are computed within the same resamples.

    Args:
        results: All finished runs.
        data: The data of each protocol.
        failed: The runs that diverged.
        order: The names of the models. Neighbors of one network are compared in this order.

    Returns:
        JSON values. `steps` says what each further layer adds, `gains` what "best" adds to "report". `gains` is empty
        if the two protocols have different test splits.
    """
    tests = {protocol: each.records.take(each.records.rows_of("test")) for protocol, each in data.items()}
    groups = by_model(results, order)
    resampled = {pair: _resampled(runs, tests[pair[0]]) for pair, runs in groups.items()}
    models = [_model(runs, tests[pair[0]], resampled[pair]) for pair, runs in groups.items()]
    scores = {(model["protocol"], model["name"]): model["scores"] for model in models}

    def compare(low: tuple[Protocol, str], high: tuple[Protocol, str]) -> Comparison:
        paired = resampled[high] - resampled[low]
        measured: dict[str, Difference] = {
            metric: {
                "difference": _difference(scores[low][metric]["mean"], scores[high][metric]["mean"]),
                "ci95": interval(paired[:, column]),
            }
            for column, metric in enumerate(METRICS)
        }
        return {"from": low[1], "to": high[1], "protocol": high[0], "metrics": measured}

    same_test = len({tuple(test.path) for test in tests.values()}) == 1
    steps = [
        compare(low, high)
        for low, high in pairwise(groups)
        if low[0] == high[0]
        and low[1].split(":")[0] == high[1].split(":")[0]
        and order.index(high[1]) == order.index(low[1]) + 1
    ]
    gains = [
        compare(("report", name), ("best", name))
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


def _resampled(runs: list[Result], test: Records) -> Resampled:
    """Every metric in each resample of people and seeds, mean over seeds. Runs with one test get the same resamples."""
    predictions = jnp.asarray(np.stack([run.prediction for run in runs]))
    cluster = jnp.asarray(clusters(test.identity))
    functions = tuple(metric.function for metric in METRICS.values())
    values = bootstrap(functions, predictions, jnp.asarray(test.age), cluster, jax.random.key(0))
    drawn = np.random.default_rng(0).integers(0, len(runs), (len(values), len(runs)))
    return np.take_along_axis(np.asarray(values), drawn[:, :, None], 1).mean(1)


def _model(runs: list[Result], test: Records, resampled: Resampled) -> ModelSummary:
    first, several_people = runs[0], bool(clusters(test.identity).any())
    scores = {
        metric: _score([run.report["test"].get(metric) for run in runs], resampled[:, column], several_people)
        for column, metric in enumerate(METRICS)
    }
    predictions = np.stack([run.prediction for run in runs])
    groups = group_errors(predictions, test)
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
        "ends": errors_of(predictions, test, end_masks(test.age)),
        "groups": groups,
        "worst": worst_groups(groups),
        "balance": mean_trade([run.report["test"].get("balance", []) for run in runs]),
        "calibration": _calibration(runs, test.age),
        "intervals": summarize_intervals([run.report["test"] for run in runs]),
    }


def _score(seeds: list[float | None], resampled: Float[np.ndarray, " resamples"], several_people: bool) -> Score:
    known = [value for value in seeds if value is not None]
    if len(known) < len(seeds):
        return {"mean": None, "spread": None, "ci95": None, "seeds": seeds}
    return {
        "mean": float(np.mean(known)),
        "spread": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "ci95": interval(resampled) if several_people else None,
        "seeds": seeds,
    }


def _calibration(runs: list[Result], age: Years) -> list[CalibrationPoint]:
    """The test faces of each run in ten parts by predicted age; means over runs."""
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
