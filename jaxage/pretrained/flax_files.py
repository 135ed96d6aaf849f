"""Read the files that Flax programs save: Orbax checkpoints and msgpack."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import absl.logging
import numpy as np
import orbax.checkpoint as ocp
from flax.serialization import msgpack_restore

from jaxage.pretrained.names import to_torch_layout, torch_key
from jaxage.pretrained.safetensors_io import Tensors
from jaxage.types import UserError
from jaxage.utils.text import quoted
from jaxage.utils.trees import flatten

_MAX_DEPTH = 8


def read_msgpack(path: Path) -> Any:
    """What `flax.serialization.to_bytes` or `msgpack_serialize` wrote. Raises UserError for a broken file."""
    try:
        return msgpack_restore(path.read_bytes())
    except Exception as error:  # msgpack raises a dozen kinds for broken files
        raise UserError(f"{quoted(path)}: a msgpack file that Flax cannot read ({error}); save it again") from error


def read_orbax(folder: Path) -> Any:
    """The arrays of an Orbax checkpoint: of the folder itself, or of the newest step in it, with its items by name.

    Raises UserError for a folder without a checkpoint, and for a broken one.
    """
    steps = sorted((int(path.name), path) for path in folder.iterdir() if path.name.isdigit() and path.is_dir())
    place = steps[-1][1] if steps else folder
    items = {path.name: path for path in sorted(place.iterdir()) if (path / "_METADATA").is_file()}
    try:
        if (place / "_METADATA").is_file():
            return _restore(place)
        if items:
            return {name: _restore(path) for name, path in items.items()}
    except Exception as error:  # Orbax raises a dozen kinds for broken checkpoints
        raise UserError(f"{quoted(folder)}: a broken Orbax checkpoint ({error}); save it again") from error
    raise UserError(
        f"{quoted(folder)} is a folder, and no Orbax checkpoint: name a file of weights, or the checkpoint's folder"
    )


def _restore(folder: Path) -> Any:
    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns of checkpoints of its own earlier versions
    with warnings.catch_warnings(action="ignore"), ocp.PyTreeCheckpointer() as checkpointer:
        tree: Any = checkpointer.metadata(folder.resolve()).item_metadata.tree
        kinds = ocp.args.PyTreeRestore(
            restore_args=_map_leaves(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        )
        return checkpointer.restore(folder.resolve(), args=kinds)


def _map_leaves(function: Any, tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _map_leaves(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_map_leaves(function, value) for value in tree]
    return function(tree)


def torch_states(content: Any) -> dict[tuple[str, ...], Tensors]:
    """Every dict of a nested checkpoint that has `params`, by its path: `params` and `batch_stats` as a state dict."""
    return dict(_walk((), content))


def _walk(path: tuple[str, ...], content: Any) -> Iterator[tuple[tuple[str, ...], Tensors]]:
    if not isinstance(content, dict) or len(path) > _MAX_DEPTH:
        return
    if isinstance(content.get("params"), dict):
        parts = {name: content[name] for name in ("params", "batch_stats") if isinstance(content.get(name), dict)}
        leaves = {name: np.asarray(leaf) for name, leaf in flatten(parts).items() if hasattr(leaf, "shape")}
        yield path, {torch_key(name): to_torch_layout(leaf) for name, leaf in leaves.items()}
    for key, value in content.items():
        yield from _walk((*path, str(key)), value)
