import csv
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from jaxage.data.records import Failure, make_records
from jaxage.metrics import METRICS, Metric, summary
from jaxage.report.groups import group_errors
from jaxage.report.tables import model_card, results_table, scores_table, write_failures, write_predictions

AGE = np.float32([1, 20, 30, 40, 50, 70])
GUESS = np.float32([3, 22.5, 29, 44, 41, 60])
PEOPLE = make_records(list("abcdef"), AGE.tolist(), gender=["female", "male"] * 3)


INTERVALS = {
    "coverage": 0.9,
    "covered": 0.5,
    "width": 12.25,
    "constant_width": 14.5,
    "by_age": [{"first": 0, "last": 9, "n": 1, "covered": 1.0, "width": 8.0}],
}
LEAKAGE = {"test_images_known": 4, "test_images_seen": 1}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    scores = summary(GUESS, AGE, np.asarray([""] * 6), 0)
    return {
        "arch": "resnet18",
        "trainable": "fc,layer4",
        "weights": {"tag": "resnet18.test", "sha256": "0"},
        "data": {"name": "faces", "leakage": LEAKAGE},
        "validation": scores,
        "test": scores
        | {"groups": group_errors(GUESS[None], PEOPLE), "seen": None, "unseen": scores, "intervals": INTERVALS},
        "solver": "adamw",
        "best_epoch": 3,
        "timing": {"total_s": 12.4, "compile_s": 3.6, "train_images_per_s": 99.6},
    }


def test_the_table_has_columns_that_line_up(report: dict[str, Any]) -> None:
    head, *rows = results_table(report).strip("\n").splitlines()[:3]
    assert head.split() == ["n", "PLCC", "SROCC", "MAE", "RMSE", "CS@5"]
    assert [len(row) for row in rows] == [len(head)] * 2
    assert f"{report['test']['mae']:.2f} [" in rows[1]
    assert "best epoch 3; 12 s in total, of which 4 s compiling; 100 training images/s" in results_table(report)


def test_people_seen_in_training_are_told_from_others(report: dict[str, Any]) -> None:
    card = model_card(report)
    assert (
        "The identity is known for 4 of them; 1 show a person who is also in the training split. On people who are not"
        in card
    )
    test = report["test"]
    both = results_table(report | {"test": test | {"seen": test["unseen"] | {"mae": 1.25}}})
    seen, unseen = both.strip("\n").splitlines()[3:5]
    assert seen.startswith("test, seen  ")
    assert "1.25 [" in seen
    assert unseen.startswith("test, unseen")
    unknown = report | {"data": {"name": "faces", "leakage": LEAKAGE | {"test_images_known": 0}}}
    assert "The identities of the people are unknown" in model_card(unknown)


def test_undefined_scores_are_dashes(report: dict[str, Any]) -> None:
    scores = report["test"] | {"plcc": None, "plcc_ci95": None}
    assert scores_table({"test": scores}).splitlines()[1].split()[2] == "-"


def test_a_metric_of_ones_own_is_in_the_summary_the_table_and_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def worst(prediction: Array, target: Array, weight: Array | None = None) -> Array:
        error = jnp.abs(prediction - target)
        return jnp.max(error if weight is None else jnp.where(weight > 0, error, 0))

    own = Metric(worst, "WORST", "years", 1, higher_is_better=False, headline=True)
    monkeypatch.setitem(METRICS, "worst", own)
    scores = summary(GUESS, AGE)
    assert scores["worst"] == 10
    assert scores["worst_ci95"][1] == 10
    head, row = scores_table({"test": scores}).splitlines()
    assert head.endswith("WORST")
    assert row.endswith(f"10.0 [{scores['worst_ci95'][0]:.1f}, 10.0]")
    test = scores | {"groups": {}, "seen": None, "unseen": None, "intervals": INTERVALS}
    facts = {"arch": "a", "trainable": "fc", "weights": {"tag": "t"}}
    card = model_card(facts | {"data": {"name": "f", "leakage": LEAKAGE}, "test": test})
    assert "WORST 10.0 years" in card


def test_the_card_says_what_it_is_for_whom_it_fails_and_what_it_is_not_for(report: dict[str, Any]) -> None:
    card = model_card(report)
    for words in ("resnet18", "fc,layer4", "resnet18.test", "Not for age verification", "non-commercial"):
        assert words in card
    for by, groups in report["test"]["groups"].items():
        for group in groups:
            assert f"| {by} {group['name']} | {group['n']} |" in card


def test_predictions_keep_awkward_names(tmp_path: Path) -> None:
    names = ["plain.jpg", 'with,comma and "quotes".jpg', "ünïcode/面.jpg", "four", "five", "six"]
    write_predictions(tmp_path / "p.csv", make_records(names, AGE.tolist()), GUESS, GUESS - 1, GUESS + 1)
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == names
    np.testing.assert_allclose([float(row["prediction"]) for row in rows], GUESS, atol=1e-6)
    np.testing.assert_array_equal([float(row["age"]) for row in rows], AGE)


def test_failures_may_be_none(tmp_path: Path) -> None:
    write_failures(tmp_path / "f.csv", [])
    assert (tmp_path / "f.csv").read_text() == "path,reason\n"
    write_failures(tmp_path / "f.csv", [Failure("a.jpg", "blank"), Failure("b.jpg", "too small, 3x3")])
    assert (tmp_path / "f.csv").read_text().splitlines()[1:] == ["a.jpg,blank", 'b.jpg,"too small, 3x3"']
