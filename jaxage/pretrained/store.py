"""Variables as safetensors files: written whole or not at all, read without executing anything."""

import hashlib
import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxage.trees import flatten, unflatten
from jaxage.types import UserError, Variables

FORMAT = "jaxage"


def write_variables(path: Path, variables: Variables, metadata: dict[str, str]) -> None:
    """Write leaves under their dotted names (`params.layer1.0.conv1.kernel`) and `metadata`, then rename into place."""
    leaves = {name: np.ascontiguousarray(leaf) for name, leaf in flatten(variables).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(save(leaves, metadata | {"format": FORMAT}))
    partial.replace(path)


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Raises UserError naming a file that cannot be read."""
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch or export it again") from error


def read_variables(path: Path) -> tuple[Variables, dict[str, str]]:
    """What `write_variables` wrote. Raises UserError for a file of another format."""
    leaves, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: not written by jaxage (format {metadata.get('format')!r})")
    return unflatten(leaves), metadata


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
