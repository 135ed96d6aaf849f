"""How well ages are predicted, over a whole set: correlations, errors, error per age band, bootstrap intervals.

Every metric takes a weight per row that says how often the row counts: 0 for padding, 1 for a real row, a whole number
in a bootstrap resample. Sums are two-pass float32, so values far from zero lose nothing; a NaN in a row that counts
makes the result NaN.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

Column = Float[Array, " n"]
Scalar = Float[Array, ""]
Metric = Callable[..., Scalar]

AGE_BANDS = ((0, 9), (10, 17), (18, 29), (30, 44), (45, 59), (60, 74), (75, 100))
"""First and last whole year of each band."""


@jax.jit
def plcc(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Pearson's linear correlation, as `scipy.stats.pearsonr`; NaN if either side is constant or n < 2."""
    prediction, target, weight = _rows(prediction, target, weight)
    x, y = _deviations(prediction, weight), _deviations(target, weight)
    scale = jnp.sqrt(jnp.sum(weight * x**2)) * jnp.sqrt(jnp.sum(weight * y**2))
    return jnp.clip(jnp.sum(weight * x * y) / scale, -1, 1)


@jax.jit
def srocc(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Spearman's rank correlation, as `scipy.stats.spearmanr`: Pearson's of the average ranks. NaN as for `plcc`."""
    weight = _rows(prediction, target, weight)[2]
    correlation: Scalar = plcc(average_ranks(prediction, weight), average_ranks(target, weight), weight)
    return correlation


@jax.jit
def mae(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Mean absolute error, in the unit of the ages; NaN if no row counts."""
    prediction, target, weight = _rows(prediction, target, weight)
    return _mean(jnp.abs(prediction - target), weight)


@jax.jit
def rmse(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Root of the mean squared error, in the unit of the ages; NaN if no row counts."""
    prediction, target, weight = _rows(prediction, target, weight)
    return jnp.sqrt(_mean((prediction - target) ** 2, weight))


@jax.jit
def bias(prediction: Column, target: Column, weight: Column | None = None) -> Scalar:
    """Mean of prediction - target: positive where people are made older. NaN if no row counts."""
    prediction, target, weight = _rows(prediction, target, weight)
    return _mean(prediction - target, weight)


@partial(jax.jit, static_argnames="within")
def cumulative_score(
    prediction: Column, target: Column, weight: Column | None = None, *, within: float = 5.0
) -> Scalar:
    """The share (0 to 1) of rows with |prediction - target| <= `within` years; NaN if no row counts."""
    prediction, target, weight = _rows(prediction, target, weight)
    error = jnp.abs(prediction - target)
    return _mean(jnp.where(jnp.isnan(error), error, (error <= within).astype(error.dtype)), weight)


METRICS: dict[str, Metric] = {"plcc": plcc, "srocc": srocc, "mae": mae, "rmse": rmse, "cs5": cumulative_score}
"""What a report gives for each split, by its name there."""


@jax.jit
def average_ranks(values: Column, weight: Column) -> Column:
    """Rank of each row from 1, ties sharing their mean: `scipy.stats.rankdata` of the rows repeated `weight` times.

    Weight of the smaller values + (weight of the equal ones + 1) / 2; exact up to a total weight of 2^23. The sort
    depends on `values` only, so under `vmap` over weights it is done once.
    """
    order = jnp.argsort(values)
    ascending = values[order]
    upto = jnp.concatenate([jnp.zeros(1, weight.dtype), jnp.cumsum(weight[order])])
    below = upto[jnp.searchsorted(ascending, values, side="left")]
    through = upto[jnp.searchsorted(ascending, values, side="right")]
    return jnp.where(jnp.isnan(values), jnp.nan, below + (through - below + 1) / 2)


def age_bands(
    prediction: np.ndarray, target: np.ndarray, bands: Sequence[tuple[int, int]] = AGE_BANDS
) -> list[dict[str, int | float | None]]:
    """Error by true age: for each band `first`, `last` (whole years, both inside), `n`, `mae` and `bias` in years.

    A band holds first <= age < last + 1. The errors of an empty band are None; ages outside all bands are left out.
    """
    columns = jnp.asarray(prediction), jnp.asarray(target)
    table: list[dict[str, int | float | None]] = []
    for first, last in bands:
        inside = (target >= first) & (target < last + 1)
        errors = {
            name: _finite_or_none(metric(*columns, jnp.asarray(inside, jnp.float32)))
            for name, metric in {"mae": mae, "bias": bias}.items()
        }
        table.append({"first": first, "last": last, "n": int(inside.sum()), **errors})
    return table


@partial(jax.jit, static_argnames=("metrics", "resamples"))
def bootstrap(
    metrics: tuple[Metric, ...],
    predictions: Float[Array, "k n"],
    target: Column,
    cluster: Int[Array, " n"],
    key: Array,
    *,
    resamples: int = 1000,
) -> Float[Array, "resamples k metrics"]:
    """Each metric of each of `k` predictions of the same rows, in resamples of whole clusters with replacement.

    `cluster` numbers the rows' clusters (people) 0, 1, ... without gaps. A resample draws as many clusters as there
    are, and a row's weight is how often its cluster was drawn. One key gives the same resamples whatever is predicted,
    so that differences between values of one resample are paired.
    """

    def measure(key: Array) -> Float[Array, "k metrics"]:
        weight = _resample(key, cluster)
        return jnp.stack([jax.vmap(lambda p, m=m: m(p, target, weight))(predictions) for m in metrics], 1)

    return lax.map(measure, jax.random.split(key, resamples), batch_size=50)


def interval(values: np.ndarray) -> list[float] | None:
    """The 95 % percentile interval [low, high] of a bootstrap's values (n,); NaNs are left out, None if all are."""
    known = values[np.isfinite(values)]
    return np.percentile(known, [2.5, 97.5]).tolist() if len(known) else None


def summary(
    prediction: np.ndarray, target: np.ndarray, identity: np.ndarray | None = None, seed: int = 0
) -> dict[str, Any]:
    """`n`, and `plcc`, `srocc`, `mae`, `rmse`, `cs5` (share within 5 years) as Python floats, ready for JSON.

    Each has its 95 % interval `<name>_ci95`, [low, high], from 1,000 bootstrap resamples of people: rows of one
    `identity` go together, and "" is a person of its own. What is undefined is None, under a `UserWarning` with the
    reason. Raises ValueError for columns that are empty, not 1-d, or of unequal length.
    """
    prediction, target = np.asarray(prediction, np.float32), np.asarray(target, np.float32)
    identity = np.full(target.shape, "") if identity is None else np.asarray(identity)
    if prediction.ndim != 1 or not prediction.shape == target.shape == identity.shape or not prediction.size:
        shapes = f"prediction {prediction.shape}, target {target.shape}, identity {identity.shape}"
        raise ValueError(f"{shapes}: three columns of the same length, one row or more, are needed")
    columns, cluster = (jnp.asarray(prediction), jnp.asarray(target)), clusters(identity)
    _warn_if_undefined(prediction, target, cluster)
    result: dict[str, Any] = {"n": len(prediction)}
    arguments = columns[0][None], columns[1], jnp.asarray(cluster)
    values = np.asarray(bootstrap(tuple(METRICS.values()), *arguments, jax.random.key(seed)))[:, 0]
    for column, (name, metric) in enumerate(METRICS.items()):
        result[name] = _finite_or_none(metric(*columns))
        known = result[name] is not None and cluster.any()
        result[f"{name}_ci95"] = interval(values[:, column]) if known else None
    return result


def _rows(prediction: Column, target: Column, weight: Column | None) -> tuple[Column, Column, Column]:
    """Float32 columns in which rows that do not count are 0, and their weights."""
    weight = jnp.ones(target.shape) if weight is None else weight
    if prediction.ndim != 1 or not prediction.shape == target.shape == weight.shape:
        shapes = f"prediction {prediction.shape}, target {target.shape}, weight {weight.shape}"
        raise ValueError(f"{shapes}: three columns of the same length are needed")
    prediction, target = (jnp.where(weight > 0, column, 0).astype(jnp.float32) for column in (prediction, target))
    return prediction, target, weight.astype(jnp.float32)


def _deviations(x: Column, weight: Column) -> Column:
    """Deviations from the mean, the largest scaled to 1 so that no square overflows; NaN if all are equal.

    The mean of values far from zero is rounded; subtracting the mean of the deviations takes that error out.
    """
    counts = weight > 0
    constant = jnp.min(x, where=counts, initial=jnp.inf) == jnp.max(x, where=counts, initial=-jnp.inf)
    x = x - _mean(x, weight)
    x = jnp.where(counts, x - _mean(x, weight), 0)
    return jnp.where(constant, jnp.nan, x / jnp.max(jnp.abs(x), initial=0))


def _mean(x: Column, weight: Column) -> Scalar:
    return jnp.sum(weight * x) / jnp.sum(weight)


def _resample(key: Array, cluster: Int[Array, " n"]) -> Column:
    """How often each row counts when as many clusters as there are have been drawn with replacement."""
    rows = jnp.arange(cluster.size)
    clusters = cluster.max() + 1
    drawn = jax.random.randint(key, cluster.shape, 0, clusters)
    counts = jnp.zeros(cluster.shape).at[drawn].add((rows < clusters).astype(jnp.float32))
    return counts[cluster]


def clusters(identity: np.ndarray) -> np.ndarray:
    """Whole numbers 0, 1, ..., int32, by identity (n,), each "" its own."""
    unknown = identity == ""
    cluster = np.unique(identity, return_inverse=True)[1]
    cluster[unknown] = cluster.max() + 1 + np.arange(unknown.sum())
    return np.unique(cluster, return_inverse=True)[1].astype(np.int32)


def _warn_if_undefined(prediction: np.ndarray, target: np.ndarray, cluster: np.ndarray) -> None:
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
