from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxage.training.checkpoint import Checkpoint, open_checkpoints, restore_latest, save
from jaxage.training.state import TrainState, init_state
from jaxage.utils.sharding import make_mesh, replicate, replicated
from tests.tiny import tiny_model

MESH = make_mesh(jax.devices()[:2])
PROGRESS = {"history": [{"epoch": 1, "validation": {"mae": 1.5, "plcc": None}}], "best_epoch": 1}


def state_at(step: int) -> TrainState:
    variables = tiny_model().init(jax.random.key(step))
    return replicate(init_state(variables, optax.adamw(1e-3))._replace(step=jnp.int32(step)), MESH)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = state_at(7)
    with open_checkpoints(tmp_path) as manager:
        save(manager, Checkpoint(state, state_at(3).average, PROGRESS))
    with open_checkpoints(tmp_path) as manager:
        restored = restore_latest(manager, state_at(0), replicated(MESH))
    assert restored is not None
    assert restored.progress == PROGRESS
    assert isinstance(restored.state, TrainState)
    jax.tree.map(np.testing.assert_array_equal, restored.state, state)
    jax.tree.map(np.testing.assert_array_equal, restored.best, state_at(3).average)
    assert all(leaf.sharding == replicated(MESH) for leaf in jax.tree.leaves(restored.state))


def test_nothing_saved_nothing_restored(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path / "new") as manager:
        assert restore_latest(manager, state_at(0), replicated(MESH)) is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    with open_checkpoints(tmp_path) as manager:
        for step in (1, 2, 3):
            save(manager, Checkpoint(state_at(step), state_at(0).average, {}))
        assert sorted(manager.all_steps()) == [2, 3]


@pytest.mark.parametrize("name", ["9.orbax-checkpoint-tmp", "9.orbax-checkpoint-tmp-1700000000"])
def test_a_step_that_was_not_committed_is_not_read(tmp_path: Path, name: str) -> None:
    with open_checkpoints(tmp_path) as manager:
        save(manager, Checkpoint(state_at(4), state_at(0).average, {}))
    (tmp_path / "4").rename(tmp_path / "kept")
    half = tmp_path / name
    (tmp_path / "kept").rename(half)
    (half / "commit_success.txt").unlink(missing_ok=True)
    with open_checkpoints(tmp_path) as manager:
        assert restore_latest(manager, state_at(0), replicated(MESH)) is None
