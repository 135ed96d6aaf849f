"""Fit the ages of a trained model to other faces by a scale and an offset, and measure whether that helps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.optimize import least_squares

from jaxage.losses import moved_years
from jaxage.metrics import bootstrap, interval, mae
from jaxage.training.intervals import Bounds, bounds_of, coverage_report, fit_intervals
from jaxage.types import Json, Mask, Predictions, Years

_FOLDS = 5
_SCALES, _OFFSETS = (0.2, 5.0), (-80.0, 80.0)


class Calibration(NamedTuple):
    """An age becomes `scale * age + offset`, in years."""

    scale: float
    offset: float


def fit_calibration(predicted: Predictions, age: Years) -> Calibration:
    """The scale and the offset with the least errors, by `scipy.optimize.least_squares`.

    Errors far above a year count by their size and not by their square ("soft_l1"), as in the mean absolute error.

    Args:
        predicted: Of n images, by the model as it is.
        age: True ages in years.
    """

    def errors(values: Float64[np.ndarray, "2"]) -> Float[np.ndarray, " n"]:
        return apply_calibration(predicted, Calibration(*values)).age - age

    bounds = tuple(zip(_SCALES, _OFFSETS, strict=True))
    found = least_squares(errors, (1.0, 0.0), bounds=bounds, loss="soft_l1", x_scale=(0.1, 1.0), diff_step=1e-3)
    return Calibration(float(found.x[0]), float(found.x[1]))


def apply_calibration(predicted: Predictions, calibration: Calibration) -> Predictions:
    """The predictions as `jaxage.losses.calibrate_ages` changes them."""
    years = predicted.probabilities.shape[1]
    if not years:
        moved = calibration.scale * predicted.age + calibration.offset
        return Predictions(np.maximum(moved, 0).astype(np.float32), predicted.probabilities)
    probabilities = predicted.probabilities @ np.asarray(moved_years(years, *calibration))
    return Predictions(probabilities @ np.arange(years, dtype=np.float32), probabilities)


def cross_fit(predicted: Predictions, age: Years, cluster: Int[np.ndarray, " n"], coverage: float) -> Json:
    """What a calibration is worth on faces that it was not fitted to: people are divided into five parts, and each part
    is calibrated by what the other four give.

    Args:
        predicted: Of the model as it is.
        age: True ages in years.
        cluster: The person that each image shows (see `jaxage.metrics.clusters`).
        coverage: The probability with which intervals are to hold the true age.

    Returns:
        `before` and `after`, the MAE in years; `difference`, after minus before, with its 95 % interval `ci95` from
        1,000 resamples of people; and `covered` and `width` of the new intervals (see `coverage_report`).
    """
    parts = np.random.default_rng(0).permutation(int(cluster.max()) + 1)[cluster] % _FOLDS
    after, low, high = (np.empty(len(age), np.float32) for _ in range(3))
    for part in range(min(_FOLDS, int(cluster.max()) + 1)):
        inside = parts == part
        calibration = fit_calibration(_take(predicted, ~inside), age[~inside])
        fitted = apply_calibration(predicted, calibration)
        intervals = fit_intervals(_take(fitted, ~inside), age[~inside])
        after[inside] = fitted.age[inside]
        low[inside], high[inside] = bounds_of(intervals, _take(fitted, inside), coverage)
    both = jnp.asarray(np.stack([predicted.age, after]))
    values = np.asarray(bootstrap((mae,), both, jnp.asarray(age), jnp.asarray(cluster), jax.random.key(0)))[:, :, 0]
    errors = [float(np.abs(each - age).mean()) for each in (predicted.age, after)]
    held = coverage_report(Bounds(low, high), age, coverage)
    return {
        "before": errors[0],
        "after": errors[1],
        "difference": errors[1] - errors[0],
        "ci95": interval(values[:, 1] - values[:, 0]),
        "covered": held["covered"],
        "width": held["width"],
    }


def _take(predicted: Predictions, rows: Mask) -> Predictions:
    return Predictions(predicted.age[rows], predicted.probabilities[rows])
