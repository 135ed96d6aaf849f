import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
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


def test_over_many_validation_splits_a_new_face_is_held_as_often_as_asked() -> None:
    """The guarantee itself: coverage <= P(held) <= coverage + 1 / (n + 1), of 30 faces in one band."""
    held, draws, rng = 0, 1500, np.random.default_rng(0)
    for _ in range(draws):
        age = (40 + rng.laplace(0, 5, 31)).astype(np.float32)
        predicted = Predictions(np.full(31, 40, np.float32), np.zeros((31, 0), np.float32))
        first, others = (Predictions(*(column[part] for column in predicted)) for part in (slice(1), slice(1, 31)))
        low, high = bounds_of(fit_intervals(others, age[1:]), first, 0.9)
        held += bool(low[0] <= age[0] <= high[0])
    assert scipy.stats.binom.cdf(held, draws, 0.9) > 1e-3
    assert scipy.stats.binom.sf(held, draws, 0.9 + 1 / 31) > 1e-3


def test_each_band_of_predicted_ages_holds_on_its_own() -> None:
    """Errors are ten times as large for the old; one radius for all would hold every young face and few old ones."""
    rng = np.random.default_rng(0)
    guess = rng.uniform(10, 90, 8000).astype(np.float32)
    age = (guess + rng.normal(0, np.where(guess > 50, 10, 1))).astype(np.float32)
    predicted = Predictions(guess, np.zeros((8000, 0), np.float32))
    low, high = bounds_of(
        fit_intervals(Predictions(guess[:4000], predicted.probabilities[:4000]), age[:4000]), predicted, 0.9
    )
    held = ((low <= age) & (age <= high))[4000:]
    for side in (guess[4000:] < 40, guess[4000:] > 60):
        assert held[side].mean() == pytest.approx(0.9, abs=0.03)


def test_a_higher_coverage_holds_what_a_lower_one_holds() -> None:
    predicted, age = ages(1000, 0)
    fitted = fit_intervals(predicted, age)
    for lower, higher in pairwise(bounds_of(fitted, predicted, coverage) for coverage in COVERAGES):
        assert (higher.low <= lower.low).all()
        assert (lower.high <= higher.high).all()


def test_a_radius_holds_the_row_that_it_is_taken_from() -> None:
    """Nothing is lost by rounding: on the rows themselves, exactly ceil((n + 1) c) are held or more."""
    predicted, age = ages(999, 3)
    fitted = fit_intervals(predicted, age, bands=1)
    for coverage in (0.5, 0.9, 0.99):
        low, high = bounds_of(fitted, predicted, coverage)
        assert ((low <= age) & (age <= high)).sum() >= round(1000 * coverage)


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
