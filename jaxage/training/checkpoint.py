"""Checkpoints: the only file that knows Orbax. A step that was not committed whole is never read."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from jax.sharding import Sharding

from jaxage.training.state import TrainState
from jaxage.types import Variables
from jaxage.utils.files import require_space

_OVERHEAD_BYTES = 2**20


class Checkpoint(NamedTuple):
    """state: of training. best: the variables with the best validation so far. progress: JSON values."""

    state: TrainState
    best: Variables
    progress: dict[str, Any]


def open_checkpoints(directory: Path) -> ocp.CheckpointManager:
    """The checkpoints in `directory`, created if need be; the newest two are kept."""
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    _remove_unfinished(directory)
    return ocp.CheckpointManager(directory.resolve(), options=options)


def save(manager: ocp.CheckpointManager, checkpoint: Checkpoint) -> None:
    """Write the checkpoint under its step, atomically: Orbax renames a finished folder into place.

    Raises:
        OSError: if the disk or a quota has no room for it; nothing of it stays.
    """
    folder = Path(manager.directory)
    arrays = jax.tree.leaves((checkpoint.state, checkpoint.best))
    require_space(folder, sum(leaf.nbytes for leaf in arrays) + _OVERHEAD_BYTES)  # Orbax would fail at length
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(checkpoint.state),
        best=ocp.args.StandardSave(checkpoint.best),
        progress=ocp.args.JsonSave(checkpoint.progress),
    )
    try:
        manager.save(int(checkpoint.state.step), args=items, force=True)
        manager.wait_until_finished()
    except BaseException:
        _remove_unfinished(folder)
        raise


def _remove_unfinished(directory: Path) -> None:
    """Remove what an interrupted save has left."""
    for folder in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(folder, ignore_errors=True)


def restore_latest(manager: ocp.CheckpointManager, like: TrainState, sharding: Sharding) -> Checkpoint | None:
    """The newest committed checkpoint, laid out as `sharding`, or None; `like` gives structure, shapes and dtypes."""
    step = manager.latest_step()
    if step is None:
        return None

    def abstract(tree: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    items = ocp.args.Composite(
        state=ocp.args.StandardRestore(abstract(like)),
        best=ocp.args.StandardRestore(abstract(like.average)),
        progress=ocp.args.JsonRestore(),
    )
    restored = manager.restore(step, args=items)
    return Checkpoint(restored["state"], restored["best"], restored["progress"])
