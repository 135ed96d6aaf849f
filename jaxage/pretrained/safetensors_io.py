"""Variables as safetensors files: written whole or not at all, read without executing anything."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxage.types import UserError, Variables
from jaxage.utils.files import write_bytes
from jaxage.utils.trees import flatten, unflatten

FORMAT = "jaxage"

Tensors = dict[str, Shaped[np.ndarray, "..."]]
"""Arrays of any shape by name, such as torch's state dict."""


def write_variables(path: Path, variables: Variables, metadata: dict[str, str]) -> None:
    """Write variables as a safetensors file whose tensors are called `params.layer1.0.conv1.kernel` and so on.

    Args:
        path: The file, which is replaced as a whole. Its folder is made if need be.
        variables: Arrays of any dtype that safetensors knows.
        metadata: More to write, such as "arch", "source_sha256" (of the file they were converted from) and "input"
            (see `jaxage.pretrained.load.find_input`). The key "format" is ours.
    """
    # safetensors 0.8.0 writes the memory of a transposed view as it is (its issue 825)
    leaves = {name: np.ascontiguousarray(leaf) for name, leaf in flatten(variables).items()}
    is_new = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write_bytes(path, save(leaves, metadata | {"format": FORMAT}))
    except OSError:
        if is_new:
            path.parent.rmdir()
        raise


def read_safetensors(path: Path) -> Tensors:
    """The tensors of a safetensors file. Raises UserError for a file that cannot be read."""
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Raises UserError for a file that cannot be read."""
    with _opened(path) as file:
        return file.metadata() or {}


def read_variables(path: Path) -> Variables:
    """What `write_variables` wrote. Raises UserError for a file of another program, or one that cannot be read."""
    found = read_metadata(path).get("format")
    if found != FORMAT:
        raise UserError(f"{path}: not written by jaxage (its format is {found!r})")
    return unflatten(read_safetensors(path))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "numpy") as file:
            yield file
    except (SafetensorError, OSError, TypeError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}); download or export it again") from error


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file in hex; of a folder, that of the names and hashes of all files in it."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        lines = "".join(f"{file.relative_to(path).as_posix()} {sha256_of(file)}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
