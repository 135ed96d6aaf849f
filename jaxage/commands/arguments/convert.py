"""The arguments of `jaxage convert`."""

from pathlib import Path

from jaxage.commands.convert import convert as convert_weights
from jaxage.types import Arch
from jaxage.utils.runtime import prepare_jax


def convert(arch: Arch, weights: str, out: Path | None = None) -> None:
    """Convert torch weights to Flax, check every stage, and write safetensors.

    Args:
        arch: The network.
        weights: A tag of weights/manifest.json, a file of torch, safetensors or Flax, an Orbax folder, or timm:NAME.
        out: The folder to write into; without it, weights/.
    """
    prepare_jax()
    convert_weights(arch, weights, out)
