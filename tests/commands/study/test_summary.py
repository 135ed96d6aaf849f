import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from jaxage.commands.study.intervals import summarize_intervals
from jaxage.commands.study.recipes import REPORT_MODELS, ModelSpec, Protocol
from jaxage.commands.study.summary import Result, by_model, read_result, summarize
from jaxage.data.records import Records, make_records
from jaxage.report.tables import write_predictions
from jaxage.training.run_folder import RunError
from tests.studies import dataset, made_up, table

SPECS = REPORT_MODELS[:5]


def summary(results: list[Result], **records: Records) -> dict[str, Any]:
    chosen: Any = records or {protocol: table() for protocol in ("report", "best")}
    data = {protocol: dataset(each) for protocol, each in chosen.items()}
    return summarize(results, data, [], [spec.name for spec in REPORT_MODELS])


def test_scores_are_means_over_seeds_as_scipy_has_them() -> None:
    results = [made_up("best", REPORT_MODELS[2], seed, noise=9.0) for seed in range(3)]
    (model,) = summary(results, best=table())["models"]
    age = table().age[table().rows_of("test")].astype(np.float64)
    values = [
        (pearsonr(run.prediction, age)[0], spearmanr(run.prediction, age)[0], np.abs(run.prediction - age).mean())
        for run in results
    ]
    for column, metric in enumerate(("plcc", "srocc", "mae")):
        score, every = model["scores"][metric], [value[column] for value in values]
        assert score["mean"] == pytest.approx(np.mean(every), rel=1e-4)
        assert score["spread"] == pytest.approx(np.std(every, ddof=1), rel=1e-2)
        assert score["ci95"][0] < score["mean"] < score["ci95"][1]
        assert score["seeds"] == pytest.approx(every, rel=1e-4)


def test_one_seed_has_no_spread() -> None:
    (model,) = summary([made_up("best", REPORT_MODELS[2], 0)], best=table())["models"]
    assert model["scores"]["mae"]["spread"] is None


def test_what_a_layer_adds_is_tested_on_the_same_people() -> None:
    """A better one is shown to be better; the same predictions are shown to differ by nothing."""
    results = [made_up("best", REPORT_MODELS[2], 0, noise=12), made_up("best", REPORT_MODELS[3], 0, noise=6)]
    results += [made_up("best", REPORT_MODELS[4], 0, noise=6)]
    steps = summary(results, best=table())["steps"]
    assert [(step["from"], step["to"]) for step in steps] == [
        ("resnet18:fc", "resnet18:fc,layer4"),
        ("resnet18:fc,layer4", "resnet18:fc,layer4,layer3"),
    ]
    assert steps[0]["metrics"]["plcc"]["ci95"][0] > 0
    assert steps[0]["metrics"]["mae"]["ci95"][1] < 0
    assert steps[1]["metrics"]["mae"] == {"difference": 0.0, "ci95": [0.0, 0.0]}


def test_a_model_without_runs_makes_no_neighbours_of_those_beside_it() -> None:
    results = [
        made_up("best", REPORT_MODELS[2], 0),
        made_up("best", REPORT_MODELS[4], 0),
        made_up("best", REPORT_MODELS[5], 0),
    ]
    steps = summary(results, best=table())["steps"]
    assert [(step["from"], step["to"]) for step in steps] == [(REPORT_MODELS[4].name, REPORT_MODELS[5].name)]


def test_several_seeds_widen_the_interval_by_how_they_differ() -> None:
    """Or the interval would be of these trained networks alone."""
    alike = [made_up("best", REPORT_MODELS[2], seed, noise=8) for seed in range(3)]
    apart = [made_up("best", REPORT_MODELS[3], seed, noise=noise) for seed, noise in enumerate((4.0, 8.0, 12.0))]
    narrow, wide = (model["scores"]["mae"]["ci95"] for model in summary(alike + apart, best=table())["models"])
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])


def test_networks_and_protocols_are_no_neighbours() -> None:
    results = [made_up(protocol, spec, 0) for protocol in ("report", "best") for spec in SPECS]
    steps = summary(results)["steps"]
    assert len(steps) == 2 * 3
    assert all(step["from"].split(":")[0] == step["to"].split(":")[0] for step in steps)


def test_protocols_are_paired_only_on_one_test() -> None:
    results = [made_up("report", REPORT_MODELS[2], 0, noise=12), made_up("best", REPORT_MODELS[2], 0, noise=6)]
    (gain,) = summary(results)["gains"]
    assert gain["metrics"]["srocc"]["ci95"][0] > 0
    other = table()
    split = other.split.copy()
    split[other.rows_of("test")[0]], split[other.rows_of("train")[0]] = "train", "test"
    moved = Records(other.path, other.age, other.identity, split, other.gender)
    apart = summary(results, report=table(), best=moved)
    assert (apart["gains"], apart["same_test"]) == ([], False)


def test_errors_by_age_gender_and_prediction() -> None:
    run = made_up("best", REPORT_MODELS[2], 0)
    (model,) = summary([run], best=table())["models"]
    test = table().take(table().rows_of("test"))
    error = run.prediction - test.age
    young, _, old = model["ends"]
    for part, rows in ((young, test.age < 18), (old, test.age >= 71)):
        assert part["n"] == rows.sum() > 0
        assert part["mae"] == pytest.approx(np.abs(error[rows]).mean(), rel=1e-5)
        assert part["bias"] == pytest.approx(error[rows].mean(), rel=1e-4, abs=1e-4)
    assert [part["name"] for part in model["groups"]["gender"]] == ["female", "male"]
    assert sum(part["n"] for part in model["groups"]["age"]) == len(test)
    predicted = [part["predicted"] for part in model["calibration"]]
    assert predicted == sorted(predicted)
    assert len(predicted) == 10


def test_undefined_scores_are_none_and_the_rest_goes_on() -> None:
    constant = made_up("best", REPORT_MODELS[2], 0, constant=True)
    result = summary([constant, made_up("best", REPORT_MODELS[3], 0)], best=table())
    assert result["models"][0]["scores"]["plcc"] == {"mean": None, "spread": None, "ci95": None, "seeds": [None]}
    assert result["steps"][0]["metrics"]["plcc"] == {"difference": None, "ci95": None}
    assert result["steps"][0]["metrics"]["mae"]["difference"] is not None
    json.dumps(result, allow_nan=False)


def test_groups_are_in_the_order_of_the_models() -> None:
    shuffled: list[tuple[Protocol, ModelSpec, int]] = [
        ("best", REPORT_MODELS[4], 1),
        ("report", REPORT_MODELS[4], 0),
        ("best", REPORT_MODELS[2], 0),
        ("best", REPORT_MODELS[4], 0),
    ]
    groups = by_model([made_up(*each) for each in shuffled], [REPORT_MODELS[4].name, REPORT_MODELS[2].name])
    assert [(pair, [run.seed for run in runs]) for pair, runs in groups.items()] == [
        (("report", REPORT_MODELS[4].name), [0]),
        (("best", REPORT_MODELS[4].name), [0, 1]),
        (("best", REPORT_MODELS[2].name), [0]),
    ]


def test_a_run_of_other_data_is_refused(tmp_path: Path) -> None:
    records = table()
    test = records.take(records.rows_of("test"))
    write_predictions(tmp_path / "predictions.csv", test, test.age + 1, test.age, test.age + 2)
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n')
    report = {"data": {"sha256": "sha"}}
    run = read_result("best", REPORT_MODELS[2], 0, tmp_path, report, dataset(records))
    np.testing.assert_allclose(run.prediction, test.age + 1, rtol=1e-6)
    assert run.history == [{"epoch": 1}]
    other = make_records(["a", "b", "c"], [1.0, 2.0, 3.0], split=["train", "validation", "test"])
    with pytest.raises(RunError, match="has been changed"):
        read_result("best", REPORT_MODELS[2], 0, tmp_path, report, dataset(other))
    with pytest.raises(RunError, match="was trained on other data"):
        read_result("best", REPORT_MODELS[2], 0, tmp_path, {"data": {"sha256": "other"}}, dataset(records))


def test_intervals_are_means_over_seeds_and_absent_if_a_run_has_none() -> None:
    runs = [made_up("best", REPORT_MODELS[2], seed, noise) for seed, noise in ((0, 4.0), (1, 8.0))]
    mean = summarize_intervals([run.report["test"] for run in runs])
    assert mean is not None
    assert mean["width"] == pytest.approx(12, abs=1e-3)
    assert mean["constant_width"] == pytest.approx(15)
    covered = [run.report["test"]["intervals"]["covered"] for run in runs]
    assert mean["covered"] == pytest.approx(np.mean(covered))
    assert mean["by_age"][0]["name"] == "0-9"
    assert summarize_intervals([runs[0].report["test"], {}]) is None
