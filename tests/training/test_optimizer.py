import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxage.config import TrainConfig
from jaxage.training.freeze import FreezePlan, label_tree, parse_trainable
from jaxage.training.optimizer import make_optimizer, make_schedule
from jaxage.utils.trees import flatten

PARAMS = {
    "fc": {"kernel": jnp.full((2, 3), 2.0), "bias": jnp.full((3,), 2.0)},
    "layer4": {"kernel": jnp.full((4,), 2.0).reshape(2, 2)},
    "conv1": {"kernel": jnp.full((5, 1), 2.0)},
}


def plan(trainable: str) -> FreezePlan:
    groups = parse_trainable(trainable, PARAMS)
    return FreezePlan(groups, label_tree(PARAMS, groups), frozenset(), "conv1", False)


def update(trainable: str, gradient: float = 1.0, **fields: float) -> dict[str, np.ndarray]:
    config = TrainConfig(trainable=trainable, warmup=0.0, learning_rate=0.1, **fields)  # type: ignore[arg-type]
    optimizer = make_optimizer(config, plan(trainable), total_steps=10)
    gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), PARAMS)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    return {name: np.asarray(leaf) for name, leaf in flatten(updates).items()}


def test_frozen_leaves_get_no_update_and_no_moments() -> None:
    config = TrainConfig(trainable="fc")
    optimizer = make_optimizer(config, plan("fc"), total_steps=10)
    moments = [leaf for leaf in jax.tree.leaves(optimizer.init(PARAMS)) if leaf.ndim > 0]
    assert sorted(leaf.shape for leaf in moments) == [(2, 3), (2, 3), (3,), (3,)]
    updates = update("fc")
    assert (updates["conv1.kernel"] == 0).all()
    assert (updates["layer4.kernel"] == 0).all()
    assert (updates["fc.kernel"] != 0).all()


@pytest.mark.parametrize(("warmup", "steps"), [(0.99, 10), (0.5, 1), (0.0, 1), (0.05, 100)])
def test_any_warm_up_leaves_a_step_to_come_down(warmup: float, steps: int) -> None:
    schedule = make_schedule(TrainConfig(warmup=warmup, learning_rate=0.1), steps)
    assert max(float(schedule(step)) for step in range(steps)) > 0
    assert float(schedule(steps)) == pytest.approx(0, abs=1e-8)


def test_a_multiplier_scales_the_rate() -> None:
    updates = update("fc,layer4:0.1", weight_decay=0.0)
    np.testing.assert_allclose(updates["layer4.kernel"], 0.1 * updates["fc.kernel"][0, 0], rtol=1e-6)


def test_kernels_decay_and_biases_do_not() -> None:
    with_decay, without = update("fc", weight_decay=0.05), update("fc", weight_decay=0.0)
    np.testing.assert_allclose(with_decay["fc.kernel"], without["fc.kernel"] - 0.1 * 0.05 * 2.0, rtol=1e-5)
    np.testing.assert_array_equal(with_decay["fc.bias"], without["fc.bias"])


def test_the_clip_sees_only_what_learns() -> None:
    """With 9 learning entries of gradient 1 the norm is 3; Adam's first step hides the scale, its moments do not."""
    config = TrainConfig(trainable="fc", clip=1.5)
    optimizer = make_optimizer(config, plan("fc"), total_steps=10)
    gradients = jax.tree.map(jnp.ones_like, PARAMS) | {"conv1": {"kernel": jnp.full((5, 1), 1e6)}}
    _, state = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    first = optax.tree_utils.tree_get(state, "mu")["fc"]["bias"]
    np.testing.assert_allclose(first, (1 - 0.9) * 1.5 / 3, rtol=1e-5)


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (5, 0.5), (10, 1.0), (55, 0.5), (100, 0.0)])
def test_schedule(step: int, share: float) -> None:
    schedule = make_schedule(TrainConfig(warmup=0.1, learning_rate=0.2), 100)
    assert float(schedule(step)) == pytest.approx(0.2 * share, abs=1e-6)


def test_what_begins_later_warms_up_then_and_follows_the_same_cosine() -> None:
    config = TrainConfig(warmup=0.1, learning_rate=0.1)
    base, later = make_schedule(config, 100), make_schedule(config, 100, first=50)
    assert float(later(0)) == pytest.approx(float(base(50)) / 11)
    for step in (10, 30, 50):
        assert float(later(step)) == pytest.approx(float(base(50 + step)))
