import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxage.data.records import Failure, make_records
from jaxage.metrics import age_bands, summary
from jaxage.report.tables import model_card, results_table, scores_table, write_failures, write_predictions

AGE = np.float32([1, 20, 30, 40, 50, 70])
GUESS = np.float32([3, 22.5, 29, 44, 41, 60])


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    scores = summary(GUESS, AGE, np.asarray([""] * 6), 0)
    return {
        "arch": "resnet18",
        "trainable": "fc,layer4",
        "weights": {"tag": "resnet18.test", "sha256": "0"},
        "data": {"name": "faces", "leakage": {"test_images_known": 4, "test_images_seen": 1}},
        "validation": scores,
        "test": scores | {"age_bands": age_bands(GUESS, AGE), "seen": None, "unseen": scores},
        "solver": "adamw",
        "best_epoch": 3,
        "timing": {"total_s": 12.4, "compile_s": 3.6, "train_images_per_s": 99.6},
    }


def test_the_table_has_columns_that_line_up(report: dict[str, Any]) -> None:
    head, *rows = results_table(report).strip("\n").splitlines()[:3]
    assert head.split() == ["n", "PLCC", "SROCC", "MAE", "RMSE", "CS@5"]
    assert [len(row) for row in rows] == [len(head)] * 2
    assert f"{report['test']['mae']:.2f} [" in rows[1]
    assert "best epoch 3; 12 s in all, 4 s of them compiling; 100 training images/s" in results_table(report)


def test_people_seen_in_training_are_told_from_others(report: dict[str, Any]) -> None:
    card = model_card(report)
    assert "Of 4 of them it is known who they show, for 1 someone seen in training; of the others: MAE " in card
    test = report["test"]
    both = results_table(report | {"test": test | {"seen": test["unseen"] | {"mae": 1.25}}})
    seen, unseen = both.strip("\n").splitlines()[3:5]
    assert seen.startswith("test, seen  ")
    assert "1.25 [" in seen
    assert unseen.startswith("test, unseen")
    unknown = report | {"data": {"name": "faces", "leakage": {"test_images_known": 0}}}
    assert "Who the people are is not known" in model_card(unknown)


def test_undefined_scores_are_dashes(report: dict[str, Any]) -> None:
    scores = report["test"] | {"plcc": None, "plcc_ci95": None}
    assert scores_table({"test": scores}).splitlines()[1].split()[2] == "-"


def test_the_card_says_what_it_is_for_whom_it_fails_and_what_it_is_not_for(report: dict[str, Any]) -> None:
    card = model_card(report)
    for words in ("resnet18", "fc,layer4", "resnet18.test", "Not for age verification", "non-commercial"):
        assert words in card
    for band in report["test"]["age_bands"]:
        assert f"| {band['first']}-{band['last']} | {band['n']} |" in card


def test_predictions_keep_awkward_names(tmp_path: Path) -> None:
    names = ["plain.jpg", 'with,comma and "quotes".jpg', "ünïcode/面.jpg", "four", "five", "six"]
    write_predictions(tmp_path / "p.csv", make_records(names, AGE.tolist()), GUESS)
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
