"""From a tag or a file to variables: found or fetched, verified, converted, with the head of the model at hand."""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxage.models.registry import Model
from jaxage.pretrained.convert import Conversion, to_flax
from jaxage.pretrained.download import fetch, read_manifest, weights_folder
from jaxage.pretrained.safetensors_io import (
    FORMAT,
    read_metadata,
    read_safetensors,
    read_variables,
    sha256_of,
    write_variables,
)
from jaxage.pretrained.torch_file import read_torch_file
from jaxage.types import Arch, InputContract, UserError, Variables
from jaxage.utils.trees import flatten, is_within, unflatten

RANDOM = "random"


@dataclass(frozen=True)
class PretrainedWeights:
    """variables: numpy leaves, with the source's own head or none. tag: the manifest's, or a name for a file.

    sha256: of the torch file that they were converted from, or of the file itself.
    """

    variables: Variables
    tag: str
    sha256: str


class WeightsError(UserError):
    """Weights that do not exist, or do not fit the network."""


def find_weights(weights: str | Path, arch: Arch) -> PretrainedWeights:
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
    state = read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
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


def _from_file(path: Path, arch: Arch) -> PretrainedWeights:
    metadata = read_metadata(path) if path.suffix == ".safetensors" else {}
    if metadata.get("format") != FORMAT:
        sha256 = sha256_of(path)
        return PretrainedWeights(convert_file(path, arch).variables, _name(path, arch, sha256), sha256)
    if metadata["arch"] != arch:
        raise WeightsError(f"{path} holds a {metadata['arch']}, not a {arch}: give the matching --arch")
    sha256 = metadata.get("source_sha256") or sha256_of(path)
    return PretrainedWeights(read_variables(path), _name(path, arch, sha256), sha256)


def _name(path: Path, arch: Arch, sha256: str) -> str:
    """`resnet18_mine.pth` is `resnet18.mine`, but only published files may bear a tag of the manifest."""
    name = f"{arch}.{path.stem.removeprefix(arch + '_')}" if path.stem.startswith(f"{arch}_") else path.stem
    entry = read_manifest().get(name)
    return name if entry is None or sha256 in entry.hashes() else path.name


def _from_tag(tag: str, arch: Arch) -> PretrainedWeights:
    """Converted before, if from a file that the manifest lists; else fetched, verified and converted."""
    entry = read_manifest()[tag]
    converted = weights_folder() / f"{tag}.safetensors"
    if converted.exists():
        published = read_metadata(converted).get("source_sha256", "")
        if published in entry.hashes():
            return PretrainedWeights(read_variables(converted), tag, published)
    source = fetch(entry, weights_folder())
    found = PretrainedWeights(convert_file(source, arch).variables, tag, sha256_of(source))
    write_variables(converted, found.variables, {"arch": arch, "source_sha256": found.sha256})
    return found


def find_input(weights: str | Path, arch: Arch) -> InputContract:
    """stub"""
    tag = str(weights) if str(weights).startswith(f"{arch}.") else f"{arch}.{weights}"
    if weights != RANDOM and not Path(weights).is_file() and tag not in read_manifest():
        tags = ", ".join(name for name in read_manifest() if name.startswith(f"{arch}."))
        raise WeightsError(
            f"--weights {weights!r} is no file and no weights of {arch}: choose {tags}, random, or a file"
        )
    return InputContract()
