"""Checkpoints: the only file that knows Orbax. A step that was not committed whole is never read.

What never changes in a run is not saved: a resumed run has it from its first weights. The rest is saved as one flat
array for each dtype, which takes a third of the time of an array for each leaf.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from jaxage.training.run_folder import RunError
from jaxage.training.state import TrainState
from jaxage.types import Variables
from jaxage.utils.files import require_space

_OVERHEAD_BYTES = 2**20
_ARRAYS, _PROGRESS, _LAYOUT = "arrays", "progress", "layout"


class Checkpoint(NamedTuple):
    """state: of training. best: the variables with the best validation so far. progress: JSON values."""

    state: TrainState
    best: Variables
    progress: dict[str, Any]


def open_checkpoints(directory: Path) -> ocp.CheckpointManager:
    """The checkpoints in `directory`, created if need be; the newest two are kept."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    _remove_unfinished(directory)
    handlers = {
        _ARRAYS: ocp.PyTreeCheckpointHandler(use_zarr3=True, use_compression=False),
        _PROGRESS: ocp.JsonCheckpointHandler(),
        _LAYOUT: ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(
        directory.resolve(), options=options, item_names=tuple(handlers), item_handlers=handlers
    )


def save(manager: ocp.CheckpointManager, checkpoint: Checkpoint, moves: Variables) -> None:
    """Write the checkpoint under its step, atomically: Orbax renames a finished folder into place.

    Args:
        manager: Of `open_checkpoints`.
        checkpoint: What is saved.
        moves: A tree of booleans like the variables: which of them change in the run.

    Raises:
        OSError: if the disk or a quota has no room for it; nothing of it stays.
    """
    folder, step = Path(manager.directory), int(checkpoint.state.step)
    leaves = jax.device_get(jax.tree.leaves(_changing(checkpoint.state, checkpoint.best, moves)))
    arrays = {name: np.concatenate([leaf.ravel() for leaf in part]) for name, part in _by_dtype(leaves).items()}
    require_space(
        folder, sum(array.nbytes for array in arrays.values()) + _OVERHEAD_BYTES
    )  # Orbax would fail at length
    items = ocp.args.Composite(
        arrays=ocp.args.PyTreeSave(arrays),
        progress=ocp.args.JsonSave(checkpoint.progress),
        layout=ocp.args.JsonSave({"sha256": _layout(checkpoint.state, moves)}),
    )
    try:
        manager.save(step, args=items, force=True)
        manager.wait_until_finished()
    except BaseException:
        _remove_unfinished(folder)
        raise


def restore_latest(
    manager: ocp.CheckpointManager, like: TrainState, moves: Variables, sharding: Sharding
) -> Checkpoint | None:
    """The newest committed checkpoint, or None.

    Args:
        manager: Of `open_checkpoints`.
        like: The state before the first step: it has the structure, and the values of what does not change. It is part
            of the result.
        moves: As for `save`.
        sharding: How the arrays are laid out on the devices.

    Raises:
        RunError: if it was written by an earlier version of jaxage or by other libraries, or for other frozen layers.
    """
    step = manager.latest_step()
    if step is None:
        return None
    folder = Path(manager.directory) / str(step)
    layout = manager.restore(step, args=ocp.args.Composite(layout=ocp.args.JsonRestore())) if _is_ours(folder) else {}
    if not layout or layout[_LAYOUT]["sha256"] != _layout(like, moves):
        raise RunError(
            f"{folder} was written by another version of jaxage or of its libraries, or for other weights: finish the "
            "run with those it was started with, or start anew with another --out"
        )
    leaves, tree = jax.tree.flatten(_changing(like, like.average, moves))
    parts = _by_dtype(leaves)
    empty = {name: np.empty(sum(leaf.size for leaf in part), name) for name, part in parts.items()}
    restore_args = jax.tree.map(lambda array: ocp.RestoreArgs(restore_type=np.ndarray), empty)
    items = ocp.args.Composite(
        arrays=ocp.args.PyTreeRestore(empty, restore_args=restore_args), progress=ocp.args.JsonRestore()
    )
    restored = manager.restore(step, args=items)
    ends = dict.fromkeys(parts, 0)
    found = []
    for leaf in leaves:
        name = leaf.dtype.name
        start, ends[name] = ends[name], ends[name] + leaf.size
        found.append(jax.device_put(restored[_ARRAYS][name][start : ends[name]].reshape(leaf.shape), sharding))
    changed, best = jax.tree.unflatten(tree, found)

    def whole(part: Any, old: Any) -> Any:
        return jax.tree.map(lambda new, before: before if new is None else new, part, old, is_leaf=lambda x: x is None)

    state = changed._replace(
        params=whole(changed.params, like.params),
        batch_stats=whole(changed.batch_stats, like.batch_stats),
        average=whole(changed.average, like.average),
    )
    kept = jax.tree.map(lambda leaf: leaf.copy(), like.average)  # the state is donated to the next step
    return Checkpoint(state, whole(best, kept), restored[_PROGRESS])


def _changing(state: TrainState, best: Variables, moves: Variables) -> tuple[TrainState, Variables]:
    """The same without the leaves that do not change."""

    def moving(tree: Any, mask: Any) -> Any:
        return jax.tree.map(lambda leaf, on: leaf if on else None, tree, mask)

    params, batch_stats = moves["params"], moves["batch_stats"]
    changing = state._replace(
        params=moving(state.params, params),
        batch_stats=moving(state.batch_stats, batch_stats),
        average=moving(state.average, moves),
    )
    return changing, moving(best, moves)


def _by_dtype(leaves: list[Any]) -> dict[str, list[Any]]:
    names = sorted({leaf.dtype.name for leaf in leaves})
    return {name: [leaf for leaf in leaves if leaf.dtype.name == name] for name in names}


def _layout(state: TrainState, moves: Variables) -> str:
    """SHA-256 of the structure, and of the values of what does not change."""
    shapes, _ = jax.tree.flatten_with_path(_changing(state, state.average, moves))
    text = "".join(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}\n" for path, leaf in shapes)
    digest = hashlib.sha256(text.encode())
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    for leaf in jax.tree.leaves(jax.tree.map(lambda leaf, on: None if on else leaf, variables, moves)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _is_ours(folder: Path) -> bool:
    return (folder / _LAYOUT).is_dir()


def _remove_unfinished(directory: Path) -> None:
    """Remove what an interrupted save has left."""
    for folder in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(folder, ignore_errors=True)
