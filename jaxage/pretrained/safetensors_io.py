"""Variables as safetensors files: written whole or not at all, read without executing anything."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxage.types import UserError, Variables
from jaxage.utils.trees import flatten, unflatten

FORMAT = "jaxage"


def write_variables(path: Path, variables: Variables, metadata: dict[str, str]) -> None:
    """Write leaves under their dotted names (`params.layer1.0.conv1.kernel`) and `metadata`, then rename into place."""
    leaves = {name: np.ascontiguousarray(leaf) for name, leaf in flatten(variables).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(save(leaves, metadata | {"format": FORMAT}))
    partial.replace(path)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file. Raises UserError naming a file that cannot be read."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises as `read_safetensors` does."""
    with _opened(path) as file:
        return file.metadata() or {}


def read_variables(path: Path) -> Variables:
    """What `write_variables` wrote. Raises UserError for a file of another format."""
    found = read_metadata(path).get("format")
    if found != FORMAT:
        raise UserError(f"{path}: not written by jaxage (format {found!r})")
    return unflatten(read_safetensors(path))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); fetch or export it again") from error


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
