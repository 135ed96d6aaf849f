from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from jaxage.training.checkpoint import Checkpoint, make_layout, open_checkpoints, restore_latest, save
from jaxage.training.run_folder import RunError
from jaxage.training.state import TrainState, init_state
from jaxage.utils.sharding import make_mesh, replicate, replicated
from tests.tiny import tiny_model

MESH = make_mesh(jax.devices()[:2])
MOVES = {
    "params": {
        "conv1": {"kernel": False},
        "bn1": {"scale": False, "bias": False},
        "layer4": {"kernel": True},
        "bn4": {"scale": True, "bias": True},
        "fc": {"kernel": True, "bias": True},
    },
    "batch_stats": {"bn1": {"mean": False, "var": False}, "bn4": {"mean": True, "var": True}},
}
PROGRESS = {"history": [{"epoch": 1, "validation": {"mae": 1.5, "plcc": None}}], "best_epoch": 1}


def state_at(step: int, frozen: int = 0) -> TrainState:
    """What changes is drawn by the step, what does not by `frozen`."""
    first, now = (tiny_model().init(jax.random.key(seed)) for seed in (frozen, step))
    variables = jax.tree.map(lambda a, b, moves: b if moves else a, first, now, MOVES)
    return replicate(init_state(variables, optax.adamw(1e-3))._replace(step=jnp.int32(step)), MESH)


LAYOUT = make_layout(state_at(0), MOVES)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = state_at(7)
    with open_checkpoints(tmp_path) as manager:
        save(manager, Checkpoint(state, state_at(3).average, PROGRESS), make_layout(state, MOVES))
    with open_checkpoints(tmp_path) as manager:
        restored = restore_latest(manager, state_at(0), LAYOUT, MESH)
    assert restored is not None
    assert restored.progress == PROGRESS
    assert isinstance(restored.state, TrainState)
    jax.tree.map(np.testing.assert_array_equal, restored.state, state)
    jax.tree.map(np.testing.assert_array_equal, restored.best, state_at(3).average)
    assert all(leaf.sharding == replicated(MESH) for leaf in jax.tree.leaves(restored.state))


def test_what_does_not_change_is_not_written(tmp_path: Path) -> None:
    state, everything = state_at(7), jax.tree.map(lambda _: True, MOVES)
    sizes = []
    for name, moves in (("some", MOVES), ("all", everything)):
        with open_checkpoints(tmp_path / name) as manager:
            save(manager, Checkpoint(state, state.average, {}), make_layout(state, moves))
            written = manager.restore(7, args=ocp.args.Composite(arrays=ocp.args.PyTreeRestore()))
        sizes.append(sum(array.nbytes for array in jax.tree.leaves(written["arrays"])))
    left_out = sum(
        leaf.nbytes for leaf, on in zip(*map(jax.tree.leaves, (state.average, MOVES)), strict=True) if not on
    )
    assert sizes[1] - sizes[0] == 3 * left_out  # of the weights, their average and the best


@pytest.mark.parametrize("change", ["weights", "structure", "earlier"])
def test_a_checkpoint_of_something_else_is_refused(tmp_path: Path, change: str) -> None:
    with open_checkpoints(tmp_path) as manager:
        save(manager, Checkpoint(state_at(7), state_at(3).average, {}), LAYOUT)
    like = state_at(0, frozen=int(change == "weights"))
    if change == "structure":
        like = like._replace(opt_state=optax.sgd(0.1, momentum=0.9).init(like.params))
    if change == "earlier":
        (tmp_path / "7" / "layout").rename(tmp_path / "7" / "best")
    with open_checkpoints(tmp_path) as manager, pytest.raises(RunError, match="7 was written by another version"):
        restore_latest(manager, like, make_layout(like, MOVES), MESH)


def test_nothing_saved_nothing_restored(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "new") as manager:
        assert restore_latest(manager, state_at(0), LAYOUT, MESH) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as manager:
        for step in (1, 2, 3):
            save(manager, Checkpoint(state_at(step), state_at(0).average, {}), LAYOUT)
        assert sorted(manager.all_steps()) == [2, 3]


@pytest.mark.parametrize("name", ["9.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp-1700000000"])
def test_a_step_that_was_not_committed_is_not_read(tmp_path: Path, name: str) -> None:
    with open_checkpoints(tmp_path) as manager:
        save(manager, Checkpoint(state_at(4), state_at(0).average, {}), LAYOUT)
    (tmp_path / "4").rename(tmp_path / "kept")
    half = tmp_path / name
    (tmp_path / "kept").rename(half)
    (half / "commit_success.txt").unlink(missing_ok=True)
    with open_checkpoints(tmp_path) as manager:
        assert restore_latest(manager, state_at(0), LAYOUT, MESH) is None
