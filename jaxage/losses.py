"""What the head is trained for: an objective turns logits and ages into a loss, and logits into ages."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxage.types import Ages, Logits, LossName, RowWeights

Scalar = Float[Array, ""]

LOSSES = ("l1", "mse", "huber", "dldl")

_BINS = 101
_SIGMA = 2.0


class Objective(NamedTuple):
    """How ages are learnt and read.

    outputs: how many logits a row needs.
    loss: (logits, age in years, weight) -> sum(weight * loss of the row) / sum(weight), a scalar. Rows of weight 0
        are not looked at; all weights 0 give NaN. Raises ValueError unless the shapes are (n, outputs), (n,), (n,).
    predict: logits (n, outputs) -> age in years (n,), not clipped. Raises ValueError for another shape.
    """

    name: LossName
    outputs: int
    loss: Callable[[Logits, Ages, RowWeights], Scalar]
    predict: Callable[[Logits], Ages]


def make_objective(name: LossName, mean: float, std: float) -> Objective:
    """The objective of that name; `mean` and `std` are the training ages', in years.

    With one output z and the age standardized, d = z - (age - mean) / std, a row's loss is |d| for `l1`, d^2 for
    `mse`, and d^2 / 2 where |d| <= 1, |d| - 1/2 beyond, for `huber`; the age is z * std + mean.

    `dldl` is DLDL-v2 (Gao et al., IJCAI 2018): softmax over 101 bins, one for each year from 0 to 100; a row's loss
    is KL(label || softmax) + |expectation - age|, where the label is a Gaussian round the age (sigma 2 years,
    normalized over the bins); the age is the expectation. It does not use `mean` and `std`.

    Raises ValueError for an unknown name, a mean that is not finite, and a std that is not finite and above 0.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; choose one of {', '.join(LOSSES)}")
    if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
        raise ValueError(f"training ages of mean {mean} and std {std}: both must be finite and std above 0")
    outputs = _BINS if name == "dldl" else 1

    def predict(logits: Logits) -> Ages:
        _check_logits(logits, outputs)
        logits = logits.astype(jnp.float32)
        if name == "dldl":
            return (jax.nn.softmax(logits) * _years()).sum(axis=1)
        return logits[:, 0] * std + mean

    def loss(logits: Logits, age: Ages, weight: RowWeights) -> Scalar:
        _check_logits(logits, outputs)
        if not logits.shape[:1] == age.shape == weight.shape:
            raise ValueError(
                f"logits {logits.shape}, age {age.shape}, weight {weight.shape}: "
                f"expected ({logits.shape[0]}, {outputs}), ({logits.shape[0]},), ({logits.shape[0]},)"
            )
        counts = weight > 0
        logits = jnp.where(counts[:, None], logits.astype(jnp.float32), 0)
        age = jnp.where(counts, age, mean)
        if name == "dldl":
            losses = _label_divergence(logits, age) + jnp.abs(predict(logits) - age)
        else:
            losses = _REGRESSION[name](logits[:, 0], (age - mean) / std)
        return (weight * losses).sum() / weight.sum()

    return Objective(name, outputs, loss, predict)


def reweight_by_age(objective: Objective, ages: Float[np.ndarray, " n"], power: float) -> Objective:
    """The same objective with rare ages counting more: each row's loss times density(age) ** -power.

    The density is that of the training `ages`, in whole years, smoothed by a Gaussian (sigma 2 years): label
    distribution smoothing (Yang et al., ICML 2021). The factors have mean 1 over the training ages.
    """
    years = np.arange(_BINS)
    counts = np.bincount(_year(ages), minlength=_BINS)
    smooth = np.exp(-((years[:, None] - years) ** 2) / (2 * _SIGMA**2)) @ counts
    scale = np.maximum(smooth, smooth[counts > 0].min()) ** -power
    table = jnp.asarray(scale * counts.sum() / (counts * scale).sum(), jnp.float32)

    def loss(logits: Logits, age: Ages, weight: RowWeights) -> Scalar:
        year = jnp.clip(jnp.round(jnp.where(weight > 0, age, 0)), 0, _BINS - 1).astype(jnp.int32)
        scaled = weight * table[year]
        return objective.loss(logits, age, scaled) * scaled.sum() / weight.sum()

    return objective._replace(loss=loss)


def _year(ages: Float[np.ndarray, " n"]) -> np.ndarray:
    return np.clip(np.round(ages), 0, _BINS - 1).astype(np.int64)


_REGRESSION: dict[str, Callable[[Array, Array], Array]] = {
    "l1": lambda output, target: jnp.abs(output - target),
    "mse": lambda output, target: (output - target) ** 2,
    "huber": optax.huber_loss,
}


def _years() -> Float[Array, "1 bins"]:
    return jnp.arange(_BINS, dtype=jnp.float32)[None, :]


def _label_divergence(logits: Logits, age: Ages) -> Ages:
    label = jax.nn.log_softmax(-((_years() - age[:, None]) ** 2) / (2 * _SIGMA**2))
    divergence: Ages = optax.losses.kl_divergence_with_log_targets(jax.nn.log_softmax(logits), label)
    return divergence


def _check_logits(logits: Logits, outputs: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != outputs:
        raise ValueError(f"logits {logits.shape}: expected (n, {outputs})")
