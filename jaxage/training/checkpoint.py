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
from jax.sharding import Mesh

from jaxage.training.run_folder import RunError
from jaxage.training.state import TrainState
from jaxage.types import Variables
from jaxage.utils import cluster
from jaxage.utils.files import require_space
from jaxage.utils.sharding import replicate

_OVERHEAD_BYTES = 2**20
_ARRAYS, _PROGRESS, _LAYOUT = "arrays", "progress", "layout"


class Checkpoint(NamedTuple):
    """state: of training. best: the variables with the best validation so far. progress: JSON values."""

    state: TrainState
    best: Variables
    progress: dict[str, Any]


class Layout(NamedTuple):
    """What the checkpoints of a run hold, computed once by `make_layout`.

    moves: a tree of booleans like the variables: which of them change in the run. sha256: of the structure of what
    changes, and of the values of what does not.
    """

    moves: Variables
    sha256: str


def make_layout(first: TrainState, moves: Variables) -> Layout:
    """The layout of a run that starts with the state `first`."""
    leaves, _ = jax.tree.flatten_with_path(_changing(first, first.average, moves))
    text = "".join(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}\n" for path, leaf in leaves)
    digest = hashlib.sha256(text.encode())
    variables = {"params": first.params, "batch_stats": first.batch_stats}
    for leaf in jax.tree.leaves(jax.tree.map(lambda leaf, on: None if on else leaf, variables, moves)):
        digest.update(np.asarray(leaf).tobytes())
    return Layout(moves, digest.hexdigest())


def open_checkpoints(directory: Path) -> ocp.CheckpointManager:
    """The checkpoints in `directory`, created if need be; the newest two are kept."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    cluster.first(lambda: _remove_unfinished(directory))
    handlers = {
        _ARRAYS: ocp.PyTreeCheckpointHandler(use_zarr3=True, use_compression=False),
        _PROGRESS: ocp.JsonCheckpointHandler(),
        _LAYOUT: ocp.JsonCheckpointHandler(),
    }
    return ocp.CheckpointManager(
        directory.resolve(), options=options, item_names=tuple(handlers), item_handlers=handlers
    )


def save(manager: ocp.CheckpointManager, checkpoint: Checkpoint, layout: Layout) -> None:
    """Write the checkpoint under its step, atomically: Orbax renames a finished folder into place.

    Args:
        manager: Of `open_checkpoints`.
        checkpoint: What is saved.
        layout: Of the run.

    Raises:
        OSError: if the disk or a quota has no room for it; nothing of it stays.
    """
    folder, step = Path(manager.directory), int(checkpoint.state.step)
    leaves = jax.device_get(jax.tree.leaves(_changing(checkpoint.state, checkpoint.best, layout.moves)))
    arrays = {name: np.concatenate([leaf.ravel() for leaf in part]) for name, part in _by_dtype(leaves).items()}
    size = sum(array.nbytes for array in arrays.values())
    cluster.first(lambda: require_space(folder, size + _OVERHEAD_BYTES))  # Orbax would fail at length
    items = ocp.args.Composite(
        arrays=ocp.args.PyTreeSave(arrays),
        progress=ocp.args.JsonSave(checkpoint.progress),
        layout=ocp.args.JsonSave({"sha256": layout.sha256}),
    )
    try:
        manager.save(step, args=items, force=True)
        manager.wait_until_finished()
    except BaseException:
        _remove_unfinished(folder)
        raise


def restore_latest(manager: ocp.CheckpointManager, first: TrainState, layout: Layout, mesh: Mesh) -> Checkpoint | None:
    """The newest committed checkpoint, or None.

    Args:
        manager: Of `open_checkpoints`.
        first: The state before the first step: it has the structure, and the values of what does not change. It is
            part of the result.
        layout: Of the run.
        mesh: The devices; each has all of it.

    Raises:
        RunError: if it was written by an earlier version of jaxage or by other libraries, or for other frozen layers.
    """
    step = manager.latest_step()
    if step is None:
        return None
    folder = Path(manager.directory) / str(step)
    if _sha256_of(manager, step) != layout.sha256:
        raise RunError(
            f"{folder} was written by another version of jaxage or of its libraries, or for other weights: finish the "
            "run with those it was started with, or start anew with another --out"
        )
    leaves, tree = jax.tree.flatten(_changing(first, first.average, layout.moves))
    parts = _by_dtype(leaves)
    restore_args = dict.fromkeys(parts, ocp.RestoreArgs(restore_type=np.ndarray))
    items = ocp.args.Composite(
        arrays=ocp.args.PyTreeRestore(restore_args=restore_args), progress=ocp.args.JsonRestore()
    )
    restored = manager.restore(step, args=items)
    ends = dict.fromkeys(parts, 0)
    found = []
    for leaf in leaves:
        name = leaf.dtype.name
        start, ends[name] = ends[name], ends[name] + leaf.size
        found.append(replicate(restored[_ARRAYS][name][start : ends[name]].reshape(leaf.shape), mesh))
    changed, best = jax.tree.unflatten(tree, found)

    def whole(part: Any, before: Any) -> Any:
        return jax.tree.map(lambda new, old: old if new is None else new, part, before, is_leaf=lambda x: x is None)

    state = changed._replace(
        params=whole(changed.params, first.params),
        batch_stats=whole(changed.batch_stats, first.batch_stats),
        average=whole(changed.average, first.average),
    )
    kept = jax.tree.map(  # copies: the state is donated to the next step
        lambda leaf, on: None if on else leaf.copy(), first.average, layout.moves
    )
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


def _sha256_of(manager: ocp.CheckpointManager, step: int) -> str | None:
    """The layout that a checkpoint has; None if it was written by a version of jaxage that had none."""
    if not (Path(manager.directory) / str(step) / _LAYOUT).is_dir():
        return None
    found: str = manager.restore(step, args=ocp.args.Composite(layout=ocp.args.JsonRestore()))[_LAYOUT]["sha256"]
    return found


def _remove_unfinished(directory: Path) -> None:
    """Remove what an interrupted save has left."""
    for folder in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(folder, ignore_errors=True)
