"""Load pretrained weights: find or download, verify, convert, and give them the new head of a model."""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxage.models.registry import Model
from jaxage.pretrained.convert import to_flax
from jaxage.pretrained.download import fetch
from jaxage.pretrained.find_state import ConversionError, find_state
from jaxage.pretrained.manifest import Entry, parse_input, read_manifest, weights_folder
from jaxage.pretrained.read_file import is_safetensors, read_checkpoint
from jaxage.pretrained.safetensors_io import (
    FORMAT,
    read_metadata,
    read_variables,
    sha256_of,
    write_variables,
)
from jaxage.pretrained.timm_hub import is_timm, read_timm
from jaxage.types import Arch, InputContract, UserError, Variables
from jaxage.utils.text import quoted
from jaxage.utils.trees import flatten, is_within, unflatten

RANDOM = "random"


@dataclass(frozen=True)
class PretrainedWeights:
    """Weights as they were published.

    Attributes:
        variables: float32 numpy arrays, with the head that the weights were trained with, or none.
        tag: The manifest's, or a name for a file.
        sha256: Of the file or folder that they were converted from, or of the file itself.
        input: What they expect of an image.
        notes: What the user is to know: where in a checkpoint they were found, and what was left out.
    """

    variables: Variables
    tag: str
    sha256: str
    input: InputContract
    notes: tuple[str, ...] = ()


class WeightsError(UserError):
    """Weights that do not exist, or that do not fit the network."""


def find_weights(weights: str | Path, arch: Arch) -> PretrainedWeights:
    """Load weights by tag or from a file.

    The weights of a tag are downloaded and converted once, and stored in `weights_folder()`.

    Args:
        weights: A tag of the manifest ("imagenet1k_v1" or "resnet18.imagenet1k_v1"), a file or Orbax folder (see
            `read_checkpoint`), or "timm:NAME" for a checkpoint of timm on the Hugging Face Hub.
        arch: The network.

    Raises:
        WeightsError: for a name that is none of these, or for weights of another network.
        ConversionError: for a checkpoint without the network.
        WeightsUnavailableError: if the file of a tag cannot be downloaded.
        UserError: if the Hub does not give the checkpoint, and for a file that cannot be read.
    """
    if path := weights_path(weights, arch):
        return _from_file(path, arch)
    if is_timm(weights):
        return _from_timm(str(weights), arch)
    return _from_tag(_find_entry(weights, arch), arch)


def find_input(weights: str | Path, arch: Arch) -> InputContract:
    """What weights expect of an image. Nothing is downloaded but the config of a checkpoint of timm.

    Args:
        weights: As for `find_weights`, or "random".
        arch: The network.

    Returns:
        The manifest's contract for a tag or a published file; for another safetensors file the one in its metadata, as
        JSON under "input"; that of timm's config for its checkpoints; the default for the rest.

    Raises:
        WeightsError: for a name that is neither a tag nor a file.
        UserError: for metadata that are not an input contract.
    """
    if path := weights_path(weights, arch):
        return _read_input(path)
    if is_timm(weights):
        return read_timm(str(weights), arch).input
    return InputContract() if weights == RANDOM else _find_entry(weights, arch).input


def weights_path(weights: str | Path, arch: Arch) -> Path | None:
    """The file or folder that the weights are, or None. A folder named like a tag, or "random", is not meant."""
    path = Path(weights)
    is_tag = weights == RANDOM or _tag_of(weights, arch) in read_manifest()
    return path if path.is_file() or (path.is_dir() and not is_tag) else None


def save_weights(path: Path, weights: PretrainedWeights, arch: Arch) -> None:
    """Write weights as a safetensors file of jaxage, with what `find_weights` and `find_input` need to read them."""
    metadata = {"arch": arch, "source_sha256": weights.sha256, "input": json.dumps(weights.input._asdict())}
    write_variables(path, weights.variables, metadata)


def convert_file(path: Path, arch: Arch) -> tuple[Variables, tuple[str, ...]]:
    """The network in a checkpoint, and what to know of it (see `find_state`). Raises ConversionError, UserError."""
    checkpoint = read_checkpoint(path)
    try:
        found = find_state(checkpoint.shapes, arch)
        state = checkpoint.load(found.path)
        converted = to_flax({key: state[name] for key, name in found.keys.items()}, arch)
    except ConversionError as error:
        raise ConversionError(f"{quoted(path)}: {error}") from error
    return converted.variables, found.notes


def load_pretrained(model: Model, weights: str | Path, key: Array | None = None) -> Variables:
    """Variables of a model that start from pretrained weights.

    Args:
        model: Of `create_model`.
        weights: As for `find_weights`, or "random" to draw everything from `key`.
        key: For the new head; `jax.random.key(0)` without it.

    Returns:
        The trunk of `weights` and a new head.

    Raises:
        UserError, WeightsUnavailableError: as `find_weights` and `merge` do.
    """
    fresh = model.init(jax.random.key(0) if key is None else key)
    if weights == RANDOM:
        return fresh
    return merge(fresh, find_weights(weights, model.spec.arch).variables, model.spec.head)


def merge(fresh: Variables, pretrained: Variables, head: str) -> Variables:
    """Variables with the trunk of `pretrained` and the head of `fresh`.

    Args:
        fresh: From `Model.init`.
        pretrained: Of the same network, with any head or none.
        head: The name of the head's module.

    Raises:
        WeightsError: with every leaf of the trunk that is missing, unknown or of another shape.
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


def _tag_of(weights: str | Path, arch: Arch) -> str:
    return str(weights) if str(weights).startswith(f"{arch}.") else f"{arch}.{weights}"


def _find_entry(weights: str | Path, arch: Arch) -> Entry:
    manifest, tag = read_manifest(), _tag_of(weights, arch)
    if tag not in manifest:
        tags = [name for name in manifest if name.startswith(f"{arch}.")]
        choices = ", ".join([*tags, RANDOM])
        raise WeightsError(
            f"{quoted(weights)} is neither a file nor weights of {arch}: choose {choices}, timm:NAME, or a file"
        )
    return manifest[tag]


def _from_file(path: Path, arch: Arch) -> PretrainedWeights:
    metadata, notes = _metadata(path), tuple[str, ...]()
    if metadata.get("format") != FORMAT:
        sha256 = sha256_of(path)
        variables, notes = convert_file(path, arch)
    elif metadata.get("arch") != arch:
        raise WeightsError(
            f"{quoted(path)} holds a {metadata.get('arch')}, not a {arch}: choose the network that it holds"
        )
    else:
        sha256, variables = metadata.get("source_sha256") or sha256_of(path), read_variables(path)
    return PretrainedWeights(variables, _name(path, arch, sha256), sha256, _read_input(path), notes)


def _from_timm(weights: str, arch: Arch) -> PretrainedWeights:
    found = read_timm(weights, arch)
    variables, notes = convert_file(found.weights, arch)
    return PretrainedWeights(variables, weights, sha256_of(found.weights), found.input, notes)


def _metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, whatever its name; none for other files."""
    if path.is_dir():
        return {}
    with path.open("rb") as file:
        head = file.read(16)
    return read_metadata(path) if is_safetensors(head) else {}


def _read_input(path: Path) -> InputContract:
    text = _metadata(path).get("input")
    if text is None:
        published = sha256_of(path)
        entries = (entry for entry in read_manifest().values() if published in entry.hashes())
        return next((entry.input for entry in entries), InputContract())
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise UserError(f"{path}: its metadata have an input that is not JSON ({error}); convert it again") from error
    return parse_input(fields, f"{path}: input")


def _name(path: Path, arch: Arch, sha256: str) -> str:
    """`resnet18_mine.pth` becomes `resnet18.mine`; only published files may have a tag of the manifest."""
    name = f"{arch}.{path.stem.removeprefix(arch + '_')}" if path.stem.startswith(f"{arch}_") else path.stem
    entry = read_manifest().get(name)
    return name if entry is None or sha256 in entry.hashes() else path.name


def _from_tag(entry: Entry, arch: Arch) -> PretrainedWeights:
    """Read what was converted before, if it came from a published file; else download and convert."""
    converted = weights_folder() / f"{entry.tag}.safetensors"
    if converted.exists():
        published = read_metadata(converted).get("source_sha256", "")
        if published in entry.hashes():
            return PretrainedWeights(read_variables(converted), entry.tag, published, entry.input)
    path = fetch(entry, weights_folder())
    found = PretrainedWeights(convert_file(path, arch)[0], entry.tag, sha256_of(path), entry.input)
    save_weights(converted, found, arch)
    return found
