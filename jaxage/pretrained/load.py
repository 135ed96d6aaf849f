"""From a tag or a file to variables: found or fetched, verified, converted, with the head of the model at hand."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxage.models.registry import Model
from jaxage.pretrained.convert import Conversion, to_flax
from jaxage.pretrained.sources import fetch, read_manifest, weights_folder
from jaxage.pretrained.store import FORMAT, read_safetensors, read_variables, sha256_of, write_variables
from jaxage.pretrained.torch_file import read_torch_file
from jaxage.trees import flatten, is_within, unflatten
from jaxage.types import Arch, UserError, Variables

RANDOM = "random"


@dataclass(frozen=True)
class Weights:
    """variables: numpy leaves, with the source's own head or none. tag, sha256: of the source file."""

    variables: Variables
    tag: str
    sha256: str


class WeightsError(UserError):
    """Weights that do not exist, or do not fit the network."""


def find_weights(weights: str | Path, arch: Arch) -> Weights:
    """The weights of a tag ("imagenet1k_v1" or "resnet18.imagenet1k_v1") or of a .pth, .pt or .safetensors file.

    A tag is converted once and kept in `weights/`. Raises WeightsError for a name that is neither, ConversionError for
    a file of another network, WeightsUnavailableError if a tag's file cannot be had.
    """
    path = Path(weights)
    if path.is_file():
        return _from_file(path, arch)
    manifest = read_manifest()
    tag = str(weights) if str(weights).startswith(f"{arch}.") else f"{arch}.{weights}"
    if tag not in manifest:
        tags = ", ".join(name for name in manifest if name.startswith(f"{arch}."))
        raise WeightsError(
            f"--weights {weights!r} is no file and no weights of {arch}: choose {tags}, random, or a file"
        )
    return _from_tag(tag, arch)


def convert_file(path: Path, arch: Arch) -> Conversion:
    """Read and convert a torch state dict, .safetensors or torch's own format. Raises ConversionError."""
    state = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_torch_file(path)
    return to_flax(state, arch)


def load_pretrained(model: Model, weights: str | Path, key: Array | None = None) -> Variables:
    """The model's variables with the trunk of `weights` and a new head drawn from `key`; "random" draws all.

    Raises as `find_weights` and `merge` do.
    """
    fresh = model.init(jax.random.key(0) if key is None else key)
    return (
        fresh if weights == RANDOM else merge(fresh, find_weights(weights, model.spec.arch).variables, model.spec.head)
    )


def merge(fresh: Variables, pretrained: Variables, head: str) -> Variables:
    """`pretrained` with the head of `fresh`.

    Raises WeightsError listing every other leaf that is missing, left over or of another shape.
    """
    new, old = flatten(fresh), flatten(pretrained)
    trunk = {name for name in new if not is_within(name.split(".", 1)[1], head)}
    given = {name for name in old if not is_within(name.split(".", 1)[1], head)}
    faults = [f"missing: {name}" for name in sorted(trunk - given)]
    faults += [f"unknown: {name}" for name in sorted(given - trunk)]
    for name in sorted(trunk & given):
        if new[name].shape != old[name].shape:
            faults.append(f"shape: {name} is {old[name].shape}, expected {new[name].shape}")
    if faults:
        raise WeightsError(f"the weights do not fit the network, {len(faults)} faults:\n  " + "\n  ".join(faults[:20]))
    return unflatten({name: jnp.asarray(old[name]) if name in trunk else leaf for name, leaf in new.items()})


def _from_file(path: Path, arch: Arch) -> Weights:
    name = path.stem.replace(f"{arch}_", f"{arch}.", 1) if path.stem.startswith(f"{arch}_") else path.stem
    if path.suffix == ".safetensors":
        _, metadata = read_safetensors(path)
        if metadata.get("format") == FORMAT:
            if metadata["arch"] != arch:
                raise WeightsError(f"{path} holds a {metadata['arch']}, not a {arch}: give the matching --arch")
            return Weights(read_variables(path)[0], metadata["tag"], metadata["source_sha256"])
    return Weights(convert_file(path, arch).variables, name, sha256_of(path))


def _from_tag(tag: str, arch: Arch) -> Weights:
    entry = read_manifest()[tag]
    converted = weights_folder() / f"{tag}.safetensors"
    if not converted.exists():
        source = fetch(entry, weights_folder())
        metadata = {"arch": arch, "tag": tag, "source_sha256": sha256_of(source)}
        write_variables(converted, convert_file(source, arch).variables, metadata)
    return _from_file(converted, arch)
