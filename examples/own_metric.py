"""A metric and a loss of your own, as entries of `jaxage.METRICS` and `jaxage.LOSSES`: they show in every report."""

import jax
import jax.numpy as jnp

import jaxage
from jaxage.types import Json


def median_error(prediction: jax.Array, target: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """The median absolute error in years, of the rows whose weight is not 0."""
    error = jnp.abs(prediction - target)
    return jnp.nanmedian(error if weight is None else jnp.where(weight > 0, error, jnp.nan))


def log_cosh(logits: jax.Array, age: jax.Array, mean: float, std: float) -> jax.Array:
    """log(cosh(error)) of the standardized age: smooth near 0, and linear for large errors."""
    return jnp.log(jnp.cosh(logits[:, 0] - (age - mean) / std))


def main() -> Json:
    """Train the head on drawn faces with both."""
    jaxage.METRICS["median"] = jaxage.Metric(median_error, "MedAE", "years", digits=2, higher_is_better=False)
    jaxage.LOSSES["log-cosh"] = jaxage.Loss(
        "log(cosh(error))",
        outputs=1,
        row_losses=log_cosh,
        to_age=lambda logits, mean, std: logits[:, 0] * std + mean,
        formula="max(0, z * age_std + age_mean)",
    )
    return jaxage.train(jaxage.TrainConfig(trainable="fc", weights="random", loss="log-cosh"))


if __name__ == "__main__":
    main()
