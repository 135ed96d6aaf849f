"""Losses: how a head is trained, and how its output becomes an age.

Each loss is one entry of `LOSSES`. To train with a loss of your own, add an entry; its name then works everywhere.
"""

import difflib
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxage.types import Ages, Logits, LossName, Probabilities, RowWeights, UserError, Years

Scalar = Float[Array, ""]

_BINS = 101
_SIGMA = 2.0


class Loss(NamedTuple):
    """One way to train a head. `mean` and `std` are those of the training ages, in years.

    Attributes:
        title: A few words that explain the name.
        outputs: How many numbers the head computes for one face.
        row_losses: (logits (n, outputs), true age in years (n,), mean, std) -> the loss of each row (n,).
        to_age: (logits (n, outputs), mean, std) -> age in years (n,). It may be negative.
        formula: `to_age` in words, for `model.json`.
        to_probabilities: logits -> the probability of each whole year from 0 (n, years), for a loss that learns a
            distribution, whose mean is the age; None for the others.
    """

    title: str
    outputs: int
    row_losses: Callable[[Logits, Ages, float, float], Ages]
    to_age: Callable[[Logits, float, float], Ages]
    formula: str
    to_probabilities: Callable[[Logits], Probabilities] | None = None


class Objective(NamedTuple):
    """A loss with its training statistics: what the training and the prediction steps call.

    Attributes:
        name: The key in `LOSSES`.
        outputs: How many logits a row needs.
        loss: (logits (n, outputs), age in years (n,), weight (n,)) -> sum(weight * row loss) / sum(weight), a scalar.
            Rows of weight 0 are ignored, whatever they hold. If all weights are 0, the loss is NaN.
        predict: logits (n, outputs) -> age in years (n,), at least 0. Negative ages are set to 0. True ages are not
            negative, so absolute errors can only fall. PLCC changes slightly, and ages of exactly 0 are ties for SROCC.
        unclipped: As `predict`, but the age may be negative. Use it for gradients: they are 0 where `predict` clips.
        probabilities: logits (n, outputs) -> the probability of each whole year from 0 (n, years); (n, 0) for a loss
            without a distribution.

    All of these functions raise ValueError for arrays of another shape.
    """

    name: LossName
    outputs: int
    loss: Callable[[Logits, Ages, RowWeights], Scalar]
    predict: Callable[[Logits], Ages]
    unclipped: Callable[[Logits], Ages]
    probabilities: Callable[[Logits], Probabilities]


def make_objective(name: LossName, mean: float, std: float) -> Objective:
    """Build the objective of one loss.

    Args:
        name: A key of `LOSSES`.
        mean: Mean of the training ages in years.
        std: Standard deviation of the training ages in years.

    Returns:
        The objective. It computes in float32, whatever the dtype of the logits.

    Raises:
        UserError: If the name is unknown.
        ValueError: If `mean` is not finite, or `std` is not finite and above 0.
    """
    if name not in LOSSES:
        raise UserError(_unknown(name))
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"training ages of mean {mean} and std {std}: both must be finite and std above 0")
    entry = LOSSES[name]

    def unclipped(logits: Logits) -> Ages:
        _check_logits(logits, entry.outputs)
        return entry.to_age(logits.astype(jnp.float32), mean, std)

    def predict(logits: Logits) -> Ages:
        return jnp.maximum(unclipped(logits), 0)

    def probabilities(logits: Logits) -> Probabilities:
        _check_logits(logits, entry.outputs)
        if entry.to_probabilities is None:
            return jnp.zeros((logits.shape[0], 0), jnp.float32)
        return entry.to_probabilities(logits.astype(jnp.float32))

    def loss(logits: Logits, age: Ages, weight: RowWeights) -> Scalar:
        _check_logits(logits, entry.outputs)
        if not logits.shape[:1] == age.shape == weight.shape:
            raise ValueError(
                f"logits {logits.shape}, age {age.shape}, weight {weight.shape}: "
                f"expected ({logits.shape[0]}, {entry.outputs}), ({logits.shape[0]},), ({logits.shape[0]},)"
            )
        counts = weight > 0
        logits = jnp.where(counts[:, None], logits.astype(jnp.float32), 0)
        age = jnp.where(counts, age, mean)
        return (weight * entry.row_losses(logits, age, mean, std)).sum() / weight.sum()

    return Objective(name, entry.outputs, loss, predict, unclipped, probabilities)


def age_density(ages: Years) -> Float[np.ndarray, " bins"]:
    """The share of each whole year from 0 to 100 among training ages, smoothed by a Gaussian (sigma 2 years).

    Years that the smoothing hardly reaches have the share of the rarest training age.
    """
    years = np.arange(_BINS)
    counts = np.bincount(_whole_years(ages), minlength=_BINS)
    smooth = np.exp(-((years[:, None] - years) ** 2) / (2 * _SIGMA**2)) @ counts
    smooth = np.maximum(smooth, smooth[counts > 0].min())
    return smooth / smooth.sum()


def balance_ages(objective: Objective, ages: Years, power: float) -> Objective:
    """Let rare ages count more.

    A loss that learns a distribution gets logits + power * log(density(age)), so that the logits themselves, and the
    ages that they predict, are those of training ages of density ** (1 - power) (logit adjustment, Menon et al., ICLR
    2021). Any other loss is multiplied by density(age) ** -power for each row (label distribution smoothing, Yang et
    al., ICML 2021).

    Args:
        objective: The objective to change. Only its loss changes.
        ages: The training ages in years.
        power: 0 changes nothing; 1 lets all ages count alike.

    Returns:
        The new objective.
    """
    density = age_density(ages)
    if LOSSES[objective.name].to_probabilities is not None and objective.outputs == _BINS:
        shift = jnp.asarray(power * np.log(density), jnp.float32)[None]
        return objective._replace(loss=lambda logits, age, weight: objective.loss(logits + shift, age, weight))
    counts = np.bincount(_whole_years(ages), minlength=_BINS)
    scale = density**-power
    table = jnp.asarray(scale * counts.sum() / (counts * scale).sum(), jnp.float32)

    def loss(logits: Logits, age: Ages, weight: RowWeights) -> Scalar:
        year = jnp.clip(jnp.round(jnp.where(weight > 0, age, 0)), 0, _BINS - 1).astype(jnp.int32)
        scaled = weight * table[year]
        return objective.loss(logits, age, scaled) * scaled.sum() / weight.sum()

    return objective._replace(loss=loss)


def calibrate_ages(objective: Objective, scale: float, offset: float) -> Objective:
    """Predict `scale * age + offset` in place of each age.

    Of a distribution the probability of each year moves to the two whole years around its new place, in shares that
    keep the mean; what would leave the years that there are stays at the first or the last one.

    Args:
        objective: The objective to change. Its loss stays.
        scale: Above 0.
        offset: In years.
    """

    def probabilities(logits: Logits) -> Probabilities:
        known = objective.probabilities(logits)
        return jnp.matmul(known, moved_years(known.shape[1], scale, offset), precision="highest")

    def unclipped(logits: Logits) -> Ages:
        if LOSSES[objective.name].to_probabilities is None:
            return scale * objective.unclipped(logits) + offset
        moved = probabilities(logits)
        return (moved * jnp.arange(moved.shape[1], dtype=jnp.float32)[None]).sum(1)

    return objective._replace(
        probabilities=probabilities, unclipped=unclipped, predict=lambda logits: jnp.maximum(unclipped(logits), 0)
    )


def moved_years(years: int, scale: float, offset: float) -> Float[Array, "years years"]:
    """Row `i` says which whole years the probability of year `i` goes to."""
    old = jnp.arange(years, dtype=jnp.float32)
    places = jnp.clip(scale * old + offset, 0, max(years - 1, 0))
    return jnp.maximum(1 - jnp.abs(places[:, None] - old[None]), 0)


def _regression(title: str, error: Callable[[Array, Array], Array]) -> Loss:
    """A head of one output z that is compared with the standardized age; the age is z * std + mean."""
    return Loss(
        title,
        outputs=1,
        row_losses=lambda logits, age, mean, std: error(logits[:, 0], (age - mean) / std),
        to_age=lambda logits, mean, std: logits[:, 0] * std + mean,
        formula="max(0, z * age_std + age_mean)",
    )


def _expectation(logits: Logits) -> Ages:
    return (jax.nn.softmax(logits) * _years()).sum(axis=1)


def _label_distribution(logits: Logits, age: Ages) -> Ages:
    """DLDL-v2 (Gao et al., IJCAI 2018): KL(label || softmax) + |expectation - age|.

    The softmax is over 101 bins, one for each year from 0 to 100. The label is a Gaussian around the true age (sigma
    2 years), normalized over the bins.
    """
    label = jax.nn.log_softmax(-((_years() - age[:, None]) ** 2) / (2 * _SIGMA**2))
    divergence: Ages = optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(logits), label)
    return divergence + jnp.abs(_expectation(logits) - age)


LOSSES: dict[LossName, Loss] = {
    "l1": _regression("absolute error", lambda output, target: jnp.abs(output - target)),
    "mse": _regression("squared error", lambda output, target: (output - target) ** 2),
    "huber": _regression("squared error up to one standard deviation, absolute error beyond", optax.huber_loss),
    "dldl": Loss(
        "a distribution over the ages 0 to 100",
        outputs=_BINS,
        row_losses=lambda logits, age, mean, std: _label_distribution(logits, age),
        to_age=lambda logits, mean, std: _expectation(logits),
        formula="softmax-weighted mean of 0, 1, ...",
        to_probabilities=jax.nn.softmax,
    ),
}
"""All losses by name. With d = z - (age - mean) / std, the row loss is |d| for `l1`, d^2 for `mse`, and d^2 / 2 where
|d| <= 1 and |d| - 1/2 elsewhere for `huber`."""


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name.lower(), LOSSES, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    choices = ", ".join(f"{key} ({entry.title})" for key, entry in LOSSES.items())
    return f"unknown loss {name!r}{hint}: choose one of {choices}"


def _whole_years(ages: Years) -> Int[np.ndarray, " n"]:
    return np.clip(np.round(ages), 0, _BINS - 1).astype(np.int64)


def _years() -> Float[Array, "1 bins"]:
    return jnp.arange(_BINS, dtype=jnp.float32)[None, :]


def _check_logits(logits: Logits, outputs: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != outputs:
        raise ValueError(f"logits {logits.shape}: expected (n, {outputs})")
