import json

import numpy as np
import pytest
from scipy import stats

from jaxage.data.records import make_records
from jaxage.metrics import AGE_BANDS
from jaxage.report.groups import age_masks, errors_of, group_errors, groups_table, worst_groups, worst_line

AGES = np.array([0.0, 9.9, 10, 17, 18, 100.5, 101, -1], np.float32)


def test_a_band_holds_its_last_year_whole() -> None:
    masks = age_masks(AGES)
    assert list(masks) == [f"{first}-{last}" for first, last in AGE_BANDS]
    assert [int(mask.sum()) for mask in masks.values()] == [2, 2, 1, 0, 0, 0, 1]
    assert age_masks(AGES, [(0, 200)])["0-200"].sum() == 7


def test_errors_are_means_over_runs_and_unknown_groups_are_left_out() -> None:
    age = [20.0, 30.0, 40.0, 50.0]
    records = make_records(list("abcd"), age, gender=["female", "", "male", "female"], labels={"site": list("xyxy")})
    predictions = np.float32([[21, 33, 38, 50], [23, 33, 36, 48]])
    errors = group_errors(predictions, records)
    assert list(errors) == ["age", "gender", "site"]
    female, male = errors["gender"]
    assert (female["name"], female["n"], female["mae"], female["bias"]) == ("female", 2, 1.5, 0.5)
    assert (male["name"], male["n"], male["mae"], male["bias"], male["mae_ci95"]) == ("male", 1, 3.0, -3.0, None)
    assert errors["age"][0] == dict.fromkeys(["mae", "mae_ci95", "bias", "bias_ci95"]) | {"name": "0-9", "n": 0}
    json.dumps(errors, allow_nan=False)


def test_intervals_are_those_of_the_mean() -> None:
    """By the central limit theorem, for images of as many people."""
    generator = np.random.default_rng(0)
    age = np.full(2000, 40, np.float32)
    prediction = (age + generator.normal(1, 5, 2000)).astype(np.float32)
    records = make_records([str(row) for row in range(2000)], age.tolist())
    half = np.arange(2000) < 1000
    (error,) = errors_of(prediction[None], records, {"half": half})
    difference = (prediction - age)[half].astype(np.float64)
    for name, column in (("bias", difference), ("mae", np.abs(difference))):
        expected = stats.norm.interval(0.95, column.mean(), column.std() / np.sqrt(1000))
        np.testing.assert_allclose(error[f"{name}_ci95"], expected, atol=0.04)  # type: ignore[literal-required]


def test_people_are_drawn_whole() -> None:
    """Ten images of each person are worth one."""
    generator = np.random.default_rng(0)
    people = generator.normal(0, 5, 50)
    age = np.full(500, 40, np.float32)
    prediction = (age + np.repeat(people, 10)).astype(np.float32)
    records = make_records([str(row) for row in range(500)], age.tolist(), [str(row // 10) for row in range(500)])
    (error,) = errors_of(prediction[None], records, {"all": np.ones(500, bool)})
    low, high = error["bias_ci95"] or (0, 0)
    assert high - low == pytest.approx(2 * 1.96 * people.std() / np.sqrt(50), rel=0.1)


def test_the_worst_group_has_enough_images() -> None:
    age = np.repeat([20, 80, 5], [40, 40, 5]).astype(np.float32)
    prediction = age + np.repeat([1, -9, 50], [40, 40, 5]).astype(np.float32)
    records = make_records([str(row) for row in range(85)], age.tolist(), gender=["male"] * 85)
    worst = worst_groups(group_errors(prediction[None], records))
    assert [(group["by"], group["name"]) for group in worst] == [("age", "75-100")]
    assert groups_table(group_errors(prediction[None], records)).splitlines()[2].split()[:3] == ["age", "18-29", "40"]
    assert worst_line(worst) == "age 75-100: MAE 9.0 [9.0, 9.0], bias -9.0 [-9.0, -9.0]"
