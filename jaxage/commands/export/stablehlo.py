"""A compiled form that any JAX runs: StableHLO by `jax.export`, for any batch, on CPU, CUDA and TPU, weights inside."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from jaxtyping import Array, Float, UInt8

from jaxage.models.registry import create_model
from jaxage.training.export import ModelConfig
from jaxage.training.inputs import from_images
from jaxage.types import Variables
from jaxage.utils.extras import require

PLATFORMS = ("cpu", "cuda", "tpu")

Estimate = dict[str, Array]
"""`age` (n,) in years and, if the loss has them, `probabilities` (n, years)."""


def estimate(variables: Variables, config: ModelConfig, images: UInt8[Array, "n size size 3"]) -> Estimate:
    """Ages of images by plain convolutions, which every platform has."""
    variables = jax.tree.map(jnp.asarray, variables)
    objective = config.objective()
    model = create_model(config.arch, outputs=objective.outputs, dtype=config.dtype, conv_form="xla")
    input_fn = from_images(model, (config.mean, config.std))
    ages, probabilities = [], []
    for mirrored in range(1 + config.flip):
        batch = input_fn.evaluate(variables, images, jnp.full(images.shape[:1], bool(mirrored)))
        logits = model.apply(variables, batch, start=input_fn.start).logits
        ages.append(objective.predict(logits))
        probabilities.append(objective.probabilities(logits))
    result = {"age": sum(ages[1:], ages[0]) / len(ages)}
    if config.has_distribution():
        result["probabilities"] = sum(probabilities[1:], probabilities[0]) / len(probabilities)
    return result


def stablehlo_model(variables: Variables, config: ModelConfig) -> bytes:
    """The serialized function: uint8 (batch, size, size, 3) -> a dict with `age` and perhaps `probabilities`.

    Raises UserError if the extra `stablehlo` is not installed.
    """
    require("flatbuffers", "stablehlo", "export to StableHLO")
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, config.image_size, config.image_size, 3), jnp.uint8)
    function = jax.jit(lambda images: estimate(variables, config, images))
    return bytes(export.export(function, platforms=PLATFORMS)(images).serialize())


def run_stablehlo(data: bytes, images: UInt8[np.ndarray, "n size size 3"]) -> Float[np.ndarray, " n"]:
    """Ages by a serialized function."""
    return np.asarray(export.deserialize(bytearray(data)).call(jnp.asarray(images))["age"])
