import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxage.training.intervals import COVERAGES, bounds_of, coverage_report, fit_intervals, spread_of
from jaxage.types import Predictions, UserError


def ages(count: int, seed: int) -> tuple[Predictions, np.ndarray]:
    """Predictions whose errors grow with the age, and the true ages."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(1, 90, count).astype(np.float32)
    guess = np.maximum(age + rng.normal(0, 1 + age / 10), 0).astype(np.float32)
    return Predictions(guess, np.zeros((count, 0), np.float32)), age


@given(st.integers(1, 300), st.integers(0, 10))
def test_the_radius_is_the_smallest_error_that_covers_enough(count: int, seed: int) -> None:
    """By definition: of n + 1 exchangeable errors, a share of at least c is not above the k-th smallest of n."""
    predicted, age = ages(count, seed)
    intervals = fit_intervals(predicted, age, bands=1)
    errors = np.sort(np.abs(predicted.age - age))
    for coverage, radius in zip(COVERAGES, intervals.radii[0], strict=True):
        enough = [k for k in range(1, count + 1) if k >= (count + 1) * coverage - 1e-9]
        expected = errors[enough[0] - 1] if enough else None
        assert radius == (None if expected is None else pytest.approx(float(expected), abs=1e-3))


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_new_faces_are_covered_as_often_as_asked(coverage: float) -> None:
    fitted, constant = (fit_intervals(*ages(4000, 0), bands=bands) for bands in (None, 1))
    predicted, age = ages(20_000, 1)
    report = coverage_report(bounds_of(fitted, predicted, coverage), age, coverage)
    assert report["covered"] == pytest.approx(coverage, abs=0.02)
    assert sum(band["n"] for band in report["by_age"]) == 20_000
    same = coverage_report(bounds_of(constant, predicted, coverage), age, coverage)
    assert coverage < 0.8 or report["width"] < same["width"]
    worst = min(band["covered"] for band in report["by_age"] if band["n"] > 500)
    assert worst > min(band["covered"] for band in same["by_age"] if band["n"] > 500)


def test_a_distributions_spread_scales_its_interval() -> None:
    years = np.arange(101)
    rng = np.random.default_rng(0)
    mean, spread = rng.uniform(20, 80, 3000), rng.uniform(1, 9, 3000)
    probabilities = np.exp(-((years[None] - mean[:, None]) ** 2) / (2 * spread[:, None] ** 2))
    probabilities /= probabilities.sum(1, keepdims=True)
    predicted = Predictions(mean.astype(np.float32), probabilities.astype(np.float32))
    expected = np.sqrt([np.average((years - p @ years) ** 2, weights=p) for p in probabilities])
    np.testing.assert_allclose(spread_of(predicted), expected, rtol=1e-3)
    age = (mean + rng.normal(0, spread)).clip(0).astype(np.float32)
    intervals = fit_intervals(predicted, age)
    assert intervals.scaled
    low, high = bounds_of(intervals, predicted, 0.9)
    assert np.corrcoef(high - low, spread)[0, 1] > 0.97
    assert (high - low).mean() / expected.mean() == pytest.approx(2 * 1.645, rel=0.05)  # of a normal distribution
    assert not fit_intervals(predicted, age, scaled=False).scaled


def test_few_images_leave_any_age_possible() -> None:
    predicted, age = ages(5, 0)
    intervals = fit_intervals(predicted, age)
    low, high = bounds_of(intervals, predicted, 0.9)
    assert (low == 0).all()
    assert np.isinf(high).all()
    assert coverage_report(bounds_of(intervals, predicted, 0.9), age, 0.9)["width"] is None
    assert math.isfinite(bounds_of(intervals, predicted, 0.8).high[0])


def test_the_same_prediction_for_all_is_one_band() -> None:
    predicted = Predictions(np.full(1000, 30, np.float32), np.zeros((1000, 0), np.float32))
    intervals = fit_intervals(predicted, ages(1000, 0)[1])
    assert bounds_of(intervals, predicted, 0.5).low[0] >= 0


def test_a_coverage_that_is_no_whole_percent_is_refused() -> None:
    predicted, age = ages(300, 0)
    for coverage in (0.4, 0.905, 1.0):
        with pytest.raises(UserError, match=r"coverage must be one of 0\.5, 0\.51, \.\.\. 0\.99"):
            bounds_of(fit_intervals(predicted, age), predicted, coverage)
