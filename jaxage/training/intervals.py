"""How sure a prediction is: split-conformal intervals from the validation split.

A conformal interval (Vovk et al. 2005; Lei et al. 2018) holds the true age with the probability asked for, whatever the
network: it takes its width from the errors on images that were not trained on. The guarantee is for images drawn like
those, on average over a band of predicted ages, and for no other data.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxage.metrics import AGE_BANDS
from jaxage.types import Json, Predictions, UserError, Years

COVERAGES = tuple(percent / 100 for percent in range(50, 100))
_MOST_BANDS, _FEWEST_ROWS = 10, 200
_LOWEST_SPREAD = 0.5

Spread = Float[np.ndarray, " n"]


class Intervals(NamedTuple):
    """What turns a prediction into an interval that holds the true age with a given probability.

    edges: predicted ages in years that divide the bands, rising; one fewer than there are bands.
    coverages: probabilities, rising, of the columns of `radii`.
    radii: for each band and coverage the interval's half width: in years, or in multiples of the predicted
        distribution's standard deviation if `scaled`; None if the band had too few images: any age is possible.
    scaled: whether the model predicts a distribution, whose spread scales the intervals.
    """

    edges: tuple[float, ...]
    coverages: tuple[float, ...]
    radii: tuple[tuple[float | None, ...], ...]
    scaled: bool


class Bounds(NamedTuple):
    """The ends of n intervals in years; `low` is at least 0, and `high` is infinite where any age is possible."""

    low: Years
    high: Years


def fit_intervals(predicted: Predictions, age: Years, bands: int | None = None, scaled: bool = True) -> Intervals:
    """Intervals from predictions of images that were not trained on.

    In each band of predicted ages (Mondrian conformal prediction), the radius for a coverage c is the k-th smallest of
    the n errors, k = ceil((n + 1) c).

    Args:
        predicted: Ages and, if the model has them, distributions.
        age: True ages in years, at least one.
        bands: How many bands of predicted ages of about equal size; by default one for each 200 images, up to 10.
        scaled: Divide each error by the standard deviation of its predicted distribution, where there is one.
    """
    scaled = scaled and predicted.probabilities.shape[1] > 0
    if bands is None:
        bands = min(max(len(age) // _FEWEST_ROWS, 1), _MOST_BANDS)
    edges = np.unique(np.quantile(predicted.age, np.arange(1, bands) / bands)) if bands > 1 else np.zeros(0)
    errors = np.abs(predicted.age - age) / (spread_of(predicted) if scaled else 1)
    band = np.searchsorted(edges, predicted.age, side="right")
    radii = tuple(_radii(np.sort(errors[band == each])) for each in range(len(edges) + 1))
    return Intervals(tuple(edges.tolist()), COVERAGES, radii, scaled)


def bounds_of(intervals: Intervals, predicted: Predictions, coverage: float) -> Bounds:
    """The interval of each prediction.

    Args:
        intervals: Of the model.
        predicted: Its predictions.
        coverage: The probability, a whole percent.

    Raises:
        UserError: for another coverage.
    """
    column = column_of(coverage, intervals.coverages)
    radii = np.array([math.inf if row[column] is None else row[column] for row in intervals.radii], np.float32)
    radius = radii[np.searchsorted(np.asarray(intervals.edges), predicted.age, side="right")]
    if intervals.scaled:
        radius = radius * spread_of(predicted)
    return Bounds(np.maximum(predicted.age - radius, 0).astype(np.float32), (predicted.age + radius).astype(np.float32))


def column_of(coverage: float, coverages: Sequence[float] = COVERAGES) -> int:
    """The place of a coverage among those that a model knows. Raises UserError for another coverage."""
    for column, known in enumerate(coverages):
        if math.isclose(known, coverage):
            return column
    first, last = coverages[0], coverages[-1]
    raise UserError(f"coverage must be one of {first:g}, {first + 0.01:g}, ... {last:g}, got {coverage:g}")


def spread_of(predicted: Predictions) -> Spread:
    """The standard deviation of each predicted distribution in years, at least half a year."""
    probabilities = np.asarray(predicted.probabilities, np.float64)
    years = np.arange(probabilities.shape[1])
    mean = probabilities @ years
    variance = probabilities @ years**2 - mean**2
    return np.maximum(np.sqrt(np.maximum(variance, 0)), _LOWEST_SPREAD).astype(np.float32)


def coverage_report(bounds: Bounds, age: Years, coverage: float) -> Json:
    """How often intervals held the true age, and how wide they were: overall and by true age.

    Args:
        bounds: The intervals.
        age: True ages in years.
        coverage: The probability that was asked for.

    Returns:
        `coverage`, `covered`, `width` (the mean in years; None where it is infinite) and, in `by_age`, the same with
        `first`, `last` and `n` for each of `jaxage.metrics.AGE_BANDS` that has an image.
    """
    held = (bounds.low <= age) & (age <= bounds.high)
    width = bounds.high - bounds.low
    by_age = []
    for first, last in AGE_BANDS:
        rows = (age >= first) & (age < last + 1)
        if rows.any():
            by_age.append({"first": first, "last": last, "n": int(rows.sum()), **_covered(held, width, rows)})
    return {"coverage": coverage, **_covered(held, width, np.ones(len(age), bool)), "by_age": by_age}


def _covered(held: Bool[np.ndarray, " n"], width: Years, rows: Bool[np.ndarray, " n"]) -> Json:
    mean = float(width[rows].mean())
    return {"covered": float(held[rows].mean()), "width": mean if math.isfinite(mean) else None}


def _radii(errors: Float[np.ndarray, " rows"]) -> tuple[float | None, ...]:
    ranks = [math.ceil(round((len(errors) + 1) * coverage, 9)) for coverage in COVERAGES]
    return tuple(_rounded_up(float(errors[rank - 1])) if rank <= len(errors) else None for rank in ranks)


def _rounded_up(error: float) -> float:
    """Four digits after the point; a radius that is rounded down would miss the row that it is taken from."""
    return math.ceil(error * 1e4) / 1e4
