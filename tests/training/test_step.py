from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from jaxage.config import TrainConfig
from jaxage.data.sampler import EpochBatches
from jaxage.losses import make_objective
from jaxage.training.freeze import make_freeze_plan, parse_trainable
from jaxage.training.inputs import from_images
from jaxage.training.optimizer import make_optimizer
from jaxage.training.state import TrainState, init_state, start_epoch
from jaxage.training.step import StepOptions, TrainStep, make_predict_step, make_train_step, move_average
from jaxage.types import Variables
from jaxage.utils.sharding import make_mesh, replicate
from jaxage.utils.trees import flatten
from tests.tiny import tiny_model

CHANNELS = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
OBJECTIVE = make_objective("l1", 40.0, 20.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=np.uint8)
AGES = np.random.default_rng(1).uniform(0, 100, 24).astype(np.float32)
ROWS = np.arange(8, dtype=np.int32)
ONES = np.ones(8, np.float32)


class Setup(NamedTuple):
    state: TrainState
    step: TrainStep
    variables: Variables
    train_bn: frozenset[str]


def setup(trainable: str, mesh: Mesh, use_augment: bool = True, frozen_bn: Any = "eval", count: int = 1) -> Setup:
    model = tiny_model()
    variables = jax.tree.map(np.array, model.init(jax.random.key(0)))
    variables["params"]["conv1"]["kernel"].flat[:5] = -0.0
    config = TrainConfig(trainable=trainable, warmup=0.0, learning_rate=1e-3)
    plan = make_freeze_plan(model, variables, parse_trainable(trainable, variables["params"]), frozen_bn)
    optimizer = make_optimizer(config, plan, total_steps=10)
    input_fn = from_images(model, CHANNELS, start=plan.first_block, use_augment=use_augment)
    step = make_train_step(model, OBJECTIVE, optimizer, plan, input_fn, StepOptions(mesh, 0, 0.9, count))
    return Setup(replicate(init_state(variables, optimizer), mesh), step, variables, plan.train_bn)


def order(weights: np.ndarray = ONES) -> EpochBatches:
    """Three batches of 8."""
    rows = np.arange(24, dtype=np.int32).reshape(3, 8)
    return EpochBatches(rows, rows, np.tile(weights, (3, 1)))


def run(s: Setup, steps: int = 3, weights: np.ndarray = ONES, images: np.ndarray = IMAGES) -> TrainState:
    state = s.state
    for _ in range(steps):
        state, bad = s.step(state, images, AGES, order(weights))
        assert int(bad) == int(state.bad_step)
    return state


def bits(tree: Any) -> dict[str, bytes]:
    return {name: np.asarray(leaf).tobytes() for name, leaf in flatten(tree).items()}


@pytest.fixture(scope="module")
def one() -> Mesh:
    return make_mesh(jax.devices()[:1])


@pytest.fixture(scope="module")
def upper_half(one: Mesh) -> tuple[Setup, TrainState]:
    s = setup("fc,layer4,bn4", one)
    return s, run(s)


def test_frozen_leaves_are_bit_identical_and_the_others_move(upper_half: tuple[Setup, TrainState]) -> None:
    s, state = upper_half
    before = bits(s.variables["params"])
    for params in (state.params, state.average["params"]):
        moved = {name for name, leaf in bits(params).items() if leaf != before[name]}
        assert moved == {name for name in before if name.startswith(("fc.", "layer4.", "bn4."))}


def test_frozen_statistics_are_bit_identical_and_live_ones_move(upper_half: tuple[Setup, TrainState]) -> None:
    s, state = upper_half
    before = bits(s.variables["batch_stats"])
    for stats in (state.batch_stats, state.average["batch_stats"]):
        moved = {name.rsplit(".", 1)[0] for name, leaf in bits(stats).items() if leaf != before[name]}
        assert moved == s.train_bn == {"bn4"}


def test_frozen_batch_norm_in_train_mode_drifts_as_in_torch(one: Mesh) -> None:
    s = setup("fc", one, frozen_bn="train")
    state = run(s, steps=1)
    before, after = bits(s.variables["batch_stats"]), bits(state.batch_stats)
    assert all(before[name] != after[name] for name in before)
    params, trained = bits(s.variables["params"]), bits(state.params)
    assert {name for name in params if params[name] != trained[name]} == {"fc.kernel", "fc.bias"}


def test_the_state_counts_steps_and_sums_the_loss(upper_half: tuple[Setup, TrainState]) -> None:
    _, state = upper_half
    assert int(state.step) == 3
    assert float(state.loss_weight) == 24
    assert 0 < float(state.loss_sum / state.loss_weight) < 10
    assert int(state.bad_step) == -1
    fresh = start_epoch(state)
    assert float(fresh.loss_sum) == float(fresh.loss_weight) == 0
    assert int(fresh.step) == 3


def test_two_devices_agree_with_one(one: Mesh, upper_half: tuple[Setup, TrainState]) -> None:
    two = make_mesh(jax.devices()[:2])
    assert two.size == 2
    state = run(setup("fc,layer4,bn4", two))
    np.testing.assert_allclose(state.loss_sum, upper_half[1].loss_sum, rtol=1e-5)
    for one_device, both in ((upper_half[1].batch_stats, state.batch_stats), (upper_half[1].params, state.params)):
        for name, leaf in flatten(one_device).items():
            np.testing.assert_allclose(flatten(both)[name], leaf, rtol=1e-3, atol=1e-4, err_msg=name)


def test_rows_of_weight_zero_change_the_loss_by_nothing(one: Mesh) -> None:
    s = setup("fc", one, use_augment=False)
    weights = np.float32([1, 1, 1, 1, 1, 0, 0, 0])
    padded = run(s, steps=1, weights=weights)
    s = setup("fc", one, use_augment=False)
    other = IMAGES.copy()
    other[5:8] = 255
    changed = run(s, steps=1, weights=weights, images=other)
    assert float(padded.loss_weight) == 5
    assert bits(padded.params) == bits(changed.params)


def test_the_first_bad_step_is_kept(one: Mesh) -> None:
    s = setup("fc", one, use_augment=False)
    state, bad = s.step(s.state, IMAGES, AGES, order())
    assert int(bad) == -1
    broken = AGES.copy()
    broken[11] = np.nan
    for _ in range(2):
        state, bad = s.step(state, IMAGES, broken, order())
        assert int(bad) == 1
    assert int(state.bad_step) == 1


def test_the_random_key_follows_the_step(one: Mesh) -> None:
    """Two runs agree to the bit, and two steps on the same rows do not see the same augmentation."""
    assert bits(run(setup("fc", one)).params) == bits(run(setup("fc", one)).params)
    s = setup("fc", one)
    same = EpochBatches(*(np.tile(part[:1], (3, 1)) for part in order()))
    first, _ = s.step(s.state, IMAGES, AGES, same)
    loss = float(first.loss_sum)
    frozen_head = first._replace(params=replicate(s.variables["params"], one), loss_sum=jnp.float32(0))
    assert float(s.step(frozen_head, IMAGES, AGES, same)[0].loss_sum) != loss


def test_several_steps_in_one_dispatch_are_the_same_steps(one: Mesh, upper_half: tuple[Setup, TrainState]) -> None:
    """`lax.scan`, as on a GPU, and the plain loop, as on a CPU."""
    s = setup("fc,layer4,bn4", one, count=3)
    state, bad = s.step(s.state, IMAGES, AGES, order())
    assert (int(state.step), int(bad)) == (3, -1)
    for name in ("params", "batch_stats", "average", "loss_sum"):
        looped, scanned = getattr(upper_half[1], name), getattr(state, name)
        for a, b in zip(jax.tree.leaves(looped), jax.tree.leaves(scanned), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-6, err_msg=name)
    broken = np.where(np.arange(24) == 11, np.nan, AGES).astype(np.float32)
    s = setup("fc,layer4,bn4", one, count=3)
    assert int(s.step(s.state, IMAGES, broken, order())[1]) == 1


def tree(a: float) -> Variables:
    return {"p": {"a": jnp.float32(a), "b": jnp.float32(0.1)}}


def test_average_warms_up_and_leaves_alone_what_does_not_move() -> None:
    average, new, moves = tree(1.0), tree(2.0), {"p": {"a": True, "b": False}}
    odd = np.float32([0.1, -0.0, 1e-40, -3e-45, np.inf])
    average["p"]["b"] = jnp.asarray(odd)
    moved = move_average(average, new, moves, jnp.int32(0), 0.999)
    np.testing.assert_allclose(moved["p"]["a"], 1.0 + 0.9)
    assert np.asarray(moved["p"]["b"]).tobytes() == odd.tobytes()
    late = move_average(average, new, moves, jnp.int32(10**6), 0.999)
    np.testing.assert_allclose(late["p"]["a"], 1.001, rtol=1e-6)
    off = move_average(average, new, moves, jnp.int32(5), 0.0)
    assert float(off["p"]["a"]) == 2.0


def test_prediction_is_the_network_on_the_chosen_rows(one: Mesh) -> None:
    model = tiny_model()
    variables = model.init(jax.random.key(0))
    predict = make_predict_step(model, OBJECTIVE, from_images(model, CHANNELS), one)
    rows = np.int32([3, 1, 1, 20])
    images = (IMAGES[rows].astype(np.float32) / 255 - 0.5) / 0.25
    expected = OBJECTIVE.predict(model.apply(variables, jnp.asarray(images)).logits)
    np.testing.assert_allclose(predict(variables, IMAGES, rows[:, None]).age, expected, rtol=1e-4)
    mirrors = OBJECTIVE.predict(model.apply(variables, jnp.asarray(images[:, :, ::-1])).logits)
    both = predict(variables, IMAGES, np.stack([rows, rows], 1)).age
    np.testing.assert_allclose(both, (expected + mirrors) / 2, rtol=1e-4)
