"""What `--balance` trades: the error of rare ages against the error of common ones, from a predicted distribution."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxage.losses import age_density
from jaxage.report.groups import end_masks
from jaxage.report.style import BLUE, GRAY, GREEN, ORANGE, STYLE, save_picture
from jaxage.types import Predictions, Years

_POWERS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
_COLORS = (GREEN, GRAY, ORANGE, BLUE)

Trade = dict[str, float | None]
"""A value of `balance`, and the MAE in years of "all" images and of those of `jaxage.report.groups.end_masks`; None for
a range of ages without images."""


def balance_trade(
    predicted: Predictions, age: Years, train_age: Float[np.ndarray, " trained"], balance: float
) -> list[Trade]:
    """Errors as they would be with other values of `TrainConfig.balance`, without training anew.

    The probability of each year is multiplied by density ** (balance - b) of the training ages for each value b (see
    `jaxage.losses.balance_ages`), and the age is the new mean.

    Args:
        predicted: Predictions of n images.
        age: Their true ages.
        train_age: The ages of the training split.
        balance: The value that the model was trained with.

    Returns:
        A point for each value; none for a model that predicts no distribution over the ages 0 to 100.
    """
    density, years = age_density(train_age), np.arange(predicted.probabilities.shape[1])
    if len(years) != len(density):
        return []
    masks = {"all": np.ones(len(age), bool)} | end_masks(age)
    points: list[Trade] = []
    for value in _POWERS:
        weights = predicted.probabilities * density ** (balance - value)
        error = np.abs(weights @ years / weights.sum(1) - age)
        maes = {name: float(error[mask].mean()) if mask.any() else None for name, mask in masks.items()}
        points.append({"balance": value, **maes})
    return points


def mean_trade(trades: Sequence[Sequence[Trade]]) -> list[Trade]:
    """The mean over runs; nothing if a run has none."""
    if not all(trades):
        return []
    return [{name: _mean([each[name] for each in same]) for name in same[0]} for same in zip(*trades, strict=True)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def draw_trade(axes: Axes, points: Sequence[Trade]) -> None:
    """Draw the errors over the value of balance."""
    values = [point["balance"] or 0 for point in points]
    for name, color in zip(("under 18", "18-70", "over 70", "all"), _COLORS, strict=True):
        errors = [np.nan if (error := point[name]) is None else error for point in points]
        axes.plot(values, errors, "o-", color=color, label=name)
    axes.set(xlabel="--balance", ylabel="MAE (years)", ylim=(0, None))


def balance_plot(path: Path, points: Sequence[Trade], balance: float) -> None:
    """Plot the errors over the value of balance, 1200 x 750 pixels.

    Args:
        path: The PNG file to write.
        points: Of `balance_trade`.
        balance: The value that the model was trained with; it is marked.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        draw_trade(axes, points)
        axes.axvline(balance, color=GRAY, linewidth=1.4, linestyle=":", label="this model")
        axes.set_title("What rare ages gain, and common ones lose")
        figure.legend(loc="outside lower center", ncols=5)
        save_picture(path, figure)
