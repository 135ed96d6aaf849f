"""How well ages are predicted: correlations, errors, bootstrap intervals.

`METRICS` has one entry for each metric that is reported. To report a metric of your own, add an entry.

A weight per row says how often it counts: 0 for padding, 1 for a real row, a whole number in a bootstrap resample. Sums
are two-pass float32, so values far from zero lose no digits. A NaN in a row that counts makes the result NaN.
"""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from jaxage.types import Json, Years

Column = Float[Array, " n"]
Scalar = Float[Array, ""]
MetricFunction = Callable[..., Scalar]
"""(prediction (n,), target (n,), weight (n,) or None) -> scalar. It must work under `jax.jit` and `jax.vmap`."""

AGE_BANDS = ((0, 9), (10, 17), (18, 29), (30, 44), (45, 59), (60, 74), (75, 100))
"""First and last whole year of each band."""


class Metric(NamedTuple):
    """A metric and how it is shown.

    Attributes:
        function: See `MetricFunction`.
        title: Its name in tables and plots.
        unit: "years", or "" if it has none.
        digits: How many digits are shown after the decimal point.
        higher_is_better: Whether a larger value is better.
        headline: Whether it is among the few that model cards, plots and comparisons of a study show.
    """

    function: MetricFunction
    title: str
    unit: str
    digits: int
    higher_is_better: bool
    headline: bool = False

    @property
    def heading(self) -> str:
        """Title and unit: "MAE, years"."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def format(self, value: float | None, sign: str = "") -> str:
        """The value with its digits, or "-" if it is undefined. `sign="+"` shows the sign of positive values too."""
        return "-" if value is None or not np.isfinite(value) else f"{value:{sign}.{self.digits}f}"

    def sentence(self, value: float | None) -> str:
        """Title, value and unit: "MAE 5.12 years"."""
        return f"{self.title} {self.format(value)} {self.unit}".rstrip()


@jax.jit
def plcc(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Pearson's linear correlation, as `scipy.stats.pearsonr`. NaN if a column is constant or n < 2."""
    prediction, target, weight = _rows(prediction, target, weight)
    x, y = _deviations(prediction, weight), _deviations(target, weight)
    scale = jnp.sqrt(jnp.sum(weight * x**2)) * jnp.sqrt(jnp.sum(weight * y**2))
    return jnp.clip(jnp.sum(weight * x * y) / scale, -1, 1)


@jax.jit
def srocc(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Spearman's rank correlation, as `scipy.stats.spearmanr`: `plcc` of the average ranks. NaN as for `plcc`."""
    weight = _rows(prediction, target, weight)[2]
    correlation: Scalar = plcc(average_ranks(prediction, weight), average_ranks(target, weight), weight)
    return correlation


@jax.jit
def mae(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Mean absolute error in years. NaN if no row counts."""
    prediction, target, weight = _rows(prediction, target, weight)
    return _mean(jnp.abs(prediction - target), weight)


@jax.jit
def rmse(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Root of the mean squared error in years. NaN if no row counts."""
    prediction, target, weight = _rows(prediction, target, weight)
    return jnp.sqrt(_mean((prediction - target) ** 2, weight))


@jax.jit
def bias(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Mean of prediction - target in years: positive if predictions are too old. NaN if no row counts."""
    prediction, target, weight = _rows(prediction, target, weight)
    return _mean(prediction - target, weight)


@partial(jax.jit, static_argnames="within")
def cumulative_score(
    prediction: Column, target: Column, weight: Column | None = None, *, within: float = 5.0
) -> Scalar:
    """The share (0 to 1) of rows with `abs(prediction - target) <= within` years. NaN if no row counts."""
    prediction, target, weight = _rows(prediction, target, weight)
    error = jnp.abs(prediction - target)
    return _mean(jnp.where(jnp.isnan(error), error, (error <= within).astype(error.dtype)), weight)


METRICS: dict[str, Metric] = {
    "plcc": Metric(plcc, "PLCC", "", 3, higher_is_better=True, headline=True),
    "srocc": Metric(srocc, "SROCC", "", 3, higher_is_better=True, headline=True),
    "mae": Metric(mae, "MAE", "years", 2, higher_is_better=False, headline=True),
    "rmse": Metric(rmse, "RMSE", "years", 2, higher_is_better=False),
    "cs5": Metric(cumulative_score, "CS@5", "", 3, higher_is_better=True),
}
"""All reported metrics, by their key in JSON files."""


def headlines() -> dict[str, Metric]:
    """The entries of `METRICS` with `headline`."""
    return {name: metric for name, metric in METRICS.items() if metric.headline}


def scores_line(scores: Mapping[str, float | None]) -> str:
    """The scores in one line for the screen: "PLCC 0.871  SROCC 0.855  ..."."""
    known = {name: metric for name, metric in METRICS.items() if name in scores}
    return "  ".join(f"{metric.title} {metric.format(scores[name])}" for name, metric in known.items())


@jax.jit
def average_ranks(values: Column, weight: Column) -> Column:
    """Rank of each row from 1; ties get their mean rank. As `scipy.stats.rankdata` of rows repeated `weight` times.

    The rank is the weight of the smaller values + (weight of the equal values + 1) / 2, which is exact up to a total
    weight of 2^23. The sort depends on `values` only: under `vmap` over weights it is done once.
    """
    order = jnp.argsort(values)
    ascending = values[order]
    upto = jnp.concatenate([jnp.zeros(1, weight.dtype), jnp.cumsum(weight[order])])
    below = upto[jnp.searchsorted(ascending, values, side="left")]
    through = upto[jnp.searchsorted(ascending, values, side="right")]
    return jnp.where(jnp.isnan(values), jnp.nan, below + (through - below + 1) / 2)


@partial(jax.jit, static_argnames=("metrics", "resamples"))
def bootstrap(
    metrics: tuple[MetricFunction, ...],
    predictions: Float[Array, "k n"],
    target: Column,
    cluster: Int[Array, " n"],
    key: Array,
    *,
    resamples: int = 1000,
) -> Float[Array, "resamples k metrics"]:
    """Compute metrics in resamples of whole clusters (people) with replacement.

    A resample draws as many clusters as there are. The weight of a row is how often its cluster was drawn. The same key
    gives the same resamples for all predictions, so values of one resample can be compared in pairs.

    Args:
        metrics: Functions of prediction, target and weight.
        predictions: Ages from `k` models for the same `n` rows.
        target: True ages.
        cluster: The cluster of each row, numbered 0, 1, ... without gaps.
        key: A JAX random key.
        resamples: The number of resamples.

    Returns:
        Each metric of each prediction in each resample.
    """

    def measure(key: Array) -> Float[Array, "k metrics"]:
        weight = _resample(key, cluster)
        return jnp.stack([jax.vmap(lambda p, m=m: m(p, target, weight))(predictions) for m in metrics], 1)

    return lax.map(measure, jax.random.split(key, resamples), batch_size=50)


def interval(values: Float[np.ndarray, " resamples"]) -> list[float] | None:
    """The 95 % percentile interval [low, high] of bootstrap values. NaNs are left out; None if there is no number."""
    known = values[np.isfinite(values)]
    return np.percentile(known, [2.5, 97.5]).tolist() if len(known) else None


def summary(prediction: Years, target: Years, identity: Shaped[np.ndarray, " n"] | None = None, seed: int = 0) -> Json:
    """Compute every metric of `METRICS` with its 95 % interval, from 1,000 bootstrap resamples of people.

    Args:
        prediction: Predicted ages.
        target: True ages.
        identity: Who each row shows (str). Rows of one identity are resampled together; "" is a person of its own.
            Without it, each row is a person of its own.
        seed: Seed of the resamples.

    Returns:
        `n`, and for each metric its value `<name>` and its interval `<name>_ci95`, [low, high], as Python floats, ready
        for JSON. An undefined value is None; a `UserWarning` gives the reason.

    Raises:
        ValueError: If the columns are empty, not 1-d, or of unequal length.
    """
    prediction, target = np.asarray(prediction, np.float32), np.asarray(target, np.float32)
    identity = np.full(target.shape, "") if identity is None else np.asarray(identity)
    if prediction.ndim != 1 or not prediction.shape == target.shape == identity.shape or not prediction.size:
        shapes = f"prediction {prediction.shape}, target {target.shape}, identity {identity.shape}"
        raise ValueError(f"{shapes}: three columns of the same length, one row or more, are needed")
    columns, cluster = (jnp.asarray(prediction), jnp.asarray(target)), clusters(identity)
    functions = tuple(metric.function for metric in METRICS.values())
    _warn_if_undefined(prediction, target, cluster)
    result: Json = {"n": len(prediction)}
    arguments = columns[0][None], columns[1], jnp.asarray(cluster)
    values = np.asarray(bootstrap(functions, *arguments, jax.random.key(seed)))[:, 0]
    for column, (name, metric) in enumerate(METRICS.items()):
        result[name] = _finite_or_none(metric.function(*columns))
        known = result[name] is not None and cluster.any()
        result[f"{name}_ci95"] = interval(values[:, column]) if known else None
    return result


def _rows(prediction: Column, target: Column, weight: Column | None) -> tuple[Column, Column, Column]:
    """Float32 columns, in which rows that do not count are 0, and their weights."""
    weight = jnp.ones(target.shape) if weight is None else weight
    if prediction.ndim != 1 or not prediction.shape == target.shape == weight.shape:
        shapes = f"prediction {prediction.shape}, target {target.shape}, weight {weight.shape}"
        raise ValueError(f"{shapes}: three columns of the same length are needed")
    prediction, target = (jnp.where(weight > 0, column, 0).astype(jnp.float32) for column in (prediction, target))
    return prediction, target, weight.astype(jnp.float32)


def _deviations(x: Column, weight: Column) -> Column:
    """Deviations from the mean, scaled so that the largest is 1 and no square overflows. NaN if all values are equal.

    The mean of values far from zero is rounded. Subtracting the mean of the deviations removes that error.
    """
    counts = weight > 0
    constant = jnp.min(x, where=counts, initial=jnp.inf) == jnp.max(x, where=counts, initial=-jnp.inf)
    x = x - _mean(x, weight)
    x = jnp.where(counts, x - _mean(x, weight), 0)
    return jnp.where(constant, jnp.nan, x / jnp.max(jnp.abs(x), initial=0))


def _mean(x: Column, weight: Column) -> Scalar:
    return jnp.sum(weight * x) / jnp.sum(weight)


def _resample(key: Array, cluster: Int[Array, " n"]) -> Column:
    """How often each row counts after as many clusters as there are were drawn with replacement."""
    rows = jnp.arange(cluster.size)
    clusters = cluster.max() + 1
    drawn = jax.random.randint(key, cluster.shape, 0, clusters)
    counts = jnp.zeros(cluster.shape).at[drawn].add((rows < clusters).astype(jnp.float32))
    return counts[cluster]


def clusters(identity: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Number the identities (str) 0, 1, ... without gaps, int32. Each "" gets a number of its own."""
    unknown = identity == ""
    cluster = np.unique(identity, return_inverse=True)[1]
    cluster[unknown] = cluster.max() + 1 + np.arange(unknown.sum())
    return np.unique(cluster, return_inverse=True)[1].astype(np.int32)


def _warn_if_undefined(prediction: Years, target: Years, cluster: Int[np.ndarray, " n"]) -> None:
    for name, column in {"prediction": prediction, "true age": target}.items():
        if bad := int((~np.isfinite(column)).sum()):
            warnings.warn(f"{bad} of {len(column)} {name}s are not finite: the metrics are undefined", stacklevel=3)
        elif (column == column[0]).all():
            warnings.warn(f"every {name} is {column[0]:g}: plcc and srocc are undefined", stacklevel=3)
    if not cluster.any():
        warnings.warn("all rows are of one person: the bootstrap intervals are undefined", stacklevel=3)


def _finite_or_none(value: Scalar) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None
